"""Picture files of all kinds, good and bad, made in memory."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from tests.support.toy_bundle import image


def encode(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, packed: bytes, *others: bytes, bits: int = 8, colours: int = 2) -> bytes:
    """A PNG with these compressed rows, RGB unless `colours` says otherwise, and other chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *others, chunk(b"IDAT", packed), chunk(b"IEND", b"")))


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is this large, and holds next to nothing."""
    return png(width, height, zlib.compress(bytes(1000)))


def jpeg_header(width: int, height: int) -> bytes:
    return _resized(encode(image(10), "JPEG"), b"\xff\xc0", width, height)


def _resized(jpeg: bytes, frame: bytes, width: int, height: int) -> bytes:
    place = jpeg.index(frame) + 5
    return jpeg[:place] + struct.pack(">HH", height, width) + jpeg[place + 4 :]


def jpeg_with(*segments: bytes) -> bytes:
    """A JPEG with these before its own."""
    jpeg = encode(image(10), "JPEG")
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content


def gif_with(blocks: int) -> bytes:
    """A GIF with a comment of so many blocks."""
    gif = encode(Image.new("P", (10, 10)), "GIF")
    first = gif.index(b",", 13)
    return gif[:first] + b"!\xfe" + b"\x01a" * blocks + b"\0" + gif[first:]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"".join(
        kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2) for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def webp_header(width: int, height: int) -> bytes:
    """A WebP that says its canvas is this large."""
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    return riff((b"VP8X", b"\0\0\0\0" + sides))


def tiff(*entries: tuple[int, int, int, int], width: int = 10, height: int = 10) -> bytes:
    """A grey TIFF of zeros; entries (tag, type, count, value) are added to the ordinary ones or replace them."""
    ordinary = ((256, 4, 1, width), (257, 4, 1, height), (258, 4, 1, 8), (259, 4, 1, 1), (262, 4, 1, 1))
    strips = ((273, 4, 1, 8), (277, 4, 1, 1), (278, 4, 1, height), (279, 4, 1, width * height))
    tags = {entry[0]: entry for entry in (*ordinary, *strips, *entries)}
    pixels = bytes(width * height)
    directory = b"".join(struct.pack("<HHII", *tags[tag]) for tag in sorted(tags))
    start = struct.pack("<4sI", b"II*\0", 8 + len(pixels))
    return start + pixels + struct.pack("<H", len(tags)) + directory + bytes(4)


def exif(*entries: tuple[int, int, int, int]) -> bytes:
    """EXIF data with these tags: (tag, type, count, value)."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


def zeros(megabytes: int) -> bytes:
    """So many zeros, compressed a thousand times smaller."""
    packer = zlib.compressobj(1)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(megabytes)), packer.flush()])


EMPTY_BLOCKS = b"\x78\x01" + b"\x02\x08\x20\x80\x00" * 100_000
"""compressed data without content: 400,000 blocks that end at once"""


