"""What is wrong or unusual in a data set: each kind with its count and first examples; faults are fatal, notes not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.errors import InputError
from dynamicdet.text import counted, printable

EXAMPLES = 3
_LONGEST = 300

FAULTS: Mapping[str, str] = {
    "field": "entries without a field that is needed",
    "mixed": "lists in which ids are numbers and text",
    "id": "ids that are not whole numbers, or too large",
    "duplicate": "ids that occur twice",
    "name": "class names that cannot be used",
    "same name": "class names that occur twice",
    "many classes": "more classes than are accepted",
    "path": "file names that leave the image folder or cannot be printed",
    "missing": "images that do not exist",
    "same file": "files that belong to two images",
    "size": "sizes that are not whole numbers above 0",
    "image": "objects of unknown images",
    "category": "objects of unknown categories",
    "box": "boxes that are not four numbers of an accepted size",
    "crowd": "crowd flags that are not 0 or 1",
    "shares": "boxes in shares of the picture instead of pixels",
    "corners": "boxes with two corners instead of x, y, width, height",
    "nothing": "data sets without usable objects",
    "unreadable": "image files that cannot be read",
    "no picture": "files that are no pictures",
    "damaged": "pictures that are damaged or cut off",
    "large": "pictures with too many pixels",
    "turned": "pictures that EXIF turns after they were annotated",
    "swapped": "pictures whose width and height are swapped",
    "resized": "pictures that were resized after they were annotated",
    "stretched": "pictures of another shape than annotated",
    "no mask": "objects without a segmentation",
    "segmentation": "segmentations that are neither polygons nor run-length codes",
    "rle": "run-length codes that cannot be decoded",
    "mask size": "masks of another size than their image, or too large",
    "mask place": "masks outside their boxes or without a pixel",
}
"""kinds that make a data set unusable, the most important first; those of the pictures and of the masks come last"""

NOTES: Mapping[str, str] = {
    "negatives": "images without objects, used as negatives",
    "crowds": "crowd regions, ignored in training",
    "cut": "boxes that exceed their image, clipped to it",
    "empty": "boxes without area inside their image, dropped",
    "repeated": "objects that repeat another one exactly, all used",
    "unused": "classes without objects",
    "root": "root category of a Roboflow export, left out",
    "text id": "ids that are text, read as numbers",
    "named id": "ids that are text, numbered in their order",
    "float id": "ids with a decimal point, read as whole numbers",
    "text size": "sizes that are text, read as numbers",
    "no size": "images without width or height; the size of the picture is used",
    "area": "areas that are not numbers, computed from the boxes",
    "crowd flag": "crowd flags that are text, read as numbers",
    "mirrored": "pictures that EXIF turns or mirrors without changing their shape: look whether their boxes fit",
    "trusted": "pictures whose boxes were scaled or turned to fit",
    "few points": "objects with polygons of less than three points, which have no area",
    "crowd box": "crowd regions without a segmentation, taken as their box",
    "no pixels": "masks without a pixel in their image; the box stands for them in training",
    "mask apart": "masks outside their box, used as they are",
    "masks": "segmentations that cannot be used; detectors without masks do not need them",
    "unchecked": "segmentations, not checked because pycocotools is not installed here",
}
"""kinds that dyndet handles and counts"""

_OF_ALL = ("shares", "corners", "nothing", "many classes", "mask place")
"""kinds whose example speaks of all objects or classes, so that a number of others would be wrong"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault or note: its words, its count, and the first examples."""

    kind: str
    what: str
    fatal: bool
    count: int
    examples: tuple[str, ...]


class Findings:
    """Collects faults and notes by kind."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}
        self._ways_out: dict[str, str] = {}

    def add(self, kind: str, example: str, *, count: int = 1, way_out: str = "") -> None:
        """Count a fault or note; `way_out` is what to do about it: an error names that of the first one."""
        self._counts[kind] += count
        examples = self._examples.setdefault(kind, [])
        if example and len(examples) < EXAMPLES:
            examples.append(printable(example, limit=_LONGEST))
        if way_out:
            self._ways_out.setdefault(kind, printable(way_out))

    def clear(self, *kinds: str) -> None:
        """Forget kinds that are counted again."""
        for kind in kinds:
            self._counts.pop(kind, None)
            self._examples.pop(kind, None)
            self._ways_out.pop(kind, None)

    def absorb(self, other: Findings, *, faults_as: str = "") -> None:
        """Add what another one has; its faults count as this kind of note, if one is given."""
        for found in other.all():
            kind = faults_as if found.fatal and faults_as else found.kind
            self._counts[kind] += found.count
            examples = self._examples.setdefault(kind, [])
            examples += found.examples[: EXAMPLES - len(examples)]
            if found.kind in other._ways_out:
                self._ways_out.setdefault(kind, other._ways_out[found.kind])

    def all(self) -> tuple[Finding, ...]:
        """All kinds that were found: the faults, the most important first, then the notes."""
        return tuple(
            Finding(
                kind=kind,
                what=what,
                fatal=kinds is FAULTS,
                count=self._counts[kind],
                examples=tuple(self._examples.get(kind, ())),
            )
            for kinds in (FAULTS, NOTES)
            for kind, what in kinds.items()
            if self._counts[kind]
        )

    def faulty(self) -> bool:
        """Whether something fatal was found."""
        return any(self._counts[kind] for kind in FAULTS)

    def error(self, file: Path) -> InputError | None:
        """One sentence with the most important fault; None if there is none."""
        faults = [finding for finding in self.all() if finding.fatal]
        if not faults:
            return None
        first, others = faults[0], len(faults) - 1
        sentence = f"{printable(file)} cannot be used: {first.examples[0]}"
        if first.count > 1 and first.kind not in _OF_ALL:
            times = "once more" if first.count == 2 else f"{first.count - 1:,} more times"
            sentence += f"; the same fault occurs {times}"
        if first.kind in self._ways_out:
            sentence += f"; {self._ways_out[first.kind]}"
        if others:
            more = "another kind of fault" if others == 1 else f"{others} other kinds of faults"
            sentence += f"; `dyndet data check` also lists {more}"
        return InputError(sentence)

    def raise_any(self, file: Path) -> None:
        """Raise InputError if something fatal was found."""
        error = self.error(file)
        if error is not None:
            raise error


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """The content of a data set, and what is unusual in it but not fatal."""

    images: int
    objects: int
    """boxes that are used in training"""
    classes: int
    notes: tuple[Finding, ...]
    masks: int = 0
    """objects whose masks can be used; 0 if masks were not asked for"""

    def count(self, kind: str) -> int:
        """How often a kind of note (see `NOTES`) occurs."""
        return sum(note.count for note in self.notes if note.kind == kind)

    def sentences(self) -> list[str]:
        """One line for the content, and one per kind of note."""
        images, objects = counted(self.images, "image", "images"), counted(self.objects, "object", "objects")
        content = f"{images}, {objects} of {counted(self.classes, 'class', 'classes')}"
        if self.masks:
            content += f", {counted(self.masks, 'mask', 'masks')}"
        return [content, *map(sentence_of, self.notes)]


def sentence_of(note: Finding) -> str:
    """A note as a line, with its first examples."""
    examples = f" ({', '.join(note.examples)}{', ...' if note.count > len(note.examples) else ''})"
    return f"{note.what}: {note.count:,}{examples if note.examples else ''}"
