"""The cut-and-paste data set: determinism, true boxes, splits apart; and the validation split that ships."""

from __future__ import annotations

import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from dynamicdet.datasets.cutpaste import Sources, Summary, build, locate
from dynamicdet.datasets.cutpaste.assets import OPAQUE, load, names_of_split
from dynamicdet.datasets.cutpaste.catalogue import BACKGROUNDS, CLASSES, CLUTTER
from dynamicdet.datasets.cutpaste.scene import (
    SMALLEST_SIDE,
    SMALLEST_VISIBLE_SHARE,
    Placed,
    box_of,
    make,
    visible_masks,
)
from dynamicdet.datasets.cutpaste.splits import divide_each
from dynamicdet.errors import InputError
from dyndet_builder.cli import dyndet, run

SHIPPED = Path(__file__).parents[3] / "benchmarks" / "demo" / "val"


@pytest.fixture(scope="module")
def source_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the packages: magenta objects of every shape, grey clutter, grey textured photographs.

    The colour makes a second, independent way to tell where objects are in the finished JPEG files.
    """
    root = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    for kind in (*CLASSES, CLUTTER):
        for name in kind.cutouts:
            path = root / "usr/share" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _polygon("grey" if kind is CLUTTER else "magenta", rng).save(path)
    for name in BACKGROUNDS:
        path = root / "usr/share" / name
        path = path if path.suffix else path / "1920x1080.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        texture = rng.integers(60, 200, size=(30, 40), dtype=np.uint8)
        Image.fromarray(texture).resize((480, 360), Image.Resampling.BICUBIC).convert("RGB").save(path)
    return root


def _polygon(colour: str, rng: np.random.Generator) -> Image.Image:
    width, height = (int(side) for side in rng.integers(150, 260, size=2))
    image = Image.new("RGBA", (width + 20, height + 20))
    angles = np.sort(rng.uniform(0, 2 * np.pi, size=12))
    points = [(10 + width / 2 * (1 + np.cos(angle)), 10 + height / 2 * (1 + np.sin(angle))) for angle in angles]
    ImageDraw.Draw(image).polygon(points, fill=colour)
    return image


@pytest.fixture(scope="module")
def sources(source_folder: Path) -> Sources:
    return locate((source_folder,))


@pytest.fixture(scope="module")
def data_set(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Summary, ...]]:
    folder = tmp_path_factory.mktemp("data") / "set"
    return folder, build(folder, sources, train_images=60, val_images=30, seed=3, workers=2)


def _read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "annotations.json").read_text())
    return content


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(
    data_set: tuple[Path, tuple[Summary, ...]], sources: Sources, tmp_path: Path
) -> None:
    folder, _ = data_set
    build(tmp_path / "again", sources, train_images=60, val_images=30, seed=3, workers=1)
    assert _files(tmp_path / "again") == _files(folder)
    build(tmp_path / "other", sources, train_images=0, val_images=2, seed=4, workers=1)
    assert (tmp_path / "other/val/images/000000.jpg").read_bytes() != (folder / "val/images/000000.jpg").read_bytes()


def test_boxes_are_those_of_the_objects_in_the_finished_images(data_set: tuple[Path, tuple[Summary, ...]]) -> None:
    folder, _ = data_set
    alone = 0
    for split in ("train", "val"):
        content = _read(folder / split)
        for record in content["images"]:
            if record["scene_difficulty"] > 0.5:
                continue  # noise and blur of hard scenes hide the colour
            boxes = [one["bbox"] for one in content["annotations"] if one["image_id"] == record["id"]]
            coloured = _magenta(folder / split / "images" / record["file_name"])
            outside = coloured.copy()
            for x, y, width, height in np.array(boxes, dtype=int):
                outside[max(y - 3, 0) : y + height + 3, max(x - 3, 0) : x + width + 3] = False
            assert outside.sum() <= 4, f"{record['file_name']} shows an object without a box"
            if len(boxes) == 1:
                alone += 1
                assert np.allclose(boxes[0], box_of(coloured), atol=4), record["file_name"]
    assert alone >= 10


def test_masks_are_what_is_visible_of_the_objects(data_set: tuple[Path, tuple[Summary, ...]]) -> None:
    """pycocotools decodes them: boxes and areas are theirs, and no pixel of a picture belongs to two objects."""
    folder, _ = data_set
    assert run(dyndet, ["data", "check", str(folder), "--masks"]) == 0
    coco = COCO(str(folder / "train" / "annotations.json"))
    for image in coco.getImgIds():
        covered: Any = 0
        for one in coco.loadAnns(coco.getAnnIds(imgIds=image)):
            mask = coco.annToMask(one)
            assert one["area"] == mask.sum() and one["bbox"] == list(box_of(mask.astype(bool)))
            covered = covered + mask
        assert covered.max() == 1
    text = (folder / "train" / "annotations.json").stat().st_size
    assert text < 0.5 * sum(path.stat().st_size for path in (folder / "train" / "images").iterdir())


def _magenta(path: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    found: np.ndarray[Any, np.dtype[np.bool_]] = np.minimum(pixels[..., 0], pixels[..., 2]) - pixels[..., 1] > 45
    return found


def test_only_what_is_seen_of_a_covered_object_counts() -> None:
    def block(left: int, top: int, width: int, height: int) -> Placed:
        image = Image.new("RGBA", (width + 4, height + 4))  # a rim of 2 transparent pixels belongs to no object
        image.paste((200, 0, 0, 255), (2, 2, 2 + width, 2 + height))
        return Placed(0, image, left - 2, top - 2, unseen=False)

    covered, covering, cut = block(10, 10, 40, 20), block(30, 5, 50, 30), block(-10, 50, 30, 10)
    masks, areas = visible_masks([covered, covering, cut], (100, 80))
    assert [box_of(mask) for mask in masks] == [(10, 10, 20, 20), (30, 5, 50, 30), (0, 50, 20, 10)]
    assert areas == [800, 1500, 300]
    assert [int(mask.sum()) for mask in masks] == [400, 1500, 200]


def test_hardly_visible_objects_are_taken_out_of_the_scene(sources: Sources) -> None:
    with ThreadPoolExecutor(1) as executor:
        assets = load(sources, "val", executor)
    least = 1.0
    for number in range(80):
        scene = make(assets, np.random.default_rng(number))
        for thing, mask in zip(scene.objects, scene.masks, strict=True):
            area = (np.asarray(thing.image.getchannel("A")) >= OPAQUE).sum()
            least = min(least, float(mask.sum() / area))
            assert min(box_of(mask)[2:]) >= SMALLEST_SIDE
    assert SMALLEST_VISIBLE_SHARE <= least < 0.6, "objects are covered, but never too much"


def test_both_kinds_of_scene_occur_and_pycocotools_reads_them(data_set: tuple[Path, tuple[Summary, ...]]) -> None:
    folder, summaries = data_set
    for summary in summaries:
        coco = COCO(str(folder / summary.split / "annotations.json"))
        assert len(coco.getImgIds()) == summary.images
        assert len(coco.getAnnIds()) == summary.objects
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == [kind.name for kind in CLASSES]
        objects = {"easy": [0], "hard": [0]}
        for image in coco.loadImgs(coco.getImgIds()):
            objects[image["kind"]].append(len(coco.getAnnIds(imgIds=image["id"])))
        assert min(len(counts) for counts in objects.values()) > summary.images / 4
        assert max(objects["easy"]) <= 2 < max(objects["hard"])


def test_training_never_uses_what_is_kept_for_validation(data_set: tuple[Path, tuple[Summary, ...]]) -> None:
    train, val = names_of_split("train"), names_of_split("val")
    assert not set(train["backgrounds"]) & set(val["backgrounds"])
    for kind in CLASSES:
        kept = set(divide_each(kind.kinds)["val"])
        assert all(len(kept & set(names)) >= max(1, len(names) // 5) for names in kind.kinds)
        assert kept <= set(val[kind.name])
        assert not kept & set(train[kind.name])
        assert kept | set(train[kind.name]) == set(val[kind.name])
    folder, _ = data_set
    assert not any(one["unseen"] for one in _read(folder / "train")["annotations"])
    assert any(one["unseen"] for one in _read(folder / "val")["annotations"])


def test_an_output_with_other_files_is_left_alone(source_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    command = ["data", "cutpaste", str(tmp_path), "--sources", str(source_folder), "--val-images", "1"]
    assert run(dyndet, command) == 2
    assert run(dyndet, [*command, "--overwrite"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_overwrite_replaces_a_data_set(source_folder: Path, tmp_path: Path) -> None:
    command = ["data", "cutpaste", str(tmp_path / "set"), "--sources", str(source_folder), "--train-images", "0"]
    assert run(dyndet, [*command, "--val-images", "3"]) == 0
    assert run(dyndet, [*command, "--val-images", "2", "--overwrite"]) == 0
    assert len(_read(tmp_path / "set" / "val")["images"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_without_the_pictures_is_named_with_the_packages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dyndet, ["data", "cutpaste", str(tmp_path / "set"), "--sources", str(tmp_path)]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "tuxpaint-stamps-default" in message
    assert str(tmp_path) in message


def _bomb() -> bytes:
    """A PNG of a few bytes whose header says 900 million pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "damaged or cut off"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n", "not a readable image"),
        (_bomb(), "too large"),
    ],
    ids=["cut off", "PostScript", "bomb"],
)
def test_a_picture_that_may_do_harm_is_named_and_nothing_is_written(
    sources: Sources, tmp_path: Path, content: bytes, said: str
) -> None:
    """Pillow would start Ghostscript for PostScript, whatever the file is called."""
    name = CLASSES[0].cutouts[0]
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(content)
    broken = Sources(cutouts={**sources.cutouts, name: damaged}, backgrounds=sources.backgrounds)
    with pytest.raises(InputError, match=rf"damaged\.png: {said}"):
        build(tmp_path / "set", broken, train_images=0, val_images=2, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.png"]


def test_the_shipped_validation_split_is_whole() -> None:
    content = _read(SHIPPED)
    sizes = {record["id"]: (record["width"], record["height"]) for record in content["images"]}
    assert len(sizes) == 500
    assert {record["file_name"] for record in content["images"]} == {p.name for p in (SHIPPED / "images").iterdir()}
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 8_000_000
    for record in content["images"]:
        with Image.open(SHIPPED / "images" / record["file_name"]) as image:
            assert image.size == sizes[record["id"]]
            assert max(image.size) == 320
    for one in content["annotations"]:
        x, y, width, height = one["bbox"]
        assert x >= 0 and y >= 0 and min(width, height) >= 8
        assert x + width <= sizes[one["image_id"]][0] and y + height <= sizes[one["image_id"]][1]
    assert {one["image_id"] for one in content["annotations"]} == set(sizes)
    assert [category["name"] for category in content["categories"]] == [kind.name for kind in CLASSES]
    assert 200 <= sum(record["kind"] == "easy" for record in content["images"]) <= 300
