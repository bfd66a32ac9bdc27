"""Pictures of another size than annotated: each difference is told apart, and boxes follow where it is clear how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dynamicdet.datasets.check import check_data
from dynamicdet.datasets.dataset import read_dataset
from dynamicdet.datasets.frames import read_frame
from dynamicdet.errors import InputError
from dynamicdet.images import read_image
from tests.support.tiny_data import tiny_content, write_tiny_data

_BOX = (4, 6, 20, 10)  # x y width height, as in `tiny_content`


def _painted(size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A red rectangle at the annotated place, scaled to this size."""
    image = Image.new("RGB", (40, 30), (60, 90, 90))
    x, y, w, h = _BOX
    ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=(255, 0, 0))
    return image.resize(size, Image.Resampling.NEAREST)


def _red(path: Path) -> tuple[float, ...]:
    """Where the rectangle is in a picture as viewers show it, x y width height."""
    pixels = read_image(path).astype(int)
    y, x = np.nonzero((pixels[..., 0] > 180) & (pixels[..., 1] < 60))
    return float(x.min()), float(y.min()), float(x.max() + 1 - x.min()), float(y.max() + 1 - y.min())


def _kinds(folder: Path, **options: Any) -> dict[str, int]:
    return {finding.kind: finding.count for finding in check_data(folder, **options)[0].findings}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_boxes_follow_every_exif_orientation(tmp_path: Path, suffix: str) -> None:
    """2 to 4 keep the size; that they are turned too is known from pictures like 6, which do not."""
    content = tiny_content()
    content["images"], content["annotations"] = [], []
    folder = tmp_path / "images"
    folder.mkdir()
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = f"exif{orientation}.{suffix}"
        _painted().save(folder / name, exif=exif, **({"quality": 100} if suffix in ("jpg", "webp") else {}))
        assert read_frame(folder / name).row[2:] == (40, 30, orientation)
        content["images"].append({"id": orientation, "file_name": name, "width": 40, "height": 30})
        content["annotations"].append({"image_id": orientation, "category_id": 1, "bbox": list(_BOX)})
    write_tiny_data(tmp_path, content)
    assert _kinds(tmp_path)["turned"] == 4
    with pytest.raises(InputError, match=r"EXIF turns it after annotation .* --trust-pictures turn the boxes"):
        read_dataset(tmp_path, 40)
    read = read_dataset(tmp_path, 40, trust_pictures=True)
    assert read.summary.count("trusted") == 7
    for one in read.annotations["annotations"]:
        assert one["bbox"] == pytest.approx(_red(folder / f"exif{one['image_id']}.{suffix}"), abs=1), one


def test_a_turn_that_is_named_behind_the_pixels_counts_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _painted().save(tmp_path / "early.png", exif=exif)
    data = (tmp_path / "early.png").read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    (tmp_path / "late.png").write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert read_frame(tmp_path / "late.png") == read_frame(tmp_path / "early.png")
    assert read_image(tmp_path / "late.png").shape == (40, 30, 3)


