"""Reads images of any common format as 8-bit RGB arrays; needs only numpy and Pillow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.picture_files import MAX_PIXELS, PictureFile, check_bytes, check_size, open_picture
from dynamicdet.text import printable

__all__ = ["BACKGROUND", "MAX_PIXELS", "SUFFIXES", "ImageSource", "read_file", "read_image"]

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.generic]"
)

# The colour behind transparent pixels: the grey of the letterbox, which means "nothing here" to the networks.
BACKGROUND = 114
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Pixels that are converted at a time: Pillow's pixels and copies of them for a whole large image would take gigabytes.
_STRIPE = 1 << 20
# 0 -> 0, 65535 -> 255
_EIGHT_BITS = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""by EXIF orientation"""

_ACCEPTED = "a path, the bytes of an image file, a PIL image or a numpy array"
_ACCEPTED_ARRAYS = "(H, W), (H, W, 3) RGB or (H, W, 4) RGBA, of type uint8 or uint16"
_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def read_image(source: ImageSource) -> UInt8Array:
    """Read an image as contiguous RGB, shape (H, W, 3), uint8, as a viewer would show it.

    `source` is a path, the bytes of an image file (JPEG, PNG, WebP, BMP, GIF, TIFF, PPM; the first frame), a PIL image,
    or an array of shape (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16. The EXIF orientation is applied.
    Grey, palette and CMYK become RGB, 16 bits become 8, and transparent pixels become grey (`BACKGROUND`).

    If `source` is an array, the result may share its memory: do not write to it.

    Raises InputError if the path does not exist or is not a file, if the file is not an image or is cut off, and for
    arrays of another type or shape (also floats: their range is unknown); PictureTooLargeError above `MAX_PIXELS`. A
    file must also keep the limits of `picture_files` and `picture_formats`: none takes long or fills the memory.

    >>> read_image(np.zeros((2, 3), np.uint8)).shape
    (2, 3, 3)
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _read_pillow(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return read_file(open_picture(bytes(source), "the image bytes"))
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        return read_file(open_picture(_bytes_of(name), printable(name)))
    raise InputError(f"an image must be {_ACCEPTED}, not {type(source).__name__}")


def read_file(file: PictureFile) -> UInt8Array:
    """Decode a file that was opened: RGB (H, W, 3) as `read_image`. Raises InputError if it is damaged."""
    image = file.decode()
    if file.orientation in _TURNS:
        image = image.transpose(_TURNS[file.orientation])
    return _to_rgb(image, file.name)


def _bytes_of(name: str) -> bytes:
    shown = printable(name)
    try:
        path = Path(name)
        if path.is_dir():
            raise InputError(f"{shown or '.'} is a folder, not an image")
        if path.exists() and not path.is_file():
            raise InputError(f"{shown} is not a regular file; an image is read from a regular file")
        with path.open("rb") as file:
            check_bytes(os.fstat(file.fileno()).st_size, shown)
            return file.read()
    except FileNotFoundError as error:
        raise InputError(f"{shown} does not exist") from error
    except InputError:
        raise
    except OSError as error:  # also a failing disk, or something that only looks like a file
        raise InputError(f"{shown} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL character in the path
        raise InputError(f"{shown!r} is not a path: {error}") from error


def _read_pillow(image: Image.Image) -> UInt8Array:
    name = "the PIL image"
    check_size(image.size, name)
    try:
        image.load()
    except Exception as error:  # damaged files may raise any error in Pillow's readers
        raise InputError(f"{name}: damaged or cut off") from error
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # EXIF data may be damaged in any way; then the image is not rotated
        return _to_rgb(image, name)
    return _to_rgb(image, name)


def _to_rgb(image: Image.Image, name: str) -> UInt8Array:
    """Pixels of a decoded image, stripe by stripe."""
    if image.mode == "F":
        raise InputError(f"{name}: pixels are floating point numbers of unknown range, expected 8 or 16 bits")
    width, height = image.size
    rows = max(1, _STRIPE // width)
    if height <= rows:
        return _stripe_to_rgb(image, name)
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        rgb[top:bottom] = _stripe_to_rgb(image.crop((0, top, width, bottom)), name)
    return rgb


def _stripe_to_rgb(image: Image.Image, name: str) -> UInt8Array:
    if image.mode in _DEEP_MODES:
        return _from_array(_sixteen_bits(image, name))
    if image.has_transparency_data:
        transparent = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", image.size, (BACKGROUND, BACKGROUND, BACKGROUND))
        image.paste(transparent, mask=transparent)
    return np.ascontiguousarray(np.asarray(image if image.mode == "RGB" else image.convert("RGB")))


def _sixteen_bits(image: Image.Image, name: str) -> npt.NDArray[np.uint16]:
    values = np.asarray(image)
    if values.dtype == np.uint16:
        return values
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{name}: pixels are 32-bit numbers outside 0 to 65535, expected 8 or 16 bits")
    return values.astype(np.uint16)


def _from_array(array: npt.NDArray[np.generic]) -> UInt8Array:
    if array.dtype not in (np.uint8, np.uint16):
        hint = "; multiply a 0..1 image by 255 and round" if array.dtype.kind == "f" else ""
        raise InputError(f"an array of type {array.dtype} is not an image, expected uint8 or uint16{hint}")
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not grey and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise InputError(f"an array of shape {array.shape} is not an image, expected {_ACCEPTED_ARRAYS}")
    if 0 in array.shape:
        raise InputError(f"an array of shape {array.shape} has no pixels, expected at least 1 x 1")
    pixels: UInt8Array
    if array.dtype == np.uint16:
        pixels = _EIGHT_BITS[array]
    else:
        pixels = array.astype(np.uint8, copy=False)
    if grey:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if pixels.shape[2] == 4:
        return _to_rgb(Image.fromarray(np.ascontiguousarray(pixels), "RGBA"), "the array")
    return np.ascontiguousarray(pixels)
