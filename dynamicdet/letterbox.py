"""Fits images into the networks' square input and maps boxes back; needs only numpy and Pillow.

Training, evaluation, calibration and the client call this one function, so the networks see the same pixels everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.images import BACKGROUND

PADDING = BACKGROUND


@dataclass(frozen=True, kw_only=True)
class Letterboxed:
    """An image inside a square, and its place there.

    The two scales differ a little because the resized sides are whole pixels; boxes are mapped with the real scales.
    """

    image: UInt8Array
    """(size, size, 3), RGB"""
    scale_x: float
    """pixels of the square per pixel of the original"""
    scale_y: float
    pad_left: int
    """pixels of the square left of the image"""
    pad_top: int
    original_width: int
    original_height: int

    def to_original(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Map (N, 4) boxes x1 y1 x2 y2 from the square to the original image, clipped to it."""
        mapped = (_boxes(boxes) - self._offset) / self._scale
        limits = np.array([self.original_width, self.original_height] * 2, np.float64)
        return np.clip(mapped, 0.0, limits).astype(np.float32)

    def from_original(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Map (N, 4) boxes x1 y1 x2 y2 from the original image to the square."""
        return (_boxes(boxes) * self._scale + self._offset).astype(np.float32)

    @property
    def _offset(self) -> npt.NDArray[np.float64]:
        return np.array([self.pad_left, self.pad_top] * 2, np.float64)

    @property
    def _scale(self) -> npt.NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2, np.float64)


def letterbox(image: UInt8Array, size: int) -> Letterboxed:
    """Resize an RGB image (H, W, 3) to fit a square of `size` pixels, keep its ratio, centre it, pad with grey 114.

    Small images are enlarged, as in the training of YOLO detectors. Sides are rounded to the nearest pixel, at least 1.
    If the padding is odd, the extra pixel goes to the right or the bottom. Resizing is antialiased bilinear (Pillow's
    BILINEAR after a whole-number box reduction).

    Raises InputError for an array that is not (H, W, 3) uint8 with at least one pixel, and for a size below 1.

    >>> boxed = letterbox(np.zeros((480, 640, 3), np.uint8), 320)
    >>> boxed.pad_left, boxed.pad_top, boxed.to_original([[0, 40, 320, 280]]).tolist()
    (0, 40, [[0.0, 0.0, 640.0, 480.0]])
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(f"an image must be (H, W, 3) uint8 with pixels, not {image.shape} {image.dtype}")
    if size < 1:
        raise InputError(f"the side of the square must be at least 1 pixel, not {size}")
    height, width = image.shape[:2]
    scale = size / max(width, height)
    new_width, new_height = _side(width * scale, size), _side(height * scale, size)
    pad_left, pad_top = (size - new_width) // 2, (size - new_height) // 2
    square = np.full((size, size, 3), PADDING, np.uint8)
    square[pad_top : pad_top + new_height, pad_left : pad_left + new_width] = _resize(image, new_width, new_height)
    return Letterboxed(
        image=square,
        scale_x=new_width / width,
        scale_y=new_height / height,
        pad_left=pad_left,
        pad_top=pad_top,
        original_width=width,
        original_height=height,
    )


def _side(exact: float, size: int) -> int:
    return min(size, max(1, int(exact + 0.5)))


def _resize(image: UInt8Array, width: int, height: int) -> UInt8Array:
    if image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))


def _boxes(boxes: Any) -> npt.NDArray[np.float64]:
    array = np.asarray(boxes, np.float64)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise InputError(f"boxes must have shape (N, 4), not {array.shape}")
    return array