def test_turns_that_keep_the_size_are_pointed_out(tmp_path: Path) -> None:
    folder = write_tiny_data(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 3
    _painted().save(folder / "images" / "1.png", exif=exif)
    assert _kinds(folder)["mirrored"] == 1
    assert read_dataset(folder, 32).annotations["annotations"][0]["bbox"] == list(_BOX)


@pytest.mark.parametrize(
    ("size", "kind", "message"),
    [
        ((20, 15), "resized", "was resized after annotation; annotate the pictures as they are"),
        ((41, 30), "resized", "has 41 x 30 pixels, but was annotated at 40 x 30"),
        ((64, 64), "stretched", "it was stretched, cropped or padded after annotation"),
    ],
)
def test_one_picture_of_another_size_among_many_is_fatal_unless_trusted(
    tmp_path: Path, size: tuple[int, int], kind: str, message: str
) -> None:
    folder = write_tiny_data(tmp_path)
    picture = folder / "images" / "2.png"
    _painted(size).save(picture)
    for fast in (False, True):
        found = _kinds(folder, fast=fast)
        assert found.get(kind) == 1 and len(found) == 1
    with pytest.raises(InputError, match=message):
        read_dataset(folder, 32, cache=tmp_path / "cache")
    for _ in range(2):  # written to the cache, then read from it
        read = read_dataset(folder, 32, cache=tmp_path / "cache", trust_pictures=True)
        assert read.annotations["annotations"][1]["bbox"] == pytest.approx(_red(picture), abs=1)
        assert read.summary.count("trusted") == 1
    with pytest.raises(InputError, match=message):  # from the cache, too
        read_dataset(folder, 32, cache=tmp_path / "cache")


def test_swapped_sizes_are_trusted_only_if_the_boxes_tell_which_frame_is_theirs(tmp_path: Path) -> None:
    content = tiny_content()
    for entry in content["images"]:
        entry.update(width=30, height=40)
    folder = write_tiny_data(tmp_path, content)
    assert _kinds(folder)["swapped"] == 3
    with pytest.raises(InputError, match="they may have been turned either way"):
        read_dataset(folder, 32, trust_pictures=True)
    for one in content["annotations"]:
        one["bbox"] = [20, 6, 19, 10]  # too wide for 30 x 40
    read = read_dataset(write_tiny_data(tmp_path, content), 32, trust_pictures=True)
    assert [one["bbox"] for one in read.annotations["annotations"]] == [[20, 6, 19, 10]] * 3


def test_sizes_that_are_not_annotated_come_from_the_picture(tmp_path: Path) -> None:
    content = tiny_content()
    for entry in content["images"]:
        del entry["width"], entry["height"]
    content["annotations"][0]["bbox"] = [4, 6, 500, 10]
    read = read_dataset(write_tiny_data(tmp_path, content), 32)
    assert (read.summary.count("no size"), read.summary.count("cut")) == (3, 1)
    assert read.annotations["annotations"][0]["bbox"] == [4, 6, 36, 10]
    assert read.annotations["images"][0]["width"] == 40


def test_files_that_are_no_whole_pictures_are_told_apart(tmp_path: Path) -> None:
    """A cut-off one is only found by reading it whole, which every command but `data check --fast` does."""
    for kind, write in (
        ("no picture", lambda path: path.write_text("no picture\n")),
        ("no picture", lambda path: path.write_bytes(b"")),
        ("no picture", lambda path: (path.unlink(), path.mkdir())),
        ("damaged", lambda path: path.write_bytes(path.read_bytes()[:-40])),
    ):
        folder = write_tiny_data(tmp_path / f"{kind}{id(write)}")
        rng = np.random.default_rng(0)
        picture = folder / "images" / "2.png"
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(picture)
        write(picture)
        assert _kinds(folder) == {kind: 1}
        assert _kinds(folder, fast=True) == ({} if kind == "damaged" else {kind: 1})
        with pytest.raises(InputError, match=r"2\.png"):
            read_dataset(folder, 32)


@pytest.mark.parametrize("fast", [True, False])
def test_a_picture_without_its_end_or_with_too_many_pixels_is_named_as_in_a_detection(
    fast: bool, tmp_path: Path
) -> None:
    folder = write_tiny_data(tmp_path)
    picture = folder / "images" / "2.png"
    picture.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    (found,) = check_data(folder, fast=fast)[0].findings
    said = "2.png: damaged or cut off; its first bytes are those of a JPEG"
    assert found.kind == "damaged" and said in found.examples[0]
    picture.write_bytes(b"P6 20000 20000 255\n")
    (found,) = check_data(folder, fast=fast)[0].findings
    said = "too large, 400,000,000 pixels, above the limit of 89,478,485 pixels"
    assert found.kind == "large" and said in found.examples[0]


def test_every_kind_of_picture_is_accepted(tmp_path: Path) -> None:
    """16 bits, CMYK, palettes, animations: as `read_image` reads them."""
    content = tiny_content()
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.full((30, 40), 999, np.uint16)).save(folder / "1.png")
    _painted().convert("CMYK").save(folder / "2.jpg")
    _painted().save(folder / "3.gif", save_all=True, append_images=[_painted().rotate(180)])
    for entry, name in zip(content["images"], ("1.png", "2.jpg", "3.gif"), strict=True):
        entry["file_name"] = name
    write_tiny_data(tmp_path / "other", content)
    (tmp_path / "annotations.json").write_bytes((tmp_path / "other" / "annotations.json").read_bytes())
    assert _kinds(tmp_path) == {}