def refused_files() -> dict[str, tuple[bytes, str]]:
    """Files that would keep a decoder busy or fill the memory, and what the refusal says."""
    frame = struct.pack(">BHHB", 8, 10, 10, 3) + bytes(9)
    return {
        "JPEG: comments": (jpeg_with(segment(0xFE, b"") * 2001), "more than 2,000 segments"),
        "JPEG: profiles": (jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\1") * 2001), "more than 2,000 segments"),
        "JPEG: bytes between segments": (
            jpeg_with(segment(0xFE, b"") + bytes(5000)),
            "more than 4,096 bytes between",
        ),
        "JPEG: scans": (many_scans(101), "scans; dyndet accepts at most 100: save it again as a baseline JPEG"),
        "JPEG: scans of many pixels": (many_scans(80, 3000), "too large, a JPEG with 8"),
        "JPEG: progressive and large": (many_scans(1, 9400), "at most 250,000,000 pixels in all scans: resize it"),
        "JPEG: arithmetic": (jpeg_with(segment(0xC9, frame)), "baseline and progressive"),
        "JPEG: lossless": (jpeg_with(segment(0xC3, frame)), "baseline and progressive"),
        "JPEG: 12 bits": (
            jpeg_with(segment(0xC1, b"\x0c" + frame[1:])),
            "bits; dyndet reads JPEGs of 8 bits: save",
        ),
        "PNG: a column": (png(1, 70_000, EMPTY_BLOCKS), "too large, 1 x 70000 pixels, above 65,535 pixels of a side"),
        "PNG: chunks": (
            png(10, 10, zlib.compress(bytes(310)), chunk(b"abCd", b"") * 100_001),
            "a PNG with more than 100,000 chunks",
        ),
        "PNG: empty blocks": (png(10, 10, EMPTY_BLOCKS), "too large, a PNG of 10 x 10 pixels with 500,002 bytes"),
        "PNG: 16 bits": (png(9000, 9000, EMPTY_BLOCKS, bits=16), "too large, a PNG with transparency or 16 bits of"),
        "PNG: transparency": (png(8000, 8000, EMPTY_BLOCKS, colours=6), "dyndet accepts at most 50,000,000 pixels"),
        "GIF: blocks": (gif_with(2001), "more than 2,000 blocks"),
        "WebP: chunks": (riff(*[(b"abcd", b"")] * 100_001), "more than 100,000 chunks"),
        "WebP: pixels": (webp_header(6000, 5000), "too large, a WebP of 6000 x 5000 pixels; dyndet"),
        "BMP: runs": (_bmp_of_runs(3000), "too large, a BMP with run-length encoding of 3000"),
        "TIFF: tags": (
            tiff(*((40_000 + tag, 3, 1, 0) for tag in range(1001))),
            "dyndet accepts at most 1,000: save",
        ),
        "TIFF: long tags": (tiff((273, 4, 10_000_000, 0)), "a TIFF with 40,000,"),
        "TIFF: strips": (tiff((273, 3, 300_000, 8)), "a TIFF of 300,000 strips or tiles"),
        "TIFF: tiles": (tiff((322, 4, 1, 60_000), (323, 4, 1, 60_000)), "with tiles of 3,600,000,000 pixels"),
        "TIFF: LZMA": (tiff((259, 3, 1, 34925)), "a TIFF of compression 34925; dyndet reads none, LZW"),
        "TIFF: compressed pixels": (
            tiff((256, 4, 1, 8000), (257, 4, 1, 7000), (259, 3, 1, 8)),
            "too large, a compressed TIFF of 8000",
        ),
        "TIFF: compressed": (tiff((259, 3, 1, 5)) + bytes(17 << 20), "too large, a compressed TIFF of 17,8"),
        "PPM: comment": (b"P6\n#" + b"a" * 5000 + b"\n1 1 255\n123", "a PPM with more than 4,096 bytes before"),
        "PPM: digits": (b"P6\n" + b"0" * 5000 + b"1 1 255\n123", "a PPM with more than 4,096 bytes before"),
        "PPM: text": (b"P3\n700 700 255\n" + b"1 " * 100, "too large, a PPM written as text, of 1,470,000"),
        "PPM: long text": (b"P2\n7 7 255\n" + b" " * (5 << 20), "written as text, of 49 values and 5,242,"),
        "PPM: 16 bits in colour": (b"P6\n2000 2000 65535\n" + bytes(100), "is 65535, of 12,000,000 values"),
        "PPM: other values": (b"P5\n2000 2000 254\n" + bytes(100), "largest value is 254, of 4,000,000 values"),
    }


def _bmp_of_runs(side: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 100, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1178, 0, 0, 1078) + header + bytes(1024 + 100)


def accepted_files() -> dict[str, tuple[bytes, bytes]]:
    """Files with large or broken parts that no decoder needs, and the same pictures without them."""
    rows = zlib.compress(bytes(310))
    plain_png, plain_jpeg, plain_gif = png(10, 10, rows), jpeg_with(), gif_with(0)
    bomb = b"a\0\0" + zeros(100)
    many = exif(*((tag, 7, 60_000, 8) for tag in range(5000)))
    loop = exif((0x8769, 4, 1, 8), (0x8825, 4, 1, 8))
    photograph = Image.fromarray(image(10, seed=1))
    return {
        "PNG: a text of 100 MB": (png(10, 10, rows, chunk(b"zTXt", bomb)), plain_png),
        "PNG: a profile of 100 MB": (png(10, 10, rows, chunk(b"iCCP", bomb)), plain_png),
        "PNG: EXIF data of many tags": (png(10, 10, rows, chunk(b"eXIf", many[6:] + bytes(60_000))), plain_png),
        "PNG: texts": (png(10, 10, rows, chunk(b"tEXt", b"a\0b") * 50_000), plain_png),
        "JPEG: EXIF data of many tags": (jpeg_with(segment(0xE1, many[:65_000])), plain_jpeg),
        "JPEG: EXIF data that name themselves": (jpeg_with(segment(0xE1, loop)), plain_jpeg),
        "JPEG: profiles": (jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)) * 50), plain_jpeg),
        "JPEG: many pictures": (jpeg_with(segment(0xE2, b"MPF\0" + loop[6:])), plain_jpeg),
        "GIF: comments": (gif_with(1900), plain_gif),
        "TIFF: tags of no use": (tiff((34665, 4, 1, 108), (700, 7, 1 << 30, 0)), tiff()),
        "TIFF: a directory in a circle": (tiff()[:-4] + struct.pack("<I", 108), tiff()),
        "WebP: a profile": (
            encode(photograph, "WEBP", lossless=True, icc_profile=bytes(100_000)),
            encode(photograph, "WEBP", lossless=True),
        ),
    }


