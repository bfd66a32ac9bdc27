"""Pictures of others: what would keep a decoder busy or fill the memory is refused by rule, before it is decoded."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from dynamicdet import picture_files
from dynamicdet.errors import InputError, PictureTooLargeError
from dynamicdet.images import read_image
from dynamicdet.picture_files import open_picture
from dynamicdet.picture_formats.tiff_tags import orientation_of
from tests.support.picture_files import accepted_files, encode, exif, refused_files, tiff, turned, unusual_files

REFUSED, ACCEPTED = refused_files(), accepted_files()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_hostile_file_is_refused_from_its_structure(kind: str) -> None:
    """`open_picture` decodes nothing, so the refusal costs no more than a look at the file."""
    file, said = REFUSED[kind]
    with pytest.raises(InputError) as caught:
        open_picture(file, "it.jpg")
    text = str(caught.value)
    assert text.startswith("it.jpg: ") and said in text
    assert text.isprintable() and len(text) < 200
    assert isinstance(caught.value, PictureTooLargeError) == text.startswith("it.jpg: too large, ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_a_file_that_ends_in_its_header_is_called_damaged(kind: str) -> None:
    """Its first bytes say what it was: the list of accepted formats would not help."""
    file = encode(Image.new("RGB", (50, 50)), kind)
    for length in (8, 12, 20):
        if (kind == "WEBP" and length < 12) or (kind == "PPM" and length > 8):
            continue
        with pytest.raises(InputError, match=f"^it: damaged or cut off; its first bytes are those of a (?i:{kind})$"):
            open_picture(file[:length], "it")


@pytest.mark.parametrize("kind", ACCEPTED)
def test_parts_that_make_no_pixels_never_reach_a_decoder(kind: str) -> None:
    """Texts, profiles and tags may be large or broken: the decoder gets the file that has none."""
    file, plain = ACCEPTED[kind]
    assert len(open_picture(file, "it").data) < len(plain) + 200
    assert np.array_equal(read_image(file), read_image(plain))


def test_a_file_with_too_many_bytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = encode(Image.new("RGB", (5, 5)))
    with pytest.raises(PictureTooLargeError, match=r"it: too large, \d+ bytes, above the limit of 50 bytes"):
        open_picture(file, "it", max_bytes=50)
    sparse = tmp_path / "sparse.png"
    with sparse.open("wb") as written:
        written.truncate(1 << 40)
    with pytest.raises(PictureTooLargeError, match="1,099,511,627,776 bytes, above the limit of 536,870,912 bytes"):
        read_image(sparse)


def test_decoding_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """No number in a PNG tells how many blocks its compressed pixels have; so the time is limited while it is read."""
    file = open_picture(encode(Image.new("RGB", (50, 50))), "it")
    file.decode()
    monkeypatch.setattr(picture_files, "MAX_SECONDS", -1)
    with pytest.raises(InputError, match=r"^it: takes more than -1.0 s to decode$"):
        file.decode()


@pytest.mark.parametrize("way", range(1, 9))
def test_every_format_with_an_orientation_is_turned_as_pillow_turns_it(way: int) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8))
    picture.getexif()[0x0112] = way
    expected = np.asarray(ImageOps.exif_transpose(picture))
    for kind, options in (("PNG", {}), ("TIFF", {}), ("TIFF", {"big_tiff": True}), ("WEBP", {"lossless": True})):
        found = read_image(encode(picture, kind, exif=turned(way), **options))
        assert np.array_equal(found, expected), (kind, options)


def test_damage_of_any_kind_gives_pixels_or_one_sentence() -> None:
    """Bytes changed, cut out, doubled and appended in small files of every format: never another error."""
    chance = random.Random(0)
    whole = [*unusual_files().values(), tiff(), *(file for file, _ in ACCEPTED.values() if len(file) < 5000)]
    whole += [b"P3\n2 2 255\n1 2 3 4 5 6 7 8 9 10 11 12", b"P4\n9 2\n1234", b"P5 # grey\n2 2 1023\n12345678"]
    for options in ({"compression": "tiff_lzw"}, {"big_tiff": True}):
        whole.append(encode(Image.new("RGB", (5, 5)), "TIFF", exif=turned(3), **options))
    read = refused = 0
    for _ in range(6000):
        file = _damaged(chance.choice(whole), chance)
        try:
            pixels = read_image(file)
        except InputError as error:
            refused += 1
            assert str(error).startswith("the image bytes: ") and str(error).isprintable(), file
        else:
            read += 1
            assert pixels.dtype == np.uint8 and pixels.shape[2:] == (3,)
    assert read > 1000 and refused > 1000


def _damaged(file: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        start = chance.randrange(min(len(file), chance.choice((40, 400, len(file)))) or 1)
        end = start + chance.choice((1, 1, 2, 4, 30))
        changed = chance.choice(
            (chance.randbytes(end - start), b"\xff\xff\xff\xff", b"", bytes(4), 2 * file[start:end])
        )
        file = file[:start] + changed + file[end:]
    return file[: chance.randrange(len(file) + 1)] if chance.random() < 0.1 else file


def test_exif_data_of_any_content_give_an_orientation() -> None:
    chance = random.Random(1)
    whole = exif((0x0112, 3, 1, 6), (0x8769, 4, 1, 8))
    found = {orientation_of(_damaged(whole, chance)) for _ in range(5000)}
    assert found <= set(range(1, 9)) and {1, 6} <= found
