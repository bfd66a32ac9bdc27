"""Takes picture files apart, of each format the parts that make pixels; needs only Python.

Decoders read far more than pixels: texts, profiles, thumbnails, further frames. A hostile file makes that slow or
large. So a decoder gets a file of only the parts that it needs, and only if their number and size are within limits.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from dynamicdet.picture_formats.limits import (
    AS_PLAIN_JPEG,
    MAX_CHUNKS,
    MAX_PARTS,
    MAX_SCANNED,
    MAX_SCANS,
    MAX_WEBP_PIXELS,
    Parts,
    RefusedError,
    TooLargeError,
    UnreadableError,
    check_pixels,
    unpack,
    unpack_all,
)
from dynamicdet.picture_formats.tiff_tags import orientation_of

_MAX_EXIF_BYTES = 1 << 20
_MAX_JUNK_BYTES = 4096
_SLACK_BYTES = 1 << 16
_WEBP_CHUNKS = (b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"VP8L", b"ANMF")
_WEBP_ALPHA_OR_FRAMES = 0x12

_SCAN, _END, _EXIF = 0xDA, 0xD9, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PIXEL_SEGMENTS = frozenset((*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE))
"""frames, tables, and what says which colours they are (JFIF, Adobe)"""
_MARKER = re.compile(rb"\xff+([^\x00\xff])")


def jpeg(data: bytes) -> Parts:
    """A JPEG without its texts, profiles and thumbnails; of several pictures in it (MPO), the first."""
    kept, size, exif, scan = [data[:2]], None, b"", 0
    for marker, start, end in _segments(data):
        if marker in _FRAMES:
            size = _jpeg_size(marker, data[start + 2 : end])
            if data[start + 7 : start + 8] == b"\x04":
                check_pixels("JPEG of four colours", *size)
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
        if found is None and len(data) > position + _MAX_JUNK_BYTES:
            raise RefusedError(f"a JPEG with more than {_MAX_JUNK_BYTES:,} bytes between two segments; {AS_PLAIN_JPEG}")
        if found is None:
            raise UnreadableError
        marker, start = found[1][0], found.end()
        if marker in (0x01, *range(0xD0, _END)):  # without content
            position = start
            continue
        position = start + unpack(">H", data, start)
        if position < start + 2 or marker == _END:
            raise UnreadableError
        yield marker, start, position
        if marker == _SCAN:
            return
    raise RefusedError(f"a JPEG with more than {MAX_PARTS:,} segments before its first scan; {AS_PLAIN_JPEG}")


def _check_scans(scans: int, width: int, height: int) -> None:
    if scans > MAX_SCANS:
        raise RefusedError(f"a JPEG with {scans:,} scans; dyndet accepts at most {MAX_SCANS}: {AS_PLAIN_JPEG}")
    if scans > 1 and scans * width * height > MAX_SCANNED:
        raise TooLargeError(
            f"a JPEG with {scans} scans of {width} x {height} pixels; dyndet accepts at most {MAX_SCANNED:,} pixels in "
            "all scans: resize it, or save it again as a baseline JPEG"
        )


def _jpeg_size(marker: int, content: bytes) -> tuple[int, int]:
    if marker not in (0xC0, 0xC1, 0xC2):
        raise RefusedError(
            "a lossless, hierarchical or arithmetic-coded JPEG; dyndet reads baseline and progressive JPEGs: "
            f"{AS_PLAIN_JPEG}"
        )
    bits, height, width = unpack_all(">BHH", content, 0)
    if bits != 8:
        raise RefusedError(f"a JPEG of {bits} bits; dyndet reads JPEGs of 8 bits: {AS_PLAIN_JPEG}")
    return width, height


def png(data: bytes) -> Parts:
    """A PNG with its pixels, palette and transparency; of an animation, the picture that is not part of it."""
    kept, pixels, exif, position = [data[:8]], [], b"", 8
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            break
        length, kind = unpack_all(">I4s", data, position)
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
        raise RefusedError(f"a PNG with more than {MAX_CHUNKS:,} chunks; save it again")
    if len(kept) < 2:
        raise UnreadableError
    width, height, bits, colours = unpack_all(">IIBB", data, 16)
    if bits > 8 or colours in (4, 6) or any(part[4:8] == b"tRNS" for part in kept):
        check_pixels("PNG with transparency or 16 bits", width, height)
    packed = b"".join(pixels)
    row = (width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colours, 4) + 7) // 8 + 1
    _check_packed(len(packed), 2 * height * row + _SLACK_BYTES, f"{width} x {height} pixels")
    kept.append(struct.pack(">I", len(packed)) + b"IDAT" + packed + bytes(4))  # Pillow does not read this checksum
    kept.append(b"\0\0\0\0IEND\xaeB`\x82")
    return Parts(width=width, height=height, data=b"".join(kept), orientation=orientation_of(exif))


def _check_packed(packed: int, limit: int, size: str) -> None:
    """Compression makes nothing much larger; data that are, keep a decoder busy without a pixel."""
    if packed > limit:
        raise TooLargeError(
            f"a PNG of {size} with {packed:,} bytes of compressed pixels; dyndet accepts at most {limit:,} bytes for "
            "this size: save it again"
        )


def gif(data: bytes) -> Parts:
    """A GIF without the texts and other extensions before its first frame."""
    width, height, flags = unpack_all("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept, control, blocks = [data[:position]], b"", 0
    while data[position : position + 1] == b"!":
        start, is_control = position, data[position + 1 : position + 2] == b"\xf9"
        position += 2
        while (length := unpack("<B", data, position)) != 0:
            position += 1 + length
            blocks += 1
            if blocks > MAX_PARTS:
                raise RefusedError(f"a GIF with more than {MAX_PARTS:,} blocks before its first frame; save it again")
        position += 1
        control = data[start:position] if is_control else control
    if data[position : position + 1] != b",":
        raise UnreadableError
    left, top, frame_width, frame_height = unpack_all("<HHHH", data, position + 1)
    kept += [control, data[position:]]
    return Parts(width=max(width, left + frame_width), height=max(height, top + frame_height), data=b"".join(kept))


def webp(data: bytes) -> Parts:
    """A WebP without texts and profiles; of an animation, the first frame."""
    kept: dict[bytes, bytes] = {}
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            break
        kind, length = unpack_all("<4sI", data, position)
        kept.setdefault(kind, data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    else:
        raise RefusedError(f"a WebP with more than {MAX_CHUNKS:,} chunks; save it again")
    first = next(iter(kept), b"")
    if first == b"VP8X":
        kept[first] = bytes([kept[first][0] & _WEBP_ALPHA_OR_FRAMES]) + kept[first][1:10] if kept[first] else b""
        width, height = (1 + int.from_bytes(kept[first][at : at + 3], "little") for at in (4, 7))
    elif first == b"VP8L":
        bits = unpack("<I", kept[first], 1)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif first == b"VP8 ":
        width, height = (side & 0x3FFF for side in unpack_all("<HH", kept[first], 6))
    else:
        raise UnreadableError
    check_pixels("WebP", width, height, limit=MAX_WEBP_PIXELS)
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