def many_scans(count: int, side: int | None = None) -> bytes:
    """A progressive JPEG; `side` is what it says of its size."""
    jpeg = encode(image(10), "JPEG", progressive=True)
    if side is not None:
        jpeg = _resized(jpeg, b"\xff\xc2", side, side)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * count + jpeg[-2:]


def unusual_files() -> dict[str, bytes]:
    noise = np.random.default_rng(0)
    rgb = noise.integers(0, 256, (40, 60, 3), np.uint8)
    deep = noise.integers(0, 65536, (40, 60), np.uint16)
    picture = Image.fromarray(rgb)
    return {
        "animated": encode(picture, "GIF", save_all=True, append_images=[Image.new("RGB", (60, 40))]),
        "cmyk": encode(picture.convert("CMYK"), "JPEG"),
        "16 bits": encode(Image.fromarray(deep)),
        "alpha": encode(np.dstack([rgb, noise.integers(0, 256, (40, 60), np.uint8)])),
        "palette": encode(picture.quantize(16), "PNG", transparency=3),
        "two colours": encode(picture.convert("1")),
        "grey jpeg": encode(picture.convert("L"), "JPEG"),
        "rgb jpeg": encode(picture, "JPEG", keep_rgb=True),
        "4:1:1": encode(picture, "JPEG", subsampling=2),
        "progressive": encode(picture, "JPEG", progressive=True, quality=30),
        "several frames": encode(picture, "MPO", save_all=True, append_images=[Image.new("RGB", (60, 40))]),
        "restart markers": encode(picture, "JPEG", restart_marker_blocks=1),
        "after the end": encode(picture, "JPEG") + b"more",
        "webp": encode(picture, "WEBP"),
        "tiff": encode(picture, "TIFF"),
        "one pixel": encode(rgb[:1, :1]),
        "one pixel jpeg": encode(rgb[:1, :1], "JPEG"),
        "a line": encode(rgb[:1], "JPEG"),
        **{f"turned {way}": encode(picture, "JPEG", exif=turned(way)) for way in (1, 2, 6, 9)},
    }
