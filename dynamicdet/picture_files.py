"""Opens picture files that may be hostile: limits first, then only the parts that make pixels, then a decoder."""

from __future__ import annotations

import io
import re
import struct
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image

from dynamicdet.errors import InputError, PictureTooLargeError
from dynamicdet.picture_formats.limits import MAX_SIDE, Parts, RefusedError, TooLargeError, UnreadableError
from dynamicdet.picture_formats.parts import gif, jpeg, png, webp
from dynamicdet.picture_formats.rasters import bmp, ppm, tiff

MAX_PIXELS = 89_478_485
"""Larger images are refused before they are decoded: a few kB can unpack to gigabytes. This is Pillow's own default."""
MAX_FILE_BYTES = 512 << 20
"""Larger files are not read; servers of image files accept less."""
MAX_SECONDS = 2.5
"""of processor time for reading and unpacking 64 MB of a file, where nothing in the file tells it beforehand"""
# What Pillow finds odd in a file is either harmless or in the one sentence of the error.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_FORMATS: Mapping[str, tuple[re.Pattern[bytes], Callable[[bytes], Parts]]] = {
    "JPEG": (re.compile(rb"\xff\xd8\xff"), jpeg),
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), png),
    "WEBP": (re.compile(rb"RIFF....WEBP", re.DOTALL), webp),
    "BMP": (re.compile(rb"BM"), bmp),
    "GIF": (re.compile(rb"GIF8[79]a"), gif),
    "TIFF": (re.compile(rb"II[*+]\0|MM\0[*+]"), tiff),
    "PPM": (re.compile(rb"P[1-6][ \t\r\n\v\f#]"), ppm),
}
"""by Pillow's name: how a file starts, and what takes it apart"""
FORMATS = tuple(_FORMATS)
"""accepted formats, by Pillow's names"""
_SHOWN = {"WEBP": "WebP"}
ACCEPTED = ", ".join(_SHOWN.get(kind, kind) for kind in FORMATS)
"""accepted formats, for messages"""


@dataclass(frozen=True, kw_only=True)
class PictureFile:
    """A picture file that has passed all limits; `decode` may still find it damaged."""

    name: str
    """of the file in messages"""
    format: str
    """by Pillow's name"""
    width: int
    height: int
    """before it is turned"""
    orientation: int
    """by EXIF data, 1 to 8"""
    data: bytes
    """a file with only the parts that make pixels"""

    def decode(self) -> Image.Image:
        """The decoded image, not yet turned. Raises InputError if it is damaged, or if decoding takes too long."""
        try:
            image = Image.open(_TimedFile(self.data, self.name), formats=(self.format,))
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_many_pixels(self.name) from error
        except Exception as error:  # a damaged header may raise any error in Pillow's readers
            raise _damaged(self.name) from error
        check_size(image.size, self.name)
        if image.size[0] * image.size[1] > self.width * self.height:  # the limits were checked for the other size
            raise _damaged(self.name)
        try:
            image.load()
        except InputError:
            raise
        except Exception as error:  # as above; usually the file is cut off
            raise _damaged(self.name) from error
        return image


def open_picture(data: bytes, name: str, *, max_bytes: int = MAX_FILE_BYTES) -> PictureFile:
    """Check a picture file against all limits, and take what a decoder needs of it. `name` is for messages.

    Raises InputError if it is damaged, or no picture of an accepted format and kind, and PictureTooLargeError if it has
    more than `max_bytes` bytes or `MAX_PIXELS` pixels, or than its kind may have.
    """
    if not data:
        raise InputError(f"{name}: empty (0 bytes), expected an image")
    check_bytes(len(data), name, max_bytes=max_bytes)
    kind = next((kind for kind, (start, _) in _FORMATS.items() if start.match(data)), None)
    if kind is None:
        raise InputError(f"{name}: not a readable image; dyndet accepts {ACCEPTED}")
    try:
        parts = _FORMATS[kind][1](data)
    except (UnreadableError, struct.error, IndexError, OverflowError) as error:
        raise InputError(
            f"{name}: damaged or cut off; its first bytes are those of a {_SHOWN.get(kind, kind)}"
        ) from error
    except TooLargeError as error:
        raise PictureTooLargeError(f"{name}: too large, {error}") from error
    except RefusedError as error:
        raise InputError(f"{name}: {error}") from error
    check_size((parts.width, parts.height), name)
    return PictureFile(
        name=name,
        format=kind,
        width=parts.width,
        height=parts.height,
        orientation=parts.orientation,
        data=parts.data,
    )


def kind_of(start: bytes) -> str | None:
    """The format of a file by its first bytes, for messages; None if dyndet accepts none that starts so."""
    found = next((kind for kind, (pattern, _) in _FORMATS.items() if pattern.match(start)), None)
    return None if found is None else _SHOWN.get(found, found)


def check_bytes(size: int, name: str, *, max_bytes: int = MAX_FILE_BYTES) -> None:
    """Raise PictureTooLargeError if a file has too many bytes."""
    if size > max_bytes:
        raise PictureTooLargeError(f"{name}: too large, {size:,} bytes, above the limit of {max_bytes:,} bytes")


def check_size(size: tuple[int, int], name: str) -> None:
    """Raise InputError if an image has no pixels, and PictureTooLargeError if it has too many."""
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"{name}: {width} x {height} pixels, expected at least 1 x 1")
    if max(width, height) > MAX_SIDE:
        raise PictureTooLargeError(
            f"{name}: too large, {width} x {height} pixels, above {MAX_SIDE:,} pixels of a side; resize it"
        )
    if width * height > MAX_PIXELS:
        raise PictureTooLargeError(
            f"{name}: too large, {width} x {height} pixels, above the limit of {MAX_PIXELS:,} pixels; resize it"
        )


class _TimedFile(io.BytesIO):
    """A file that ends with an error once its reader has used too much processor time.

    Decoders read it piece by piece, so this bounds what the numbers in a file do not tell, such as a compressed stream
    of millions of empty blocks.
    """

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self._name = name
        self._allowed_s = MAX_SECONDS * max(1, len(data) / (64 << 20))
        self._until_s = time.thread_time() + self._allowed_s

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._until_s:
            raise InputError(f"{self._name}: takes more than {self._allowed_s:.1f} s to decode")
        return super().read(size)


def _too_many_pixels(name: str) -> PictureTooLargeError:
    return PictureTooLargeError(f"{name}: too large, above the limit of {MAX_PIXELS:,} pixels; resize it")


def _damaged(name: str) -> InputError:
    return InputError(f"{name}: damaged or cut off")
