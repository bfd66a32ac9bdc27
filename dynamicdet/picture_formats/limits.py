"""What is accepted of picture files, and what their formats share; needs only Python."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

MAX_PARTS = 2000
"""segments of a JPEG before its first scan, blocks of a GIF before its first frame"""
MAX_CHUNKS = 100_000
"""of a PNG or WebP; encoders write pixels in chunks of 8 kB"""
MAX_SCANS = 100
"""of a JPEG. A progressive one has about 10; each is another pass over all pixels, and may have only a few bytes"""
MAX_SCANNED = 250_000_000
"""pixels of a JPEG with several scans, times its scans"""
MAX_WEBP_PIXELS = 25_000_000
"""its decoder is slow, takes 15 bytes of memory for each pixel, and stops all other threads of Python"""
MAX_DEEP_PIXELS = 50_000_000
"""of pictures that take longer to decode: with transparency, 16 bits or four colours, and compressed TIFFs"""
MAX_SLOW_VALUES = 500_000
"""values of a PPM that is decoded one by one"""
MAX_SLOW_BYTES = 2 << 20
"""of such a file, and of a BMP with run-length encoding"""
MAX_COMPRESSED_TIFF_BYTES = 16 << 20
MAX_STRIPS = 200_000
"""strips or tiles of a TIFF: each is an object of the decoder"""
MAX_SIDE = 65_535
"""pixels of a side, as of a JPEG: decoders work row by row, and a row of one pixel takes as long as one of a hundred"""


AS_PLAIN_JPEG = "save it again as a baseline JPEG or PNG"
"""what helps with a JPEG of a kind that is not accepted"""


class UnreadableError(Exception):
    """The file is not of the format that its first bytes name, or its header is damaged or cut off."""


class RefusedError(Exception):
    """The file is of the format, but this kind of it is not accepted; the text completes "NAME: "."""


class TooLargeError(RefusedError):
    """The file has more pixels or bytes than are accepted of its kind; the text completes "NAME: too large, "."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a decoder needs of a picture file."""

    width: int
    height: int
    data: bytes
    """a file with only these parts"""
    orientation: int = 1
    """by EXIF data, 1 to 8"""


def check_pixels(described: str, width: int, height: int, *, limit: int = MAX_DEEP_PIXELS) -> None:
    """Raise TooLargeError if a picture of a kind that takes longer to decode has too many pixels."""
    if width * height > limit:
        raise TooLargeError(
            f"a {described} of {width} x {height} pixels; dyndet accepts at most {limit:,} pixels of this kind: resize "
            "it"
        )


def unpack(form: str, data: bytes, position: int) -> int:
    """A whole number at a place. Raises struct.error if the data end before it."""
    value: int = struct.unpack_from(form, data, position)[0]
    return value


def unpack_all(form: str, data: bytes, position: int) -> tuple[Any, ...]:
    """Values at a place. Raises struct.error if the data end before them."""
    return struct.unpack_from(form, data, position)
