"""Masks of objects: small grids inside the objects' boxes, pasted into the picture where its pixels are wanted.

A detector gives the shape of an object as 28 x 28 values, which span its box. Everything that needs pixels (the client,
evaluation, drawing) pastes them here, so that the same rule applies everywhere. Needs only numpy; run-length encoding
needs pycocotools.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import BoolArray, Float32Array, FloatArray, UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.extras import missing_extra

SIDE = 28
"""rows and columns of the masks that detectors give"""
THRESHOLD = 0.5
"""a pixel belongs to an object from this probability on"""

Order: TypeAlias = Literal["C", "F"]


class Rle(TypedDict):
    """A mask in the compressed run-length encoding of COCO."""

    size: list[int]
    """height and width of the picture"""
    counts: str


class Part(NamedTuple):
    """The rectangle of a picture that an object's mask can reach."""

    left: int
    top: int
    mask: BoolArray
    """(h, w); may be empty"""


def paste(
    masks: UInt8Array, boxes: npt.ArrayLike, width: int, height: int, *, threshold: float = THRESHOLD
) -> BoolArray:
    """Which pixels of a picture belong to each object, (N, height, width).

    The pixel in column x lies at (x + 0.5 - x1) / (x2 - x1) of its object's mask, from 0 to 1, and has the value there:
    linear between the centres of the mask's cells, zero outside it (`align_corners=False` and `zeros` of torch's
    `grid_sample`). It belongs to the object from `threshold` on, where 255 counts as 1. A box without area has no
    pixels.

    `masks` are (N, rows, columns) uint8, `boxes` (N, 4) are x1 y1 x2 y2 in pixels of the picture, and may leave it.
    Raises InputError for other shapes and types, and for boxes that are not finite.
    """
    pasted = np.zeros((len(masks), height, width), bool)
    for row, (left, top, mask) in enumerate(parts(masks, boxes, width, height, threshold=threshold)):
        pasted[row, top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return pasted


def paste_each(
    masks: UInt8Array,
    boxes: npt.ArrayLike,
    width: int,
    height: int,
    *,
    threshold: float = THRESHOLD,
    order: Order = "C",
) -> Iterator[BoolArray]:
    """`paste`, one object (height, width) at a time: a hundred masks of a large picture need a gigabyte."""
    for left, top, mask in parts(masks, boxes, width, height, threshold=threshold):
        pasted = np.zeros((height, width), bool, order=order)
        pasted[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        yield pasted


def parts(
    masks: UInt8Array, boxes: npt.ArrayLike, width: int, height: int, *, threshold: float = THRESHOLD
) -> Iterator[Part]:
    """`paste`, but of each object only the rectangle of the picture outside which it has no pixels."""
    corners = _checked(masks, boxes, width, height, threshold)
    return (_part(mask, box, width, height, threshold) for mask, box in zip(masks, corners, strict=True))


def to_rle(
    masks: UInt8Array, boxes: npt.ArrayLike, width: int, height: int, *, threshold: float = THRESHOLD
) -> list[Rle]:
    """The pasted masks as COCO writes them, an entry for each object; its counts are text, ready for JSON.

    The arguments are those of `paste`. Raises MissingExtraError if pycocotools is not installed.
    """
    coco: Any = pycocotools_mask()
    encoded = []
    # pycocotools reads column by column.
    for pasted in paste_each(masks, boxes, width, height, threshold=threshold, order="F"):
        rle = coco.encode(pasted.view(np.uint8))
        encoded.append(Rle(size=[height, width], counts=rle["counts"].decode("ascii")))
    return encoded


def pycocotools_mask() -> Any:
    """The module that encodes masks. Raises MissingExtraError if it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise missing_extra(
            "masks are encoded with pycocotools, which is not installed", "pycocotools", among=("masks",)
        ) from error
    return mask


def _part(mask: UInt8Array, box: FloatArray, width: int, height: int, threshold: float) -> Part:
    rows, columns = mask.shape
    x1, y1, x2, y2 = box.tolist()
    if not (x1 < x2 and y1 < y2):
        return Part(0, 0, np.zeros((0, 0), bool))
    left, across = _weights(x1, x2, columns, width)
    top, down = _weights(y1, y2, rows, height)
    values = down @ mask.astype(np.float32) @ across.T
    return Part(left, top, values >= np.float32(255 * threshold))


def _weights(start: float, end: float, cells: int, pixels: int) -> tuple[int, Float32Array]:
    """The first pixel that a mask of so many cells from `start` to `end` reaches, and each cell's weight at each pixel.

    The weights (pixels reached, cells) are zero but for the two cells whose centres are nearest.
    """
    cell = (end - start) / cells
    first = max(0, math.floor(start - cell / 2))  # half a cell outside, the values have faded to zero
    last = min(pixels, math.ceil(end + cell / 2))
    centres = np.arange(first, max(first, last)) + 0.5
    places = (centres - start) / (end - start) * cells - 0.5  # in cells, from the centre of the first one
    return first, np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells))).astype(np.float32)


def _checked(masks: UInt8Array, boxes: npt.ArrayLike, width: int, height: int, threshold: float) -> FloatArray:
    """The boxes as float64 (N, 4)."""
    if not isinstance(masks, np.ndarray) or masks.ndim != 3 or masks.dtype != np.uint8 or 0 in masks.shape[1:]:
        found = f"{masks.dtype} {masks.shape}" if isinstance(masks, np.ndarray) else type(masks).__name__
        raise InputError(f"masks must be a uint8 array of shape (objects, rows, columns), not {found}")
    corners = np.asarray(boxes, np.float64)
    if corners.shape != (len(masks), 4):
        raise InputError(f"{len(masks)} masks need boxes of shape ({len(masks)}, 4), not {corners.shape}")
    if not np.isfinite(corners).all():
        raise InputError("the boxes of masks must be finite numbers")
    if min(width, height) < 1:
        raise InputError(f"masks are pasted into a picture of at least 1 x 1 pixels, not {width} x {height}")
    if not 0 < threshold <= 1:
        raise InputError(f"the threshold of masks must be above 0 and at most 1, not {threshold}")
    return corners
