"""The masks of the objects in one image: small until somebody wants their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import BoolArray, IntArray, UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.letterbox import Letterboxed
from dynamicdet.masks import SIDE, Rle, parts, paste, paste_each, to_rle
from dyndet_client.results.rows import Rows, picked_rows


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Masks:
    """Which pixels of an image belong to each object: a sequence of boolean arrays (H, W).

    A detector gives 28 x 28 values that span the object's box. They stay as they are until a mask is asked for, which
    is then pasted into the image's pixels (`dynamicdet.masks.paste`). To have all at once, call `numpy.asarray`:
    (N, H, W). A slice, a mask or row numbers give `Masks`. Two are equal if all fields are.

    Raises InputError on creation if shapes, types or ranges do not match.

    >>> full = Masks(values=np.full((1, 28, 28), 255, np.uint8), boxes=np.array([[1, 1, 3, 4]], np.float32),
    ...     image_size=(4, 5))
    >>> full, full.areas.tolist(), full[0].shape
    (<Masks: 1 of 4 x 5 pixels>, [6], (5, 4))
    """

    values: UInt8Array
    """(N, 28, 28): how sure the detector is of each part of the box, 0 to 255; a pixel counts from one half on"""
    boxes: npt.NDArray[np.float32]
    """(N, 4): the boxes that the values span, x1 y1 x2 y2 in pixels of the image. An object that is cut off by the
    edge can have one that leaves the image, other than its box in `Detections`"""
    image_size: tuple[int, int]
    """(width, height) of the image"""

    def __post_init__(self) -> None:
        for name, array, shape, dtype in (
            ("values", self.values, (len(self.values), SIDE, SIDE), np.uint8),
            ("boxes", self.boxes, (len(self.values), 4), np.float32),
        ):
            if array.shape != shape or array.dtype != dtype:
                raise InputError(
                    f"{name} of {len(self.values)} masks must have shape {shape} and type {np.dtype(dtype)}, not "
                    f"{array.shape} and {array.dtype}"
                )
        if not np.isfinite(self.boxes).all():
            raise InputError("the boxes of masks must be finite numbers")
        if min(self.image_size) < 1:
            raise InputError(f"image_size must be at least (1, 1), not {self.image_size}")

    @classmethod
    def of(cls, values: UInt8Array, boxes: npt.NDArray[np.float32], boxed: Letterboxed) -> Masks:
        """Masks that were found in a detector's input, with their boxes (N, 4) there."""
        spans = boxed.to_original(boxes, clipped=False) if len(boxes) else np.zeros((0, 4), np.float32)
        return cls(values=values, boxes=spans, image_size=(boxed.original_width, boxed.original_height))

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[BoolArray]:
        """The masks one by one: a hundred of a large image need a gigabyte together."""
        return paste_each(self.values, self.boxes, *self.image_size)

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> BoolArray: ...

    @overload
    def __getitem__(self, rows: Rows) -> Masks: ...

    def __getitem__(self, rows: int | np.integer[Any] | Rows) -> BoolArray | Masks:
        if isinstance(rows, int | np.integer) and not isinstance(rows, bool):
            mask: BoolArray = paste(self.values[rows][None], self.boxes[rows][None], *self.image_size)[0]
            return mask
        picked = picked_rows(len(self), rows)
        return Masks(values=self.values[picked], boxes=self.boxes[picked], image_size=self.image_size)

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All masks, (N, H, W)."""
        if copy is False:
            raise ValueError("masks are pasted anew, so there is nothing to share")
        pasted = paste(self.values, self.boxes, *self.image_size)
        return pasted if dtype is None else pasted.astype(dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        same = np.array_equal(self.values, other.values) and np.array_equal(self.boxes, other.boxes)
        return same and tuple(self.image_size) == tuple(other.image_size)

    def __hash__(self) -> int:
        return hash((len(self), tuple(self.image_size)))  # arrays can change, these cannot

    def __repr__(self) -> str:
        width, height = self.image_size
        return f"<Masks: {len(self)} of {width} x {height} pixels>"

    @property
    def areas(self) -> IntArray:
        """The number of pixels of each mask, (N,)."""
        found = [part.mask.sum() for part in parts(self.values, self.boxes, *self.image_size)]
        return np.array(found, np.int64)

    def to_rle(self) -> list[Rle]:
        """COCO's compressed run lengths of each mask, ready for JSON: `size` (height, width) and `counts`.

        Raises MissingExtraError if pycocotools is not installed.
        """
        return to_rle(self.values, self.boxes, *self.image_size)


def mask_values(array: npt.NDArray[Any], *, rows: int) -> UInt8Array:
    """A server's output `masks` for one image, (rows, 28, 28). Raises ValueError if it is something else."""
    if array.dtype != np.uint8 or array.shape[-2:] != (SIDE, SIDE) or array.size != rows * SIDE * SIDE:
        raise ValueError(f"masks are {array.dtype} {list(array.shape)}, not uint8 [{rows}, {SIDE}, {SIDE}]")
    return array.reshape(rows, SIDE, SIDE)
