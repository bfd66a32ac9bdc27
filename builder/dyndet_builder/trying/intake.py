"""Pictures that come to a page: limits first, then pixels for the detector and a smaller copy for the browser."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError, PictureTooLargeError
from dynamicdet.images import read_file, read_image
from dynamicdet.picture_files import open_picture
from dynamicdet.text import printable

MAX_UPLOAD_BYTES = 32 << 20
MAX_UPLOAD_PIXELS = 40_000_000
"""lower than what the client accepts: a page decodes several pictures at a time"""
LONGEST_NAME = 80
"""characters of a picture's name that are shown"""
_SHOWN_SIDE = 1280
_THUMBNAIL_SIDE = 192


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture for the detector, and as the browser shows it."""

    name: str
    pixels: UInt8Array
    """(H, W, 3), RGB"""
    shown: bytes
    """JPEG"""
    thumbnail: bytes
    """JPEG"""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the original, pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


def read_upload(data: bytes, name: str) -> Picture:
    """Decode a file that somebody sent, within the limits. Raises InputError, in one sentence, for what is no picture.

    PictureTooLargeError is raised above `MAX_UPLOAD_BYTES` and `MAX_UPLOAD_PIXELS`.
    """
    shown = printable(name, limit=LONGEST_NAME) or "picture"
    file = open_picture(data, shown, max_bytes=MAX_UPLOAD_BYTES)
    if file.width * file.height > MAX_UPLOAD_PIXELS:
        raise PictureTooLargeError(
            f"{shown}: too large, {file.width} x {file.height} pixels, above the limit of {MAX_UPLOAD_PIXELS:,} pixels "
            "of this page; resize it"
        )
    return _picture(shown, read_file(file))


def read_sample(path: Path) -> Picture:
    """Decode a file of a folder of samples. Raises InputError if it is no picture."""
    return _picture(printable(path.name, limit=LONGEST_NAME), read_image(path))


def thumbnail(path: Path) -> bytes:
    """A small JPEG of a file. Raises InputError if it is no picture."""
    return _jpeg(Image.fromarray(read_image(path)), _THUMBNAIL_SIDE)


def check_upload_size(size: int, name: str) -> None:
    """Raise PictureTooLargeError if a file has more bytes than a page takes."""
    if size > MAX_UPLOAD_BYTES:
        raise PictureTooLargeError(
            f"{printable(name, limit=LONGEST_NAME)}: too large, above the limit of {MAX_UPLOAD_BYTES >> 20} MB of this "
            "page"
        )


def _picture(name: str, pixels: UInt8Array) -> Picture:
    if min(pixels.shape[:2]) < 1:
        raise InputError(f"{name}: no pixels, expected at least 1 x 1")
    image = Image.fromarray(pixels)
    return Picture(name=name, pixels=pixels, shown=_jpeg(image, _SHOWN_SIDE), thumbnail=_jpeg(image, _THUMBNAIL_SIDE))


def _jpeg(image: Image.Image, side: int) -> bytes:
    """The image as a JPEG whose sides are at most `side` pixels long."""
    scale = min(1.0, side / max(image.size))
    if scale < 1:
        width, height = (max(1, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()
