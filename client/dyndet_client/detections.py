"""The answer of a detector for one image."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from dynamicdet.aliases import BoolArray, UInt8Array
from dynamicdet.errors import InputError, MissingExtraError
from dynamicdet.extras import missing_extra
from dynamicdet.images import ImageSource
from dynamicdet.text import printable
from dyndet_client.drawing import draw_detections
from dyndet_client.results.exporting import coco_entries, segmentations
from dyndet_client.results.masks import Masks
from dyndet_client.results.rows import Rows, picked_rows
from dyndet_client.results.showing import Picture, html_table, number_text, object_text, png_bytes, text_lines, words

if TYPE_CHECKING:
    import pandas
    import supervision

Route: TypeAlias = Literal["easy", "hard", "fallback", "degraded"]
_ROUTES = get_args(Route)
_ARRAYS = ("boxes", "scores", "classes")
_FLOAT, _INT = np.dtype(np.float32), np.dtype(np.int32)


@dataclass(frozen=True, kw_only=True, repr=False)
class Detection:
    """One object.

    >>> print(Detection(name="cat", score=0.9, box=(10.0, 20.0, 110.0, 220.0), class_number=3))
    cat 0.90 at 10 20 110 220
    """

    name: str
    """of its class"""
    score: float
    """0 to 1"""
    box: tuple[float, float, float, float]
    """x1 y1 x2 y2 in pixels of the original image"""
    class_number: int
    _masks: Masks | None = None

    @property
    def mask(self) -> BoolArray | None:
        """Its pixels in the original image, (H, W), computed at each access; None if masks were not asked for."""
        return None if self._masks is None else self._masks[0]

    def __repr__(self) -> str:
        box = ", ".join(f"{side:.1f}" for side in self.box)
        return f"Detection({printable(self.name)!r}, {self.score:.2f}, box=({box}), class_number={self.class_number})"

    def __str__(self) -> str:
        """Name, score and box in whole pixels."""
        return object_text(self)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Detections:
    """Objects found in one image, best first, and the route of the image.

    They are a sequence of `Detection`. A slice, a mask (`found[found.scores > 0.5]`) or row numbers give `Detections`.
    Two are equal if all fields are. Raises InputError on creation if shapes, types or ranges do not match.

    >>> found = Detections(
    ...     boxes=np.array([[10, 20, 110, 220]], np.float32), scores=np.array([0.9], np.float32),
    ...     classes=np.array([3], np.int32), names=("cat",), difficulty=0.2, route="easy", image_size=(640, 480))
    >>> len(found), found[0].name, found.to_dict()["detections"][0]["name"]
    (1, 'cat', 'cat')
    >>> print(found)
    easy route, difficulty 0.20, 1 object in 640 x 480 pixels
      cat 0.90 at 10 20 110 220
    """

    boxes: npt.NDArray[np.float32]
    """(N, 4): x1 y1 x2 y2 in pixels of the original image"""
    scores: npt.NDArray[np.float32]
    """(N,): 0 to 1"""
    classes: npt.NDArray[np.int32]
    """(N,): class numbers"""
    names: tuple[str, ...]
    """N class names, one per object"""
    difficulty: float
    """the router's output, 0 to 1; NaN if the router gave none, which counts as hard"""
    route: Route
    """easy: detector 1; hard: detector 2; fallback, degraded: detector 2 was due, but it failed or there was no time or
    budget for it, so detector 1 answered"""
    image_size: tuple[int, int]
    """(width, height) of the original image"""
    masks: Masks | None = None
    """N masks, whose pixels are computed when they are looked at; None if they were not asked for"""

    _picture: ClassVar[Picture | None] = None  # each object may have its own, for notebooks; it is no field

    def __post_init__(self) -> None:
        count = len(self.names)
        for name, shape, dtype in (
            ("boxes", (count, 4), _FLOAT),
            ("scores", (count,), _FLOAT),
            ("classes", (count,), _INT),
        ):
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise InputError(
                    f"{name} of {count} named objects must have shape {shape} and type {dtype}, "
                    f"not {array.shape} and {array.dtype}"
                )
        if count and not np.isfinite(self.boxes).all():
            raise InputError("boxes must be finite numbers")
        if count and not 0 <= self.scores.min() <= self.scores.max() <= 1:  # false for NaN as well
            raise InputError("scores must lie between 0 and 1")
        if not (math.isnan(self.difficulty) or 0 <= self.difficulty <= 1):
            raise InputError(f"difficulty must lie between 0 and 1, not {self.difficulty}")
        if self.route not in _ROUTES:
            raise InputError(f"route must be one of {', '.join(_ROUTES)}, not {self.route!r}")
        if min(self.image_size) < 1:
            raise InputError(f"image_size must be at least (1, 1), not {self.image_size}")
        if self.masks is not None and (len(self.masks), (*self.masks.image_size,)) != (count, (*self.image_size,)):
            raise InputError(f"masks must be {count} of the image's size, not {self.masks!r}")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Detection]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> Detection: ...

    @overload
    def __getitem__(self, rows: Rows) -> Detections: ...

    def __getitem__(self, rows: int | np.integer[Any] | Rows) -> Detection | Detections:
        if isinstance(rows, int | np.integer) and not isinstance(rows, bool):
            x1, y1, x2, y2 = self.boxes[rows].tolist()  # IndexError for a row that is not there
            score, number = float(self.scores[rows]), int(self.classes[rows])
            mask = None if self.masks is None else self.masks[[int(rows)]]
            box = (x1, y1, x2, y2)
            return Detection(name=self.names[rows], score=score, box=box, class_number=number, _masks=mask)
        picked = picked_rows(len(self), rows)
        arrays: Any = {name: getattr(self, name)[picked] for name in _ARRAYS}
        names = tuple(self.names[row] for row in picked.tolist())
        masks = None if self.masks is None else self.masks[picked]
        return replace(self, **arrays, names=names, masks=masks).remembering(self._picture)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        arrays = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in _ARRAYS)
        unknown = math.isnan(self.difficulty) and math.isnan(other.difficulty)
        same = self.difficulty == other.difficulty or unknown
        return arrays and same and self._fixed == other._fixed and self.masks == other.masks

    @property
    def _fixed(self) -> tuple[object, ...]:
        return self.names, self.route, tuple(self.image_size)

    def __hash__(self) -> int:
        return hash(self._fixed)  # arrays can change, these cannot

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_picture"}

    def __repr__(self) -> str:
        return f"<Detections: {self._summary()}{': ' if self.names else ''}{words([*self])}>"

    def __str__(self) -> str:
        """A line on the image, and one for each of the first objects."""
        return "\n  ".join([self._summary(), *text_lines([*self])])

    def _summary(self) -> str:
        objects = f"{len(self)} object{'' if len(self) == 1 else 's'}{'' if self.masks is None else ' with masks'}"
        width, height = self.image_size
        return f"{self.route} route, difficulty {number_text(self.difficulty)}, {objects} in {width} x {height} pixels"

    def _repr_html_(self) -> str | None:
        """For notebooks: a table, unless the picture is known; then `_repr_png_` shows that."""
        return html_table([*self], self._summary()) if self._pixels() is None else None

    def _repr_png_(self) -> bytes | None:
        pixels = self._pixels()
        return None if pixels is None else png_bytes(self.draw(pixels))

    def _pixels(self) -> UInt8Array | None:
        return None if self._picture is None else self._picture.read(self.image_size)

    def with_picture(self, image: ImageSource) -> Detections:
        """The same objects for a notebook, which shows them drawn on this picture.

        `detect` has done this. A file is read again when it is shown. An array or a PIL image is shown as it is then,
        if the program still holds it; these objects do not. The bytes of a file are not remembered.
        """
        return copy(self).remembering(Picture.of(image))

    def remembering(self, picture: Picture | None) -> Detections:
        """These objects, which now know where their picture may be found; for new ones alone."""
        object.__setattr__(self, "_picture", picture)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for `json.dumps`: boxes to 0.01 pixels, scores and difficulty to 1e-6.

        Where there are masks, each object has its `segmentation` as COCO writes it (`Masks.to_rle`). Raises
        MissingExtraError if there are masks, but pycocotools is not installed.
        """
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.classes.tolist(), self.names, strict=True)
        found = segmentations(self.masks, len(self))
        return {
            "image_size": list(self.image_size),
            "route": self.route,
            "difficulty": None if math.isnan(self.difficulty) else round(self.difficulty, 6),
            "detections": [
                {"box": [round(side, 2) for side in box], "score": round(score, 6), "class": number, "name": name}
                | segmentation
                for (box, score, number, name), segmentation in zip(rows, found, strict=True)
            ],
        }

    def to_coco(self, image_id: int | str, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Entries of a COCO results file, as pycocotools' `loadRes` reads them: boxes are x y width height.

        `category_ids` has the category of each class number. Without it, the class number itself is written. This is
        correct if the data set counts its categories from 0 in the order of the model's classes.

        Where there are masks, each entry has its `segmentation`, too. Raises InputError if a class number has no entry
        in `category_ids`, and MissingExtraError if there are masks, but pycocotools is not installed.
        """
        return coco_entries(
            image_id,
            boxes=self.boxes,
            scores=self.scores,
            classes=self.classes,
            masks=self.masks,
            category_ids=category_ids,
        )

    def to_pandas(self) -> pandas.DataFrame:
        """A table with a row per object: x1, y1, x2, y2, score, class and name; route and difficulty in its `attrs`.

        Where there are masks, `mask_area` is their number of pixels. Raises MissingExtraError if pandas is not
        installed.
        """
        try:
            module = importlib.import_module("pandas")
        except ImportError as error:
            raise MissingExtraError("pandas is not installed: pip install pandas") from error
        columns: dict[str, Any] = {name: self.boxes[:, side] for side, name in enumerate(("x1", "y1", "x2", "y2"))}
        columns |= {"score": self.scores, "class": self.classes, "name": np.array(self.names, dtype=object)}
        if self.masks is not None:
            columns["mask_area"] = self.masks.areas
        frame: pandas.DataFrame = module.DataFrame(columns)
        frame.attrs.update(route=self.route, difficulty=self.difficulty, image_size=self.image_size)
        return frame

    def to_supervision(self) -> supervision.Detections:
        """The same objects as `supervision.Detections`, masks included, with the class names in `data["class_name"]`.

        Route and difficulty are in its `metadata`. Raises MissingExtraError if supervision is not installed.
        """
        try:
            module = importlib.import_module("supervision")  # imported only if it is used
        except ImportError as error:
            raise missing_extra("supervision is not installed", "supervision") from error
        found: supervision.Detections = module.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.classes.astype(int),
            mask=None if self.masks is None else np.asarray(self.masks),
            data={"class_name": np.array(self.names, dtype=str)},
            metadata={"route": self.route, "difficulty": self.difficulty},
        )
        return found

    def draw(self, image: ImageSource, *, header: bool = True) -> Image.Image:
        """A copy of the image with boxes, masks and labels, and above it a strip with the route and the difficulty.

        Without `header`, the result has the size of the image. Raises InputError if the image cannot be read, or if its
        size differs from that of the image with these objects.
        """
        return draw_detections(
            image,
            image_size=self.image_size,
            boxes=self.boxes,
            scores=self.scores,
            classes=self.classes,
            names=self.names,
            masks=self.masks,
            header=(self.route, self.difficulty) if header else None,
        )
