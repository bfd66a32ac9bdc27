"""Every kind of picture people have is read as 8-bit RGB; everything else is refused in one sentence."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynamicdet.errors import InputError
from dynamicdet.images import BACKGROUND, MAX_PIXELS, read_image


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims any size and has hardly any data: what a decompression bomb looks like before decoding."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


RED = (200, 30, 40)
RED_PICTURE = Image.new("RGB", (7, 5), RED)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(encoded(RED_PICTURE), id="png"),
        pytest.param(bytearray(encoded(RED_PICTURE)), id="bytearray"),
        pytest.param(encoded(RED_PICTURE, "WEBP", lossless=True), id="webp"),
        pytest.param(encoded(RED_PICTURE, "TIFF"), id="tiff"),
        pytest.param(encoded(RED_PICTURE, "BMP"), id="bmp"),
        pytest.param(encoded(RED_PICTURE.convert("P", palette=Image.Palette.ADAPTIVE)), id="palette"),
        pytest.param(encoded(RED_PICTURE.quantize(4), "GIF"), id="gif"),
        pytest.param(encoded(RED_PICTURE.convert("RGBA")), id="opaque alpha"),
        pytest.param(encoded(RED_PICTURE.convert("CMYK"), "TIFF"), id="cmyk"),
        pytest.param(RED_PICTURE, id="pil"),
        pytest.param(np.array(RED_PICTURE), id="array"),
        pytest.param(np.array(RED_PICTURE)[::-1, ::-1], id="array with negative strides"),
        pytest.param(np.array(RED_PICTURE.convert("RGBA")), id="rgba array"),
        pytest.param(np.array(RED_PICTURE).astype(np.uint16) * 257, id="16-bit array"),
    ],
)
def test_the_same_picture_in_any_form_gives_the_same_pixels(source) -> None:
    pixels = read_image(source)
    assert pixels.shape == (5, 7, 3) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels, np.broadcast_to(RED, (5, 7, 3)), atol=1)


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    pixels = read_image(encoded(Image.new("RGB", (32, 32), RED).convert("CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(pixels, np.broadcast_to(RED, (32, 32, 3)), atol=6)


@pytest.mark.parametrize("mode", ["png", "tiff", "pil", "array"])
def test_sixteen_bits_become_eight_over_the_whole_range(mode: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    picture = Image.fromarray(values)
    source = {"png": encoded(picture), "tiff": encoded(picture, "TIFF"), "pil": picture, "array": values}[mode]
    assert read_image(source)[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]


def test_transparency_shows_the_grey_of_the_letterbox() -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [214, 14, 114, 128]]], np.uint8)
    expected = [[255, 0, 0], [BACKGROUND] * 3, [164, 64, 114]]
    assert read_image(rgba)[0].tolist() == expected
    assert read_image(encoded(Image.fromarray(rgba)))[0].tolist() == expected
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert read_image(encoded(palette, transparency=0))[0, 0].tolist() == [BACKGROUND] * 3


def test_exif_orientation_is_applied() -> None:
    picture = Image.new("RGB", (20, 10), (0, 0, 255))
    picture.paste((255, 255, 0), (0, 0, 10, 10))  # left half yellow
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the left half comes to the top
    pixels = read_image(encoded(picture, exif=exif))
    assert pixels.shape == (20, 10, 3)
    assert pixels[2, 5].tolist() == [255, 255, 0] and pixels[17, 5].tolist() == [0, 0, 255]


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000)])
def test_extreme_shapes_are_read(size: tuple[int, int]) -> None:
    assert read_image(encoded(Image.new("RGB", size))).shape == (size[1], size[0], 3)


def test_paths_are_read_and_named_in_errors(tmp_path: Path) -> None:
    good, text, empty = tmp_path / "ä b.png", tmp_path / "notes.txt", tmp_path / "empty.jpg"
    good.write_bytes(encoded(RED_PICTURE))
    text.write_text("no picture")
    empty.touch()
    assert read_image(good).shape == read_image(str(good)).shape == (5, 7, 3)
    for bad, reason in [
        (text, "not a readable image"),
        (empty, "empty"),
        (tmp_path / "missing.jpg", "does not exist"),
        (tmp_path, "is a folder"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ]:
        with pytest.raises(InputError, match=reason) as caught:
            read_image(bad)
        assert bad.name in str(caught.value) and "\n" not in str(caught.value)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param(encoded(NOISE, "JPEG")[:1500], "damaged or cut off", id="truncated jpeg"),
        pytest.param(encoded(NOISE)[:1500], "damaged or cut off", id="truncated png"),
        pytest.param(encoded(NOISE, "WEBP")[:200], "image", id="truncated webp"),
        pytest.param(b"\xff\xd8\xff", "its first bytes are those of a JPEG", id="jpeg marker alone"),
        pytest.param(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable image", id="postscript is not run"
        ),
        pytest.param(b"", "empty", id="zero bytes"),
        pytest.param(png_header(60_000, 60_000), f"{MAX_PIXELS:,} pixels", id="bomb"),
        pytest.param(png_header(9_000, 10_000), f"{MAX_PIXELS:,} pixels", id="just too large"),
        pytest.param(Image.new("RGB", (0, 4)), "0 x 4", id="empty pil image"),
        pytest.param(Image.new("F", (4, 4)), "floating point", id="float pil image"),
        pytest.param(Image.new("I", (2, 2), 70_000), "32-bit", id="32-bit pil image"),
        pytest.param(np.zeros((4, 4, 3)), "float64.*multiply", id="float array"),
        pytest.param(np.zeros((4, 4, 3), np.int64), "int64", id="int64 array"),
        pytest.param(np.zeros((4, 4, 3), object), "object", id="object array"),
        pytest.param(np.zeros((3, 40, 40), np.uint8), r"\(3, 40, 40\)", id="channels first"),
        pytest.param(np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)", id="a batch"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), "no pixels", id="no rows"),
        pytest.param(np.zeros((4, 0), np.uint8), "no pixels", id="no columns"),
        pytest.param(None, "NoneType", id="none"),
        pytest.param([[1, 2], [3, 4]], "list", id="list"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_picture_is_refused_in_one_sentence(source, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        read_image(source)
    assert "\n" not in str(caught.value)
