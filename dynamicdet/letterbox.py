"""Fits images into a network's input and maps boxes back; needs only numpy and Pillow.

Training, evaluation, calibration and the client call this one function, so the networks see the same pixels everywhere.
Our own networks take a square with grey borders; detectors of others have other rules, which a `Fit` describes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.images import BACKGROUND

PADDING = BACKGROUND
Resize = Literal["letterbox", "stretch"]
Place = Literal["centre", "top-left"]
Filter = Literal["antialias", "linear", "cubic"]
_CHOICES = {"resize": get_args(Resize), "place": get_args(Place), "filter": get_args(Filter)}
_LARGEST_SIDE = 16_384
_LONGEST_TEXT = 500
"""characters of a rule in JSON; a written one has about 110"""


@dataclass(frozen=True, kw_only=True)
class Letterboxed:
    """An image inside a detector's input, and its place there.

    The two scales differ a little because the resized sides are whole pixels; boxes are mapped with the real scales.
    """

    image: UInt8Array
    """(height, width, 3) of the input, RGB"""
    scale_x: float
    """pixels of the input per pixel of the original"""
    scale_y: float
    pad_left: int
    """pixels of the input left of the image"""
    pad_top: int
    original_width: int
    original_height: int

    def to_original(self, boxes: npt.ArrayLike, *, clip: bool = True) -> npt.NDArray[np.float32]:
        """Map (N, 4) boxes x1 y1 x2 y2 from the input to the original image, by default clipped to it."""
        mapped = (_boxes(boxes) - self._offset) / self._scale
        if not clip:
            return mapped.astype(np.float32)
        limits = np.array([self.original_width, self.original_height] * 2, np.float64)
        return np.clip(mapped, 0.0, limits).astype(np.float32)

    def from_original(self, boxes: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Map (N, 4) boxes x1 y1 x2 y2 from the original image to the input."""
        return (_boxes(boxes) * self._scale + self._offset).astype(np.float32)

    @property
    def _offset(self) -> npt.NDArray[np.float64]:
        return np.array([self.pad_left, self.pad_top] * 2, np.float64)

    @property
    def _scale(self) -> npt.NDArray[np.float64]:
        return np.array([self.scale_x, self.scale_y] * 2, np.float64)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How pictures become a detector's input. The defaults, with equal sides, are the rule of our own networks.

    Raises InputError for values that are not accepted.
    """

    height: int
    width: int
    resize: Resize = "letterbox"
    """`letterbox` keeps the ratio and pads; `stretch` does neither"""
    place: Place = "centre"
    """of the picture between the borders; `top-left`: all borders are right or below"""
    pad: int = PADDING
    """grey level of the borders, 0..255"""
    filter: Filter = "antialias"
    """`antialias`: Pillow's BILINEAR after a whole-number box reduction; `linear` and `cubic`: without antialiasing"""

    def __post_init__(self) -> None:
        for name, least, most in (("height", 1, _LARGEST_SIDE), ("width", 1, _LARGEST_SIDE), ("pad", 0, 255)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InputError(f"the {name} of a detector's input must be from {least} to {most}, not {value!r}")
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise InputError(f"the {name} of a detector's input must be {' or '.join(choices)}, not {value!r}")

    @classmethod
    def square(cls, size: int) -> Fit:
        """The rule of our own networks, at `size` x `size` pixels. Raises InputError for a size below 1."""
        return cls(height=size, width=size)

    @property
    def is_own(self) -> bool:
        """Whether this is the rule of our own networks."""
        return self == Fit(height=self.height, width=self.height)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a fitted picture, (H, W, 3)."""
        return (self.height, self.width, 3)

    def __str__(self) -> str:
        """The rule in words; of our own networks it is the size alone.

        >>> str(Fit.square(640)), str(Fit(height=384, width=640, resize="stretch", filter="linear"))
        ('640 x 640 pixels', '640 x 384 pixels, stretched, linear filter')
        """
        words = [f"{self.width} x {self.height} pixels"]
        if self.resize == "stretch":
            words.append("stretched")
        elif (self.place, self.pad) != ("centre", PADDING):
            words.append(f"{'centred' if self.place == 'centre' else 'in the top left corner'}, borders {self.pad}")
        return ", ".join(words if self.filter == "antialias" else [*words, f"{self.filter} filter"])

    def __call__(self, image: UInt8Array) -> Letterboxed:
        """Fit an RGB image (H, W, 3). Raises InputError for an array that is not (H, W, 3) uint8 with pixels."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise InputError(f"an image must be (H, W, 3) uint8 with pixels, not {image.shape} {image.dtype}")
        place = self.place_of(image.shape[1], image.shape[0])
        new_height, new_width = self._inner(image.shape[0], image.shape[1])
        fitted = np.full(self.shape, self.pad, np.uint8)
        inside = fitted[place.pad_top : place.pad_top + new_height, place.pad_left : place.pad_left + new_width]
        inside[:] = _FILTERS[self.filter](image, new_width, new_height)
        return replace(place, image=fitted)

    def place_of(self, width: int, height: int) -> Letterboxed:
        """Where a picture of this size lies, to map boxes; the pixels are zeros that take no memory."""
        new_height, new_width = self._inner(height, width)
        left, top = self.width - new_width, self.height - new_height
        centred = self.place == "centre"
        return Letterboxed(
            image=np.broadcast_to(np.uint8(0), self.shape),
            scale_x=new_width / width,
            scale_y=new_height / height,
            pad_left=left // 2 if centred else 0,
            pad_top=top // 2 if centred else 0,
            original_width=width,
            original_height=height,
        )

    def _inner(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the resized picture."""
        if self.resize == "stretch":
            return self.height, self.width
        scale = min(self.height / height, self.width / width)
        return _side(height * scale, self.height), _side(width * scale, self.width)

    def as_json(self) -> str:
        """Text that `of_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Fit:
        """Read what `as_json` wrote. Raises InputError for anything else."""
        if len(text) > _LONGEST_TEXT:
            raise InputError(f"the description of a detector's input has more than {_LONGEST_TEXT} characters")
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError("the description of a detector's input is not JSON") from error
        known = {field.name for field in fields(cls)}
        if not isinstance(given, Mapping) or not {"height", "width"} <= set(given) <= known:
            raise InputError(f"the description of a detector's input must have the fields {', '.join(sorted(known))}")
        return cls(**given)


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
    if size < 1:
        raise InputError(f"the side of the square must be at least 1 pixel, not {size}")
    return Fit.square(size)(image)


def _side(exact: float, size: int) -> int:
    return min(size, max(1, int(exact + 0.5)))


def _resize(image: UInt8Array, width: int, height: int) -> UInt8Array:
    if image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))


def _sampled(kind: Image.Resampling) -> Callable[[UInt8Array, int, int], UInt8Array]:
    """Resizing that looks only at the nearest pixels, as OpenCV does: pixel centres are mapped, nothing is averaged."""

    def resize(image: UInt8Array, width: int, height: int) -> UInt8Array:
        if image.shape[:2] == (height, width):
            return image
        picture = Image.fromarray(np.ascontiguousarray(image))
        mapping = (image.shape[1] / width, 0, 0, 0, image.shape[0] / height, 0)
        return np.asarray(picture.transform((width, height), Image.Transform.AFFINE, mapping, kind))

    return resize


_FILTERS: Mapping[Filter, Callable[[UInt8Array, int, int], UInt8Array]] = {
    "antialias": _resize,
    "linear": _sampled(Image.Resampling.BILINEAR),
    "cubic": _sampled(Image.Resampling.BICUBIC),
}


def _boxes(boxes: Any) -> npt.NDArray[np.float64]:
    array = np.asarray(boxes, np.float64)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise InputError(f"boxes must have shape (N, 4), not {array.shape}")
    return array
