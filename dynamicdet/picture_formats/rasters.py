"""Takes picture files apart whose pixels lie there nearly as they are: TIFF, BMP and PPM; needs only Python."""

from __future__ import annotations

import re

from dynamicdet.picture_formats.limits import (
    MAX_COMPRESSED_TIFF_BYTES,
    MAX_SLOW_BYTES,
    MAX_SLOW_VALUES,
    MAX_STRIPS,
    Parts,
    RefusedError,
    TooLargeError,
    UnreadableError,
    check_pixels,
    unpack,
    unpack_all,
)
from dynamicdet.picture_formats.tiff_tags import ORIENTATION, TagLimitError, read_directory

_PPM_HEADER_BYTES = 4096
_SPACE = rb"(?:[ \t\r\n\v\f]|#[^\r\n]*[\r\n])+"
_BITMAP = re.compile(rb"P([14])" + 2 * (_SPACE + rb"(\d{1,9})") + rb"[ \t\r\n\v\f]")
_UNFINISHED = re.compile(rb"P[1-6](?:[ \t\r\n\v\f0-9]|#[^\r\n]*(?:[\r\n]|\Z))*")
_PIXMAP = re.compile(rb"P([2356])" + 3 * (_SPACE + rb"(\d{1,9})") + rb"[ \t\r\n\v\f]")

TIFF_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate"}
_WIDTH, _HEIGHT, _COMPRESSION, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 259, 322, 323
_STRIPS, _TILES = 273, 324
_LEAST_TILE = 1 << 20
_TIFF_PIXEL_TAGS = frozenset(
    (_WIDTH, _HEIGHT, 254, 258, _COMPRESSION, 262, 266, 273, 277, 278, 279, 284, 317, 320, _TILE_WIDTH, _TILE_HEIGHT)
) | {324, 325, 332, 338, 339, 529, 530, 531, 532}


def bmp(data: bytes) -> Parts:
    """A BMP; decoders read nothing of it but pixels and palette."""
    header = unpack("<I", data, 14)
    if header == 12:
        width, height, compression = *unpack_all("<HH", data, 18), 0
    else:
        width, height, _, _, compression = unpack_all("<iiHHI", data, 18)
    if compression in (1, 2) and (len(data) > MAX_SLOW_BYTES or width * abs(height) > MAX_SLOW_VALUES):
        raise TooLargeError(
            f"a BMP with run-length encoding of {width} x {abs(height)} pixels and {len(data):,} bytes; dyndet accepts "
            f"at most {MAX_SLOW_VALUES:,} pixels and {MAX_SLOW_BYTES:,} bytes: save it as a PNG"
        )
    return Parts(width=abs(width), height=abs(height), data=data)


def ppm(data: bytes) -> Parts:
    """A PBM, PGM or PPM with a new header: comments and spaces of any length are slow to read."""
    found = (_BITMAP if data[1:2] in b"14" else _PIXMAP).match(data[:_PPM_HEADER_BYTES])
    if found is None and len(data) > _PPM_HEADER_BYTES and _UNFINISHED.fullmatch(data[:_PPM_HEADER_BYTES]):
        raise RefusedError(f"a PPM with more than {_PPM_HEADER_BYTES:,} bytes before its pixels; save it again")
    if found is None:
        raise UnreadableError
    kind, width, height, *most = (int(group) for group in found.groups())
    values = width * height * (3 if kind in (3, 6) else 1)
    fast = kind >= 4 and most in ([], [255], [65535] if kind == 5 else [])  # as they are: 16 bits only of grey
    if not fast and (values > MAX_SLOW_VALUES or len(data) > MAX_SLOW_BYTES):
        described = "written as text" if kind < 4 else f"whose largest value is {most[0]}"
        raise TooLargeError(
            f"a PPM {described}, of {values:,} values and {len(data):,} bytes; dyndet accepts at most "
            f"{MAX_SLOW_VALUES:,} values and {MAX_SLOW_BYTES:,} bytes: save it as a PNG"
        )
    header = f"P{kind} {width} {height} {''.join(f'{one} ' for one in most)}".encode()
    return Parts(width=width, height=height, data=header + data[found.end() :])


def tiff(data: bytes) -> Parts:
    """The first picture of a TIFF or BigTIFF, with only the tags that pixels need."""
    try:
        tags = read_directory(data)
        file = tags.file_of(_TIFF_PIXEL_TAGS)
    except TagLimitError as error:
        raise RefusedError(f"a TIFF with {error}: save it again") from error
    except ValueError as error:
        raise UnreadableError from error
    strips = max(map(tags.count_of, (_STRIPS, _TILES)))
    if strips > MAX_STRIPS:
        raise RefusedError(
            f"a TIFF of {strips:,} strips or tiles; dyndet accepts at most {MAX_STRIPS:,}: save it again in larger ones"
        )
    width, height = tags.first_number(_WIDTH), tags.first_number(_HEIGHT)
    tile = tags.first_number(_TILE_WIDTH) * tags.first_number(_TILE_HEIGHT)
    if tile > (largest := max(_LEAST_TILE, 4 * width * height)):
        raise RefusedError(
            f"a TIFF of {width} x {height} pixels with tiles of {tile:,} pixels; dyndet accepts at most {largest:,} "
            "pixels for this size: save it as a PNG"
        )
    compression = tags.first_number(_COMPRESSION, 1)
    if compression not in TIFF_COMPRESSIONS:
        accepted = ", ".join(dict.fromkeys(TIFF_COMPRESSIONS.values()))
        raise RefusedError(f"a TIFF of compression {compression}; dyndet reads {accepted}: save it as a PNG")
    if compression != 1 and len(data) > MAX_COMPRESSED_TIFF_BYTES:
        raise TooLargeError(
            f"a compressed TIFF of {len(data):,} bytes; dyndet accepts at most {MAX_COMPRESSED_TIFF_BYTES:,} bytes: "
            "save it without compression or as a PNG"
        )
    if compression != 1:
        check_pixels("compressed TIFF", width, height)
    turned = tags.first_number(ORIENTATION, 1)
    return Parts(width=width, height=height, data=file, orientation=turned if 1 <= turned <= 8 else 1)
