"""Segmentations: read in all of COCO's forms, checked before pycocotools sees them, fitted as their pictures are."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as coco

from dynamicdet.aliases import UInt8Array
from dynamicdet.datasets.check import check_data
from dynamicdet.datasets.dataset import CocoDataset, in_class_order, only, read_dataset, some_with_objects
from dynamicdet.datasets.segmentations import encode
from dynamicdet.errors import InputError
from dyndet_builder.cli import dyndet, run
from tests.dynamicdet.datasets.test_annotations import _STRANGE
from tests.support.tiny_data import SIZE, tiny_content, write_pictures, write_tiny_data

_L_SHAPE = [4, 6, 24, 6, 24, 10, 12, 10, 12, 16, 4, 16]  # in the box [4, 6, 20, 10]; no turn or flip maps it to itself
_RED = (255, 0, 0)


def _pixels() -> UInt8Array:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[6:10, 4:24], mask[6:16, 4:12] = 1, 1
    return mask


def _runs(mask: UInt8Array) -> list[int]:
    flat = mask.T.reshape(-1)
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    return [*([0] if flat[0] else []), *np.diff(edges).tolist()]


def _code(counts: Any = None, size: Any = (30, 40)) -> dict[str, Any]:
    return {"size": list(size), "counts": _runs(_pixels()) if counts is None else counts}


def _content(segmentation: Any = None) -> dict[str, Any]:
    content = tiny_content()
    for entry in content["annotations"]:
        entry["segmentation"] = deepcopy([_L_SHAPE] if segmentation is None else segmentation)
    return content


def _set(content: dict[str, Any], segmentation: Any, **other: Any) -> None:
    content["annotations"][0].update(segmentation=segmentation, **other)


def _red(image: UInt8Array) -> UInt8Array:
    found: UInt8Array = (image == _RED).all(axis=2).astype(np.uint8)
    return found


def _painted() -> Image.Image:
    return Image.fromarray(np.where(_pixels()[..., None], _RED, (60, 90, 90)).astype(np.uint8))


def _kinds(folder: Path, *, masks: bool) -> dict[str, int]:
    return {one.kind: one.count for one in check_data(folder, masks=masks)[0].findings}


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=70), elements=st.integers(0, 1)))
def test_masks_are_coded_as_pycocotools_does(mask: UInt8Array) -> None:
    for one in (mask, np.kron(mask, np.ones((33, 17), np.uint8))):
        known = coco.encode(np.asfortranarray(one))
        assert encode(one) == {"size": known["size"], "counts": known["counts"].decode()}


_FORMS: dict[str, Any] = {
    "polygon": [_L_SHAPE],
    "polygons": [[4, 6, 24, 6, 24, 10, 4, 10], [4, 9, 12, 9, 12, 16, 4, 16]],
    "list": _code(),
    "text": _code(encode(_pixels())["counts"]),
    "list with empty runs": _code([100, 0, *[_runs(_pixels())[0] - 100], *_runs(_pixels())[1:], 0, 0]),
}


@pytest.mark.parametrize("form", _FORMS.values(), ids=_FORMS)
def test_each_form_gives_the_same_masks_in_the_order_of_the_labels(tmp_path: Path, form: Any) -> None:
    """And pycocotools reads what the data set keeps; a second object that is too small to fit shifts no row."""
    content = _content(form)
    content["annotations"][:0] = [
        {"id": 8, "image_id": 1, "category_id": 1, "bbox": [0, 0, 0.5, 0.5], "segmentation": [[0, 0, 2, 0, 2, 2]]},
        {"id": 9, "image_id": 1, "category_id": 1, "bbox": [20, 0, 20, 30],
         "segmentation": [[20, 0, 40, 0, 40, 30, 20, 30]]},
    ]  # fmt: skip
    data = read_dataset(write_tiny_data(tmp_path, content), 40, masks=True)
    assert data.has_masks and data.summary.masks == 5
    assert [len(one.classes) for one in data.labels] == [2, 1, 1]
    assert [data.masks(index).shape for index in range(3)] == [(2, 40, 40), (1, 40, 40), (1, 40, 40)]
    padded = np.pad(_pixels(), ((5, 5), (0, 0)))
    right = np.zeros((40, 40), np.uint8)
    right[5:35, 20:] = 1
    assert np.array_equal(data.masks(0), [right, padded]) and np.array_equal(data.masks(2)[0], padded)
    kept = json.loads(json.dumps(data.annotations))["annotations"]
    assert [np.array_equal(coco.decode(one["segmentation"]), _pixels()) for one in kept] == [False, False] + [True] * 3


def test_masks_follow_their_objects_through_choices_and_the_cache(tmp_path: Path) -> None:
    content = _content()
    content["annotations"][2]["segmentation"] = [[4, 6, 24, 6, 24, 16, 4, 16]]
    folder = write_tiny_data(tmp_path, content)
    for _ in range(2):  # written, then read
        data = read_dataset(folder, 40, masks=True, cache=tmp_path / "cache")
        for chosen in (
            only(data, [2]),
            some_with_objects(only(data, [2, 0]), 1),
            only(in_class_order(data, ("dog", "cat")), [2]),
        ):
            assert chosen.has_masks and np.array_equal(chosen.masks(0), data.masks(2))
            assert chosen.masks(0).sum() == 200
            assert [one["segmentation"] for one in chosen.annotations["annotations"]] == list(chosen.coded_masks[0])  # type: ignore[index]


def test_nothing_changes_unless_masks_are_asked_for(tmp_path: Path) -> None:
    """Segmentations may then be anything; `data check` only notes it, and pictures in the cache are those of before."""
    content = _content([[1, 2, 3]])
    folder = write_tiny_data(tmp_path, content)
    data = read_dataset(folder, 32, cache=tmp_path / "cache")
    assert not data.has_masks and not any("segmentation" in one for one in data.annotations["annotations"])
    with pytest.raises(ValueError, match="was read without masks"):
        data.masks(0)
    assert run(dyndet, ["data", "check", str(folder)]) == 0
    assert run(dyndet, ["data", "check", str(folder), "--masks"]) == 2
    assert (_kinds(folder, masks=False), _kinds(folder, masks=True)) == ({"masks": 3}, {"segmentation": 3})
    (checked,) = check_data(write_tiny_data(tmp_path, _content()))
    assert (checked.as_json()["masks"], checked.findings) == (3, ())
    assert checked.summary.sentences() == ["3 images, 3 objects of 2 classes, 3 masks"]
    assert _kinds(write_tiny_data(tmp_path), masks=False) == {}
    files = sorted((tmp_path / "cache").iterdir())
    read_dataset(write_tiny_data(tmp_path / "same", content), 32, masks=False)
    assert len(files) == 2


@pytest.mark.parametrize(
    ("kind", "message", "segmentation"),
    [
        ("no mask", "annotation 1 in 1.png has no segmentation; a detector with masks needs one", []),
        ("no mask", "has no segmentation", None),
        ("segmentation", "has the segmentation 'yes'; a segmentation is a list of polygons", "yes"),
        ("segmentation", r"has the polygon 4; a segmentation is", _L_SHAPE),
        ("segmentation", "has a polygon of 7 numbers", [[4, 6, 24, 6, 24, 10, 4]]),
        ("segmentation", "its numbers must be from -1000000000 to", [[4, 6, 24, float("nan"), 24, 10]]),
        ("segmentation", "its numbers must be from -1000000000 to", [[4, 6, 24, 10**400, 24, 10]]),
        ("segmentation", "has the polygon .*'10'", [[4, 6, 24, "10", 24, 10]]),
        ("segmentation", "outline is [0-9,]* pixels long; at most 1,048,576", [[-1e9, 3, 1e9, 5] * 5000]),
        ("rle", "run lengths that add up to 7; its image has 1200 pixels", _code([3, 4])),
        ("rle", "run lengths that add up to 0", _code([])),
        ("rle", "has a run length below 0, -200", _code([1400, -200])),
        ("rle", "has the run length 100000000000000000000", _code([10**20, -(10**20), 1200])),
        ("rle", "add up to 18446744073709552816", _code([2**62, 2**62, 2**62, 2**62, 1200])),
        ("rle", "they are a list of whole numbers, or a text", _code([600.0, 600.0])),
        ("rle", "they are a list of whole numbers, or a text", _code({})),
        ("rle", "has a run-length code of the size 30", {"size": 30, "counts": [1200]}),
        ("rle", "which cannot be decoded", _code("")),
        ("rle", "which cannot be decoded", _code("n3:d0 0")),
        ("rle", "which cannot be decoded", _code("n3:d0\u00e9")),
        ("rle", "which cannot be decoded", _code(encode(_pixels())["counts"] + "o")),
        ("rle", "too many digits", _code("o" * 200 + "0")),
        ("rle", "run lengths that add up to", _code(encode(_pixels())["counts"][:-3])),
        ("rle", "below 0", _code("@" + encode(_pixels())["counts"])),
        ("mask size", "code of height 40 and width 30, but its image has height 30 and width 40", _code(size=(40, 30))),
        ("mask size", "but its image has", {"size": [1 << 40, 1 << 40], "counts": [1 << 80]}),
    ],
)
def test_a_segmentation_that_cannot_be_used_is_named_and_listed(
    tmp_path: Path, kind: str, message: str, segmentation: Any
) -> None:
    content = _content()
    _set(content, segmentation)
    folder = write_tiny_data(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(folder, 32, masks=True)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700
    (checked,) = check_data(folder, masks=True)
    assert [one.kind for one in checked.findings] == [kind] and str(checked.error) == str(caught.value)
    assert checked.summary.masks == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.update(segmentation=[[value / 40 for value in _L_SHAPE]]),
        lambda one: one.update(segmentation=[[value + 100 for value in _L_SHAPE]]),
        lambda one: one.update(segmentation=[[4, 20, 24, 20, 24, 28, 4, 28]]),
    ],
    ids=["shares of the picture", "beyond the picture", "below the box"],
)
def test_masks_outside_their_boxes_are_a_wrong_convention_if_they_are_many(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    content = _content()
    content["annotations"] = [{**content["annotations"][0], "id": number} for number in range(5)]
    change(content["annotations"][0])
    assert set(_kinds(write_tiny_data(tmp_path, content), masks=True)) & {"no pixels", "mask apart"}
    change(content["annotations"][1])
    with pytest.raises(InputError, match="2 of 5 masks lie outside their boxes or have no pixel, such as that of ann"):
        read_dataset(write_tiny_data(tmp_path, content), 32, masks=True)


def test_what_is_not_fatal_is_handled_and_counted(tmp_path: Path) -> None:
    """Every mask has a pixel; crowd regions get their box for the evaluation."""
    content = _content()
    first = content["annotations"][0]
    content["annotations"] += [
        {**first, "id": 10, "segmentation": [[4, 6, 24, 16], _L_SHAPE]},
        {**first, "id": 11, "segmentation": [], "iscrowd": 1},
        {**first, "id": 12, "bbox": [30, 20, 2, 2], "segmentation": [[30, 20, 30, 22, 30, 21]]},
        {**first, "id": 13, "segmentation": [[20, 20, 24, 20, 24, 29, 20, 29]]},
        {**first, "id": 14, "segmentation": [[-1e6, 8, 1e6, 8, 1e6, 14, -1e6, 14]], "bbox": [0, 8, 40, 6]},
    ]
    data = read_dataset(write_tiny_data(tmp_path, content), 40, masks=True)
    assert [data.summary.count(kind) for kind in ("few points", "crowd box", "no pixels", "mask apart")] == [1] * 4
    ours = {one["id"]: coco.decode(one["segmentation"]) for one in data.annotations["annotations"]}
    assert np.array_equal(ours[4], ours[1])
    assert ours[5].sum() == 200 and ours[5][6:16, 4:24].all()
    assert ours[6].sum() == 0 and data.masks(0)[2].sum() == 4
    assert ours[8].sum() == 240 and ours[8][8:14].all(), "cut at the border, far from which it began"
    assert all(one.any() for one in data.masks(0))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_masks_follow_every_exif_orientation(tmp_path: Path, orientation: int) -> None:
    content = _content()
    write_tiny_data(tmp_path, content)
    for number in (1, 2, 3):
        exif = Image.Exif()
        exif[0x0112] = orientation if number < 3 else 6  # 3 tells that sizes are those before the turn
        _painted().save(tmp_path / "images" / f"{number}.png", exif=exif)
    data = read_dataset(tmp_path, 40, masks=True, trust_pictures=True)
    for index in range(3):
        assert np.array_equal(data.masks(index)[0], _red(data.images[index])), "no pixel is resampled at this size"
    for one, image in zip(data.annotations["annotations"], data.annotations["images"], strict=True):
        assert one["segmentation"]["size"] == [image["height"], image["width"]]


@pytest.mark.parametrize("size", [(80, 60), (90, 30)])
def test_masks_are_scaled_to_pictures_that_are_trusted(tmp_path: Path, size: tuple[int, int]) -> None:
    folder = write_tiny_data(tmp_path, _content())
    for number in (1, 2, 3):
        _painted().resize(size, Image.Resampling.NEAREST).save(folder / "images" / f"{number}.png")
    data = read_dataset(folder, max(size), masks=True, trust_pictures=True)
    assert np.array_equal(data.masks(1)[0], _red(data.images[1]))


def test_masks_of_pictures_whose_annotated_size_says_nothing_are_in_the_picture(tmp_path: Path) -> None:
    content = _content()
    for entry in content["images"]:
        del entry["width"]
    content["annotations"][1]["segmentation"] = _code()
    data = read_dataset(write_tiny_data(tmp_path, content), 40, masks=True)
    assert [data.masks(index).sum() for index in range(3)] == [_pixels().sum()] * 3
    for entry in content["images"]:
        entry.update(width=30, height=40)  # swapped, as the boxes tell
    for one in content["annotations"]:
        one.update(bbox=[20, 6, 19, 10], segmentation=[[20, 6, 39, 6, 39, 16, 20, 16]])
    data = read_dataset(write_tiny_data(tmp_path, content), 40, masks=True, trust_pictures=True)
    assert data.masks(0).sum() == 190


@pytest.mark.parametrize("side", [16, 23, 64, 101])
def test_fitted_masks_lie_on_the_pixels_of_their_objects(tmp_path: Path, side: int) -> None:
    """At any scale: where the fitted picture is clearly red there is mask, where it is clearly not there is none."""
    folder = write_tiny_data(tmp_path, _content())
    _painted().save(folder / "images" / "1.png")
    data: CocoDataset = read_dataset(folder, side, masks=True)
    redness, mask = data.images[0][..., 0].astype(int), data.masks(0)[0]
    assert mask[redness > 200].all() and not mask[redness < 110].any() and mask.any()


def test_changed_segmentations_give_masks_or_one_sentence(tmp_path: Path) -> None:
    """Values of every kind at every place of every form, and characters of the text form."""
    rng = random.Random(3)
    write_pictures(tmp_path / "images")
    read, strange = 0, (*_STRANGE, [[1] * 6], [[5, 5, 1e9, 5, 5, -1e9]], _code([0] * 30 + [1200]))
    for number in range(300):
        content = _content(rng.choice([*_FORMS.values()]))
        content["annotations"] = [
            {**deepcopy(one), "id": number} for number, one in enumerate(content["annotations"] * 4)
        ]
        one = rng.choice(content["annotations"])
        place: Any = one
        key: Any = "segmentation"
        while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
            place = place[key]
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        if isinstance(place[key], str) and rng.random() < 0.9:
            text, start = place[key], rng.randrange(len(place[key]))
            place[key] = (
                text[:start] + chr(rng.randrange(40, 120)) * rng.randrange(3) + text[start + rng.randrange(2) :]
            )
        else:
            place[key] = deepcopy(rng.choice(strange))
        (tmp_path / "annotations.json").write_text(json.dumps(content))
        try:
            data = read_dataset(tmp_path, 32, masks=True)
        except InputError as error:
            assert str(error).isprintable() and len(str(error)) < 1500, number
        else:
            read += 1
            for index, labels in enumerate(data.labels):
                found = data.masks(index)
                assert found.shape == (len(labels.classes), 32, 32) and found.max(initial=0) <= 1
            areas = coco.area([one["segmentation"] for one in data.annotations["annotations"]])
            assert (areas <= 1200).all()
    assert 5 < read < 280
