"""Takes picture files apart, of each format the parts that make pixels; needs only Python.

Decoders read far more than pixels: texts, profiles, thumbnails, further frames. A hostile file makes that slow or
large. So a decoder gets a file of only the parts that it needs, and only if their number and size are within limits.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dynamicdet.tiff_tags import ORIENTATION, orientation_of, read_directory

MAX_PARTS = 2000
"""segments of a JPEG before its first scan, blocks of a GIF before its first frame"""
MAX_CHUNKS = 100_000
"""of a PNG or WebP; encoders write pixels in chunks of 8 kB"""
MAX_SCANS = 100
"""of a JPEG. A progressive one has about 10; each is another pass over all pixels, and may have only a few bytes"""
MAX_SCANNED = 400_000_000
"""pixels of a JPEG with several scans, times its scans"""
MAX_WEBP_PIXELS = 25_000_000
"""its decoder is slow, takes 15 bytes of memory for each pixel, and stops all other threads of Python"""
MAX_SLOW_VALUES = 1_000_000
"""values of a PPM that is decoded one by one"""
MAX_SLOW_BYTES = 4 << 20
"""of such a file, and of a BMP with run-length encoding"""
_MAX_EXIF_BYTES = 1 << 20
_MAX_JUNK_BYTES = 4096
_SLACK_BYTES = 1 << 16

_PPM_HEADER_BYTES = 4096
_SPACE = rb"(?:[ \t\r\n\v\f]|#[^\r\n]*[\r\n])+"
_BITMAP = re.compile(rb"P([14])" + 2 * (_SPACE + rb"(\d{1,9})") + rb"[ \t\r\n\v\f]")
_PIXMAP = re.compile(rb"P([2356])" + 3 * (_SPACE + rb"(\d{1,9})") + rb"[ \t\r\n\v\f]")

_WEBP_CHUNKS = (b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"VP8L", b"ANMF")
_WEBP_ALPHA_OR_FRAMES = 0x12

TIFF_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate"}
MAX_COMPRESSED_TIFF_BYTES = 16 << 20
_WIDTH, _HEIGHT, _COMPRESSION, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 259, 322, 323
_LEAST_TILE = 1 << 20
_TIFF_PIXEL_TAGS = frozenset(
    (_WIDTH, _HEIGHT, 254, 258, _COMPRESSION, 262, 266, 273, 277, 278, 279, 284, 317, 320, _TILE_WIDTH, _TILE_HEIGHT)
) | {324, 325, 332, 338, 339, 529, 530, 531, 532}

_SCAN, _END, _EXIF = 0xDA, 0xD9, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PIXEL_SEGMENTS = frozenset((*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE))
"""frames, tables, and what says which colours they are (JFIF, Adobe)"""
_MARKER = re.compile(rb"\xff+([^\x00\xff])")


class UnreadableError(Exception):
    """The file is not of the format that its first bytes name, or has no header."""


class RefusedError(Exception):
    """The file is of the format, but this kind of it is not accepted; the text completes "NAME: "."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a decoder needs of a picture file."""

    width: int
    height: int
    data: bytes
    """a file with only these parts"""
    orientation: int = 1
    """by EXIF data, 1 to 8"""


