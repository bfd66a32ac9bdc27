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


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is this large, and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    jpeg = bytearray(encode(image(10), "JPEG"))
    place = jpeg.index(b"\xff\xc0")
    jpeg[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(jpeg)


def many_scans(count: int) -> bytes:
    jpeg = encode(image(10), "JPEG", progressive=True)
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
