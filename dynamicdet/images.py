"""Reads images of any common format as 8-bit RGB arrays; needs only numpy and Pillow."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError, PictureTooLargeError

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.generic]"
)

# Larger images are refused before they are decoded: a few kB can unpack to gigabytes. This is Pillow's own default.
MAX_PIXELS = 89_478_485
# The colour behind transparent pixels: the grey of the letterbox, which means "nothing here" to the networks.
BACKGROUND = 114
# The decoders that are tried. Pillow has more, but some of them start other programs (EPS) or are rarely used.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Pixels that are blended at a time: 16-bit values for a whole image of the largest size would take gigabytes.
_STRIPE = 1 << 18

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
    arrays of another type or shape (also floats: their range is unknown); PictureTooLargeError above `MAX_PIXELS`.

    >>> read_image(np.zeros((2, 3), np.uint8)).shape
    (2, 3, 3)
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the PIL image")
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(source), "the image bytes")
    if isinstance(source, str | os.PathLike):
        with _open(os.fspath(source)) as file:
            return _decode(file, os.fspath(source))
    raise InputError(f"an image must be {_ACCEPTED}, not {type(source).__name__}")


def _open(name: str) -> BinaryIO:
    try:
        path = Path(name)
        if path.is_dir():
            raise InputError(f"{name or '.'} is a folder, not an image")
        if path.exists() and not path.is_file():
            raise InputError(f"{name} is not a regular file; an image is read from a regular file")
        return path.open("rb")
    except FileNotFoundError as error:
        raise InputError(f"{name} does not exist") from error
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL character in the path
        raise InputError(f"{name!r} is not a path: {error}") from error


def _decode(file: BinaryIO, name: str) -> UInt8Array:
    try:
        empty = not file.read(1)
        file.seek(0)
    except OSError as error:  # a failing disk, or something that only looks like a file
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error
    if empty:
        raise InputError(f"{name}: empty (0 bytes), expected an image")
    try:
        image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLargeError(f"{name}: too large, above the limit of {MAX_PIXELS} pixels") from error
    except Exception as error:  # a damaged header may raise any error in Pillow's readers
        raise InputError(f"{name}: not a readable image; accepted are JPEG, PNG, WebP, BMP, GIF, TIFF, PPM") from error
    with image:
        return _to_rgb(image, name)


def _to_rgb(image: Image.Image, name: str) -> UInt8Array:
    width, height = image.size
    if width < 1 or height < 1:
        raise InputError(f"{name}: {width} x {height} pixels, expected at least 1 x 1")
    if width * height > MAX_PIXELS:
        raise PictureTooLargeError(
            f"{name}: too large, {width} x {height} pixels, above the limit of {MAX_PIXELS} pixels"
        )
    try:
        image.load()
    except Exception as error:  # as above; usually the file is cut off
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{name}: damaged or cut off ({reason})") from error
    image = _upright(image)
    if image.mode == "F":
        raise InputError(f"{name}: pixels are floating point numbers of unknown range, expected 8 or 16 bits")
    if image.mode in _DEEP_MODES:
        return _from_array(_sixteen_bits(image, name))
    if image.mode == "RGB" and not image.has_transparency_data:
        return np.ascontiguousarray(np.asarray(image))
    if image.has_transparency_data:
        return _on_background(np.asarray(image if image.mode == "RGBA" else image.convert("RGBA")))
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF data may be damaged in any way; then the image is not rotated
        return image


def _sixteen_bits(image: Image.Image, name: str) -> npt.NDArray[np.uint16]:
    values = np.asarray(image)
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
        pixels = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 0 -> 0, 65535 -> 255
    else:
        pixels = array.astype(np.uint8, copy=False)
    if grey:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if pixels.shape[2] == 4:
        return _on_background(pixels)
    return np.ascontiguousarray(pixels)


def _on_background(rgba: UInt8Array) -> UInt8Array:
    height, width = rgba.shape[:2]
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIPE // width)
    for top in range(0, height, rows):
        part = rgba[top : top + rows]
        alpha = part[:, :, 3:].astype(np.uint16)  # (rows, W, 1)
        blended = part[:, :, :3] * alpha + BACKGROUND * (255 - alpha)  # at most 255 * 255
        rgb[top : top + rows] = (blended + 127) // 255
    return rgb
