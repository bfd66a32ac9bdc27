"""Masks of an answer: checked as they come, small until they are looked at, and part of all that detections can do."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from dynamicdet.letterbox import Fit
from dynamicdet.masks import paste
from dynamicdet.matching import Objects, match
from dyndet_client import Detection, Detections, InputError, Masks, MissingExtraError, NoMasksError, ServerError
from dyndet_client.codec import OUTPUTS_WITH_MASKS, Options, ServedModel, decode, encode
from dyndet_client.drawing import RIGHT, WRONG, Mark, compared_marks, draw_marks, label_font

MODEL = ServedModel(name="dyndet", fit=Fit.square(64), class_names=("cat", "dog"), has_masks=True)
WIDTH, HEIGHT = 64, 48


def disc() -> Any:
    """The largest disc in a mask, 255 inside."""
    rows, columns = np.mgrid[:28, :28] - 13.5
    return np.where(rows**2 + columns**2 < 14**2, 255, 0).astype(np.uint8)


def found(count: int = 3, **changes: Any) -> Detections:
    boxes = np.array([[4 * row, 5, 4 * row + 20, 35] for row in range(count)], np.float32).reshape(-1, 4)
    values = np.stack([disc()] * count) if count else np.zeros((0, 28, 28), np.uint8)
    given: dict[str, Any] = {
        "boxes": boxes,
        "scores": np.linspace(0.9, 0.1, count, dtype=np.float32),
        "classes": np.arange(count, dtype=np.int32),
        "names": tuple(f"cat{row}" for row in range(count)),
        "difficulty": 0.2,
        "route": "hard",
        "image_size": (WIDTH, HEIGHT),
        "masks": Masks(values=values, boxes=boxes, image_size=(WIDTH, HEIGHT)),
    }
    return Detections(**{**given, **changes})


def answer(**changes: Any) -> dict[str, Any]:
    boxes = np.zeros((1, 5, 4), np.float32)
    boxes[0, :2] = [[10, 20, 30, 40], [8, 6, 48, 46]]
    masks = np.zeros((1, 5, 28, 28), np.uint8)
    masks[0, 0], masks[0, 1] = 255, disc()
    good = {
        "num_detections": np.array([[2]], np.int32),
        "boxes": boxes,
        "scores": np.array([[0.3, 0.9, 0, 0, 0]], np.float32),
        "classes": np.array([[0, 1, 0, 0, 0]], np.int32),
        "difficulty": np.array([[0.4]], np.float32),
        "route": np.array([[2]], np.int32),
        "masks": masks,
    }
    return {name: array for name, array in {**good, **changes}.items() if array is not None}


def decoded(pixels: Any = None, **changes: Any) -> Detections:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8) if pixels is None else pixels
    request = encode(MODEL, pixels, Options(masks=True))
    assert request.outputs == OUTPUTS_WITH_MASKS
    return decode(MODEL, request, answer(**changes))


def test_masks_follow_their_objects() -> None:
    """Into one object, slices, selections; they decide whether two answers are equal, and survive pickling."""
    three = found()
    assert three.masks is not None and len(three.masks) == 3
    assert [one.shape for one in three.masks] == [(HEIGHT, WIDTH)] * 3
    last = three[-1].mask
    assert last is not None and isinstance(three[2], Detection)
    np.testing.assert_array_equal(last, np.asarray(three.masks)[2])
    np.testing.assert_array_equal(last, paste(disc()[None], [[8, 5, 28, 35]], WIDTH, HEIGHT)[0])
    for rows in (slice(None, None, -1), three.scores > 0.3, [2, 0], []):
        some = three[rows]
        assert some.masks == three.masks[rows]
        assert [one.mask is not None for one in some] == [True] * len(some)
    assert three == found() == pickle.loads(pickle.dumps(three)) and hash(three) == hash(found())
    assert three != found(masks=None) and found(masks=None)[0].mask is None
    changed = found()
    assert changed.masks is not None
    changed.masks.values[0, 0, 0] += 1
    assert changed != found() and changed[0] != found()[0] and changed[1] == found()[1]
    assert repr(three.masks) == "<Masks: 3 of 64 x 48 pixels>"
    assert str(three).startswith("hard route, difficulty 0.20, 3 objects with masks in 64 x 48 pixels")


def test_files_and_other_libraries_get_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    three = found()
    assert three.masks is not None
    areas = np.asarray(three.masks).sum(axis=(1, 2)).tolist()
    assert three.masks.areas.tolist() == areas and min(areas) > 400
    for entries in (three.to_dict()["detections"], three.to_coco(7)):
        encoded = [entry["segmentation"] for entry in entries]
        assert [int(coco.area(rle)) for rle in encoded] == areas
        np.testing.assert_array_equal(coco.decode(encoded[1]), three[1].mask)
    assert "segmentation" not in {**found(masks=None).to_dict()["detections"][0], **found(masks=None).to_coco(7)[0]}
    assert three.to_pandas()["mask_area"].tolist() == areas
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtraError, match="masks are encoded with pycocotools, which is not installed"):
        three.to_dict()


def test_supervision_gets_masks() -> None:
    pytest.importorskip("supervision")
    three = found()
    np.testing.assert_array_equal(three.to_supervision().mask, np.asarray(three.masks))
    assert found(masks=None).to_supervision().mask is None


def test_masks_are_drawn_and_the_picture_shines_through() -> None:
    """Inside the mask and away from lines and labels; also in a picture of another size."""
    pixels = np.random.default_rng(0).integers(60, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    one = found(1)
    mask = one[0].mask
    assert mask is not None
    drawn, plain = (np.asarray(each.draw(pixels, header=False)).astype(int) for each in (one, found(1, masks=None)))
    differs = (drawn != plain).any(axis=2)
    assert not differs[~mask].any() and differs[mask].mean() > 0.4  # the rest is line and label
    assert np.corrcoef(drawn[mask][:, 0], plain[mask][:, 0])[0, 1] > 0.5
    canvas = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT))
    mark = Mark(box=(4, 5, 24, 35), colour=(255, 0, 0), mask=disc(), mask_box=(4, 5, 24, 35)).scaled(2)
    draw_marks(canvas, [mark], font=label_font(10), line=1)
    assert canvas.getpixel((28, 40)) == (110, 0, 0) and canvas.getpixel((1, 1)) == (0, 0, 0)


def test_a_comparison_with_labels_paints_masks_in_the_colour_of_its_verdict() -> None:
    truth = Objects(boxes=np.array([[0.0, 5, 20, 35]]), names=("cat0",), crowd=np.array([False]))
    marks = compared_marks(found(2), match(truth, found(2)), truth)
    assert [mark.colour for mark in marks] == [RIGHT, WRONG]
    assert [mark.mask is not None and mark.mask_box == mark.box for mark in marks] == [True, True]
    assert compared_marks(found(1, masks=None), match(truth, found(1)), truth)[0].mask is None


def test_a_mask_lies_where_its_object_is_in_the_original() -> None:
    """A disc that the detector saw from the padding above the picture to its middle is that disc, cut off."""
    picture = np.zeros((120, 240, 3), np.uint8)  # in the input: 64 x 32, with 16 above and below
    best = decoded(picture)[0]
    assert best.mask is not None and best.name == "dog"
    assert best.box == (30, 0, 180, 112.5)  # clipped at the top
    rows, columns = np.mgrid[:120, :240]
    expected = (columns + 0.5 - 105) ** 2 + (rows + 0.5 - 37.5) ** 2 < 75**2
    shared = (best.mask & expected).sum() / (best.mask | expected).sum()
    assert shared > 0.97


@pytest.mark.parametrize(
    "masks",
    [
        None,
        np.zeros((1, 5, 28, 28), np.float32),
        np.zeros((1, 5, 28, 28), bool),
        np.zeros((1, 4, 28, 28), np.uint8),
        np.zeros((1, 6, 28, 28), np.uint8),
        np.zeros((1, 5, 784), np.uint8),
        np.zeros((5, 14, 56), np.uint8),
        np.zeros((), np.uint8),
        np.zeros((0, 5, 28, 28), np.uint8),
        np.array([[b"x"]], np.object_),
    ],
)
def test_masks_of_another_form_are_one_sentence(masks: Any) -> None:
    with pytest.raises(ServerError, match=r"^model 'dyndet' returned a malformed answer: .{1,200}$"):
        decoded(masks=masks)


def test_masks_in_boxes_beyond_all_numbers_are_refused_and_others_are_left_out() -> None:
    huge = answer()["boxes"].copy()
    huge[0, 1] = [-3e38, -3e38, 3e38, 3e38]
    grown = np.zeros((640, 640, 3), np.uint8)  # ten times as large as the input
    with pytest.raises(ServerError, match="the boxes of masks must be finite numbers"):
        decoded(grown, boxes=huge)
    huge[0, 1] = np.nan
    left = decoded(boxes=huge)
    assert left.names == ("cat",) and left.masks is not None and left.masks.values.min() == 255
    nothing = decoded(num_detections=np.array([[0]], np.int32))
    assert nothing.masks is not None and len(nothing.masks) == 0 and np.asarray(nothing.masks).shape == (0, 48, 64)


def test_who_asks_a_detector_without_masks_is_told_so() -> None:
    plain = ServedModel(name="dyndet", fit=MODEL.fit, class_names=MODEL.class_names)
    with pytest.raises(NoMasksError, match="model 'dyndet' gives boxes but no masks"):
        encode(plain, np.zeros((8, 8, 3), np.uint8), Options(masks=True))
    with pytest.raises(InputError, match="masks must be True or False, not 'yes'"):
        Options(masks="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"values": np.zeros((1, 14, 14), np.uint8)}, r"values of 1 masks must have shape \(1, 28, 28\)"),
        ({"values": np.zeros((1, 28, 28))}, "type uint8, not .* float64"),
        ({"boxes": np.zeros((2, 4), np.float32)}, r"boxes of 1 masks must have shape \(1, 4\)"),
        ({"boxes": np.full((1, 4), np.inf, np.float32)}, "finite"),
        ({"image_size": (0, 3)}, "at least"),
    ],
)
def test_masks_are_checked_on_creation(changes: dict[str, Any], said: str) -> None:
    good = {"values": disc()[None], "boxes": np.zeros((1, 4), np.float32), "image_size": (9, 9)}
    with pytest.raises(InputError, match=said):
        Masks(**{**good, **changes})
    with pytest.raises(InputError, match=r"masks must be 2 of the image's size, not <Masks: 3 of 64 x 48 pixels>"):
        found(2, masks=found(3).masks)
