"""What is in the pictures, for measuring a pair: labels, or what the large detector says where there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.dataset import as_coco, read_files
from dynamicdet.datasets.layout import Split
from dynamicdet.errors import InputError
from dynamicdet.evaluation.precision import MixedPrecision
from dynamicdet.suppression import Detections
from dynamicdet.text import printable
from dyndet_builder.pairing.answers import Answers

TEACHER_SCORE = 0.5
"""least score at which an object of the large detector stands for a label"""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Objects of N pictures, in the order of the pictures' `Answers`; it can be given to `MixedPrecision`."""

    folder: Path
    """of the annotations, for messages"""
    paths: tuple[Path, ...]
    """of the picture files"""
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    """of each class, in the order of the detectors' common class list"""
    class_names: tuple[str, ...]
    annotations: Mapping[str, Any]
    """images, objects and categories in COCO's form, boxes in pixels of the original pictures"""
    by_labels: bool
    """False: the large detector's objects stand for labels"""
    left_out: tuple[str, ...] = ()
    """classes of the labels that the detectors do not know; their objects do not count"""

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def measure(self) -> str:
        """What a precision on this truth may be called: `AP`, or `agreement` with the large detector."""
        return "AP" if self.by_labels else "agreement"

    @classmethod
    def read(
        cls,
        source: Path | str,
        *,
        class_names: Sequence[str],
        images: Path | str | None = None,
        split: Split = "valid",
        trust_pictures: bool = False,
        progress: Progress = silent,
    ) -> Truth:
        """Read the labels of a COCO data set and the headers of its pictures, which are `paths` then.

        `class_names` is the detectors' common class list. Raises InputError for a data set that cannot be used, and for
        one without a class that the detectors know.
        """
        found = read_files(source, images=images, split=split, trust_pictures=trust_pictures, progress=progress)
        files = found.files
        ids = dict(zip(files.class_names, files.category_ids, strict=True))
        missing = [name for name in class_names if name not in ids]
        if missing:
            raise InputError(
                f"{printable(files.place.annotations)} has no class {printable(repr(missing[0]), limit=60)}, which the "
                f"detectors know ({len(missing)} of their {len(class_names)} classes are missing there)"
            )
        known = {ids[name] for name in class_names}
        coco = as_coco(files, found.table, found.frames)
        return cls(
            folder=files.place.annotations.parent,
            paths=tuple(files.paths),
            image_ids=files.image_ids,
            category_ids=tuple(ids[name] for name in class_names),
            class_names=tuple(class_names),
            annotations={
                "images": coco["images"],
                "annotations": [one for one in coco["annotations"] if one["category_id"] in known],
                "categories": [one for one in coco["categories"] if one["id"] in known],
            },
            by_labels=True,
            left_out=tuple(name for name in files.class_names if ids[name] not in known),
        )

    @classmethod
    def of_teacher(
        cls,
        large: Answers,
        *,
        class_names: Sequence[str],
        folder: Path | str,
        paths: Sequence[Path] = (),
        least_score: float = TEACHER_SCORE,
    ) -> Truth:
        """The large detector's objects above a score, where there are no labels.

        Raises InputError if it has none.
        """
        objects: list[dict[str, Any]] = []
        for row, (scores, classes) in enumerate(zip(large.scores, large.classes, strict=True)):
            sure = scores >= least_score
            for (left, top, right, bottom), label in zip(large.in_original(row)[sure], classes[sure], strict=True):
                box = [float(left), float(top), float(right - left), float(bottom - top)]
                entry = {"image_id": row + 1, "category_id": int(label) + 1, "bbox": box, "area": box[2] * box[3]}
                objects.append({**entry, "id": len(objects) + 1, "iscrowd": 0})
        if not objects:
            raise InputError(
                f"the large detector finds no object with a score of {least_score} or more in {printable(folder)} "
                f"({len(large)} pictures), so it cannot stand for labels"
            )
        images = [
            {"id": number, "file_name": str(number), "width": width, "height": height}
            for number, (width, height) in enumerate(large.sizes.tolist(), 1)
        ]
        return cls(
            folder=Path(folder),
            paths=tuple(paths),
            image_ids=tuple(range(1, len(large) + 1)),
            category_ids=tuple(range(1, len(class_names) + 1)),
            class_names=tuple(class_names),
            annotations={
                "images": images,
                "annotations": objects,
                "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, 1)],
            },
            by_labels=False,
        )


@dataclass(frozen=True)
class PairDetections:
    """Both detectors' answers as `MixedPrecision` reads them: boxes in pixels of the original pictures."""

    easy: tuple[Detections, ...]
    hard: tuple[Detections, ...]


def detections_of(answers: Answers) -> tuple[Detections, ...]:
    """Answers in pixels of the original pictures, as the functions of `dynamicdet.evaluation` read them."""
    return tuple(
        Detections(
            torch.from_numpy(answers.in_original(row)),
            torch.from_numpy(answers.scores[row]),
            torch.from_numpy(answers.classes[row]),
        )
        for row in range(len(answers))
    )


def mixed_precision(truth: Truth, small: Answers, large: Answers) -> MixedPrecision:
    """Average precision (or agreement) of every mix of two detectors; each picture is matched once per detector.

    Raises InputError if the answers and the truth are not of equally many pictures.
    """
    if not len(truth) == len(small) == len(large):
        raise InputError(
            f"the answers are of {len(small)} and {len(large)} pictures, but the labels are of {len(truth)} pictures"
        )
    return MixedPrecision(PairDetections(detections_of(small), detections_of(large)), truth)
