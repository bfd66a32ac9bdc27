"""The answer of a detector for one image."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from dynamicdet.errors import InputError, MissingExtraError
from dynamicdet.images import ImageSource
from dyndet_client.drawing import draw_detections

Route: TypeAlias = Literal["easy", "hard", "fallback"]
_ROUTES = get_args(Route)
_FLOAT, _INT = np.dtype(np.float32), np.dtype(np.int32)


@dataclass(frozen=True, eq=False, kw_only=True)
class Detections:
    """Objects found in one image, best first, and the route of the image.

    Raises InputError on creation if shapes, types or ranges do not match.

    >>> found = Detections(
    ...     boxes=np.array([[10, 20, 110, 220]], np.float32), scores=np.array([0.9], np.float32),
    ...     classes=np.array([3], np.int32), names=("cat",), difficulty=0.2, route="easy", image_size=(640, 480))
    >>> len(found), found.to_dict()["detections"][0]["name"]
    (1, 'cat')
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
    """easy: detector 1; hard: detector 2; fallback: detector 2 was due but failed, so detector 1 answered"""
    image_size: tuple[int, int]
    """(width, height) of the original image"""

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

    def __len__(self) -> int:
        return len(self.names)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, ready for `json.dumps`: boxes to 0.01 pixels, scores and difficulty to 1e-6."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.classes.tolist(), self.names, strict=True)
        return {
            "image_size": list(self.image_size),
            "route": self.route,
            "difficulty": None if math.isnan(self.difficulty) else round(self.difficulty, 6),
            "detections": [
                {"box": [round(side, 2) for side in box], "score": round(score, 6), "class": number, "name": name}
                for box, score, number, name in rows
            ],
        }

    def to_coco(self, image_id: int | str, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Entries of a COCO results file, as pycocotools' `loadRes` reads them: boxes are x y width height.

        `category_ids` has the category of each class number. Without it, the class number itself is written. This is
        correct if the data set counts its categories from 0 in the order of the model's classes.

        Raises InputError if a class number has no entry in `category_ids`.
        """
        numbers = self.classes.tolist()
        if category_ids is not None and any(number >= len(category_ids) for number in numbers):
            raise InputError(
                f"category_ids has {len(category_ids)} entries, too few for the class number {max(numbers)}"
            )
        corners = self.boxes.astype(np.float64)
        sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3).tolist()
        return [
            {
                "image_id": image_id,
                "category_id": int(number if category_ids is None else category_ids[number]),
                "bbox": box,
                "score": round(score, 6),
            }
            for number, box, score in zip(numbers, sides, self.scores.tolist(), strict=True)
        ]

    def to_supervision(self) -> Any:
        """The same objects as `supervision.Detections`, with the class names in `data["class_name"]`.

        Route and difficulty are in its `metadata`. Raises MissingExtraError if supervision is not installed.
        """
        try:
            supervision = importlib.import_module("supervision")  # imported only if it is used
        except ImportError as error:
            raise MissingExtraError('supervision is not installed: pip install "dyndet[supervision]"') from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.classes.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
            metadata={"route": self.route, "difficulty": self.difficulty},
        )

    def draw(self, image: ImageSource, *, header: bool = True) -> Image.Image:
        """A copy of the image with boxes and labels, and above it a strip with the route and the difficulty.

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
            header=(self.route, self.difficulty) if header else None,
        )