def jpeg(data: bytes) -> Parts:
    """A JPEG without its texts, profiles and thumbnails; of several pictures in it (MPO), the first."""
    kept, size, exif, scan = [data[:2]], None, b"", 0
    for marker, start, end in _segments(data):
        if marker in _FRAMES:
            size = _jpeg_size(marker, data[start + 2 : end])
        elif marker == _EXIF and not exif and data[start + 2 : start + 8] == b"Exif\0\0":
            exif = data[start + 2 : end]
        if marker in _PIXEL_SEGMENTS:
            kept.append(data[start - 2 : end])
        scan = start - 2
    if size is None:
        raise UnreadableError
    kept.append(data[scan:])
    _check_scans(data.count(b"\xff\xda", scan), *size)
    return Parts(width=size[0], height=size[1], data=b"".join(kept), orientation=orientation_of(exif))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the segments of a JPEG, up to its first scan."""
    position = 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(data, position, position + _MAX_JUNK_BYTES)
        if found is None:
            raise UnreadableError
        marker, start = found[1][0], found.end()
        if marker in (0x01, *range(0xD0, _END)):  # without content
            position = start
            continue
        position = start + _unpack(">H", data, start)
        if position < start + 2 or marker == _END:
            raise UnreadableError
        yield marker, start, position
        if marker == _SCAN:
            return
    raise RefusedError(f"a JPEG with more than {MAX_PARTS} segments before its first scan")


def _check_scans(scans: int, width: int, height: int) -> None:
    if scans > MAX_SCANS:
        raise RefusedError(f"a JPEG with {scans} scans, accepted are at most {MAX_SCANS}")
    if scans > 1 and scans * width * height > MAX_SCANNED:
        raise RefusedError(
            f"a JPEG with {scans} scans of {width} x {height} pixels, accepted are at most {MAX_SCANNED} pixels in all "
            "scans"
        )


def _jpeg_size(marker: int, content: bytes) -> tuple[int, int]:
    if marker not in (0xC0, 0xC1, 0xC2):
        raise RefusedError(
            "a lossless, hierarchical or arithmetic-coded JPEG; accepted are baseline and progressive ones"
        )
    bits, height, width = _unpack_all(">BHH", content, 0)
    if bits != 8:
        raise RefusedError(f"a JPEG of {bits} bits, accepted are 8")
    return width, height


def png(data: bytes) -> Parts:
    """A PNG with its pixels, palette and transparency; of an animation, the picture that is not part of it."""
    kept, pixels, exif, position = [data[:8]], [], b"", 8
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            break
        length, kind = _unpack_all(">I4s", data, position)
        content, position = data[position + 8 : position + 8 + length], position + 12 + length
        if (kind == b"IHDR") != (len(kept) == 1):
            raise UnreadableError
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            pixels.append(content)
        elif kind in (b"IHDR", b"PLTE", b"tRNS") and not pixels:
            kept.append(data[position - 12 - length : position])
        elif kind == b"eXIf" and length <= _MAX_EXIF_BYTES:
            exif = content
    else:
        raise RefusedError(f"a PNG with more than {MAX_CHUNKS} chunks")
    if len(kept) < 2:
        raise UnreadableError
    width, height, bits, colours = _unpack_all(">IIBB", data, 16)
    packed = b"".join(pixels)
    row = (width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colours, 4) + 7) // 8 + 1
    _check_packed("PNG", len(packed), height * row)
    kept.append(struct.pack(">I", len(packed)) + b"IDAT" + packed + bytes(4))  # Pillow does not read this checksum
    kept.append(b"\0\0\0\0IEND\xaeB`\x82")
    return Parts(width=width, height=height, data=b"".join(kept), orientation=orientation_of(exif))


def _check_packed(described: str, packed: int, pixels: int) -> None:
    """Compression makes nothing much larger; data that are, keep a decoder busy without a pixel."""
    if packed > 2 * pixels + _SLACK_BYTES:
        raise RefusedError(
            f"a {described} whose compressed pixels have {packed:,} bytes, though all its pixels have {pixels:,}"
        )


def gif(data: bytes) -> Parts:
    """A GIF without the texts and other extensions before its first frame."""
    width, height, flags = _unpack_all("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept, control, blocks = [data[:position]], b"", 0
    while data[position : position + 1] == b"!":
        start, is_control = position, data[position + 1 : position + 2] == b"\xf9"
        position += 2
        while (length := _unpack("<B", data, position)) != 0:
            position += 1 + length
            blocks += 1
            if blocks > MAX_PARTS:
                raise RefusedError(f"a GIF with more than {MAX_PARTS} blocks before its first frame")
        position += 1
        control = data[start:position] if is_control else control
    if data[position : position + 1] != b",":
        raise UnreadableError
    left, top, frame_width, frame_height = _unpack_all("<HHHH", data, position + 1)
    kept += [control, data[position:]]
    return Parts(width=max(width, left + frame_width), height=max(height, top + frame_height), data=b"".join(kept))


def webp(data: bytes) -> Parts:
    """A WebP without texts and profiles; of an animation, the first frame."""
    kept: dict[bytes, bytes] = {}
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            break
        kind, length = _unpack_all("<4sI", data, position)
        kept.setdefault(kind, data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    else:
        raise RefusedError(f"a WebP with more than {MAX_CHUNKS} chunks")
    first = next(iter(kept), b"")
    if first == b"VP8X":
        kept[first] = bytes([kept[first][0] & _WEBP_ALPHA_OR_FRAMES]) + kept[first][1:10] if kept[first] else b""
        width, height = (1 + int.from_bytes(kept[first][at : at + 3], "little") for at in (4, 7))
    elif first == b"VP8L":
        bits = _unpack("<I", kept[first], 1)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif first == b"VP8 ":
        width, height = (side & 0x3FFF for side in _unpack_all("<HH", kept[first], 6))
    else:
        raise UnreadableError
    if width * height > MAX_WEBP_PIXELS:
        raise RefusedError(f"a WebP of {width} x {height} pixels, accepted are at most {MAX_WEBP_PIXELS} pixels")
    chunks = b"".join(
        kind + struct.pack("<I", len(kept[kind])) + kept[kind] + bytes(len(kept[kind]) % 2)
        for kind in _WEBP_CHUNKS
        if kind in kept
    )
    return Parts(
        width=width,
        height=height,
        data=b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks,
        orientation=orientation_of(kept.get(b"EXIF", b"")),
    )


def bmp(data: bytes) -> Parts:
    """A BMP; decoders read nothing of it but pixels and palette."""
    header = _unpack("<I", data, 14)
    if header == 12:
        width, height, compression = *_unpack_all("<HH", data, 18), 0
    else:
        width, height, _, _, compression = _unpack_all("<iiHHI", data, 18)
    if compression in (1, 2) and (len(data) > MAX_SLOW_BYTES or width * abs(height) > MAX_SLOW_VALUES):
        raise RefusedError(
            f"a BMP with run-length encoding of {width} x {abs(height)} pixels and {len(data):,} bytes, accepted are "
            f"at most {MAX_SLOW_VALUES} pixels and {MAX_SLOW_BYTES:,} bytes"
        )
    return Parts(width=abs(width), height=abs(height), data=data)


def ppm(data: bytes) -> Parts:
    """A PBM, PGM or PPM with a new header: comments and spaces of any length are slow to read."""
    found = (_BITMAP if data[1:2] in b"14" else _PIXMAP).match(data[:_PPM_HEADER_BYTES])
    if found is None:
        raise UnreadableError
    kind, width, height, *most = (int(group) for group in found.groups())
    values = width * height * (3 if kind in (3, 6) else 1)
    if (kind < 4 or most[:1] not in ([], [255], [65535])) and (values > MAX_SLOW_VALUES or len(data) > MAX_SLOW_BYTES):
        described = "written as text" if kind < 4 else f"whose largest value is {most[0]}"
        raise RefusedError(
            f"a PPM {described}, of {values:,} values and {len(data):,} bytes, accepted are at most "
            f"{MAX_SLOW_VALUES:,} values and {MAX_SLOW_BYTES:,} bytes"
        )
    header = f"P{kind} {width} {height} {''.join(f'{one} ' for one in most)}".encode()
    return Parts(width=width, height=height, data=header + data[found.end() :])


def tiff(data: bytes) -> Parts:
    """The first picture of a TIFF or BigTIFF, with only the tags that pixels need."""
    try:
        tags = read_directory(data)
        file = tags.file_of(_TIFF_PIXEL_TAGS)
    except ValueError as error:
        raise RefusedError(f"a TIFF that is not accepted: {error}") from error
    width, height = tags.first_number(_WIDTH), tags.first_number(_HEIGHT)
    tile = tags.first_number(_TILE_WIDTH) * tags.first_number(_TILE_HEIGHT)
    if tile > max(_LEAST_TILE, 4 * width * height):
        raise RefusedError(f"a TIFF of {width} x {height} pixels with tiles of {tile:,} pixels")
    compression = tags.first_number(_COMPRESSION, 1)
    if compression not in TIFF_COMPRESSIONS:
        accepted = ", ".join(dict.fromkeys(TIFF_COMPRESSIONS.values()))
        raise RefusedError(f"a TIFF of compression {compression}, accepted are {accepted}")
    if compression != 1 and len(data) > MAX_COMPRESSED_TIFF_BYTES:
        raise RefusedError(
            f"a compressed TIFF of {len(data):,} bytes, accepted are at most {MAX_COMPRESSED_TIFF_BYTES:,}"
        )
    turned = tags.first_number(ORIENTATION, 1)
    return Parts(width=width, height=height, data=file, orientation=turned if 1 <= turned <= 8 else 1)


FORMATS: Mapping[str, tuple[re.Pattern[bytes], Callable[[bytes], Parts]]] = {
    "JPEG": (re.compile(rb"\xff\xd8\xff"), jpeg),
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), png),
    "WEBP": (re.compile(rb"RIFF....WEBP", re.DOTALL), webp),
    "BMP": (re.compile(rb"BM"), bmp),
    "GIF": (re.compile(rb"GIF8[79]a"), gif),
    "TIFF": (re.compile(rb"II[*+]\0|MM\0[*+]"), tiff),
    "PPM": (re.compile(rb"P[1-6][ \t\r\n\v\f#]"), ppm),
}
"""by Pillow's name: how a file starts, and what takes it apart"""


def take_apart(data: bytes) -> tuple[str, Parts]:
    """The format of a file, by Pillow's name, and its parts.

    Raises UnreadableError if it is of none, or its header is damaged, and RefusedError if this kind is not accepted.
    """
    for name, (start, take) in FORMATS.items():
        if start.match(data):
            try:
                return name, take(data)
            except (struct.error, IndexError) as error:
                raise UnreadableError from error
    raise UnreadableError


def _unpack(form: str, data: bytes, position: int) -> int:
    value: int = struct.unpack_from(form, data, position)[0]
    return value


def _unpack_all(form: str, data: bytes, position: int) -> tuple[Any, ...]:
    return struct.unpack_from(form, data, position)
