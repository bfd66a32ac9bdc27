"""The letterbox keeps the ratio, never loses the picture, and its boxes map back; so do all other rules of fitting."""

import json
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamicdet.errors import InputError
from dynamicdet.letterbox import PADDING, Filter, Fit, Place, Resize, letterbox

sides = st.one_of(st.integers(1, 700), st.sampled_from([1, 2, 3, 5000, 20000]))
fractions = st.floats(0, 1)
rules = st.builds(
    Fit,
    height=st.sampled_from([1, 24, 320, 641]),
    width=st.sampled_from([1, 40, 320, 640]),
    resize=st.sampled_from(get_args(Resize)),
    place=st.sampled_from(get_args(Place)),
    pad=st.sampled_from([0, 114, 255]),
    filter=st.sampled_from(get_args(Filter)),
)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from([1, 32, 320, 641]), st.lists(st.tuples(*[fractions] * 4), max_size=4))
def test_boxes_of_any_picture_survive_the_way_there_and_back(width, height, size, shares) -> None:
    width = min(width, 400_000 // height)
    boxed = letterbox(np.full((height, width, 3), 9, np.uint8), size)
    boxes = np.array(shares, np.float32).reshape(-1, 4) * [width, height, width, height]
    inside = boxed.from_original(boxes)
    assert boxed.image.shape == (size, size, 3) and boxed.image.flags.c_contiguous
    assert inside.size == 0 or (inside.min() >= -1e-3 and inside.max() <= size + 1e-2)
    # float32 numbers in the square are up to `size`, so that the way back can lose size * 2^-23 / scale
    tolerance = 1e-3 + size * 2**-22 / min(boxed.scale_x, boxed.scale_y)
    np.testing.assert_allclose(boxed.to_original(inside), boxes, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(sides, sides, st.sampled_from([32, 320]))
def test_the_picture_fills_one_side_and_grey_the_rest(width, height, size) -> None:
    width = min(width, 400_000 // height)
    boxed = letterbox(np.full((height, width, 3), 9, np.uint8), size)
    rows, columns = np.nonzero((boxed.image == 9).all(axis=2))
    assert (boxed.image[:, :, 0] == PADDING).sum() + rows.size == size * size
    used_width, used_height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert max(used_width, used_height) == size
    assert (columns.min(), rows.min()) == (boxed.pad_left, boxed.pad_top)
    assert 0 <= (size - used_width) - 2 * boxed.pad_left <= 1 and 0 <= (size - used_height) - 2 * boxed.pad_top <= 1
    assert abs(used_width - max(1, width * size / max(width, height))) <= 0.5


def test_boxes_are_clipped_to_the_picture() -> None:
    boxed = letterbox(np.zeros((100, 200, 3), np.uint8), 100)
    assert boxed.to_original([[-9, 0, 150, 99]]).tolist() == [[0, 0, 200, 100]]
    assert boxed.to_original([]).shape == (0, 4)


def test_content_is_shrunk_without_aliasing() -> None:
    """A fine checkerboard becomes its mean: picking single pixels would give black or white."""
    checks = (np.indices((640, 640)).sum(axis=0) % 2 * 255).astype(np.uint8)
    boxed = letterbox(np.repeat(checks[:, :, None], 3, axis=2), 80)
    np.testing.assert_allclose(boxed.image, 127, atol=3)


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (np.zeros((4, 4, 3), np.float32), 32),
        (np.zeros((4, 4), np.uint8), 32),
        (np.zeros((4, 0, 3), np.uint8), 32),
        (np.zeros((4, 4, 3), np.uint8), 0),
    ],
)
def test_what_cannot_be_letterboxed_is_refused(image, size) -> None:
    with pytest.raises(InputError):
        letterbox(image, size)


@settings(max_examples=80, deadline=None)
@given(rules, sides, sides, st.lists(st.tuples(*[fractions] * 4), max_size=4))
def test_boxes_survive_the_way_there_and_back_by_every_rule(fit: Fit, width, height, shares) -> None:
    width = min(width, 400_000 // height)
    place = fit.place_of(width, height)
    boxes = np.array(shares, np.float32).reshape(-1, 4) * [width, height, width, height]
    inside = place.from_original(boxes)
    limits = np.array([fit.width, fit.height] * 2)
    assert (inside >= -1e-3).all() and (inside <= limits + 1e-2).all()
    tolerance = 1e-3 + limits.max() * 2**-22 / min(place.scale_x, place.scale_y)
    np.testing.assert_allclose(place.to_original(inside), boxes, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(rules, sides, sides)
def test_the_place_of_a_picture_is_where_its_pixels_are(fit: Fit, width, height) -> None:
    """The whole picture maps to the part of the input that is not border; a stretched one has no border."""
    width = min(width, 400_000 // height)
    inside = 77
    fitted = fit(np.full((height, width, 3), inside, np.uint8))
    assert fitted.image.shape == fit.shape and fitted.image.flags.c_contiguous
    assert fitted == replace(fit.place_of(width, height), image=fitted.image)
    is_picture = (np.abs(fitted.image.astype(int) - inside) <= 1).all(axis=2)  # resizing may round
    left, top, right, bottom = fitted.from_original([[0, 0, width, height]])[0].round().astype(int)
    assert is_picture[top:bottom, left:right].all() and is_picture.sum() == (bottom - top) * (right - left)
    assert (fitted.image[~is_picture] == fit.pad).all()
    if fit.resize == "stretch":
        assert is_picture.all()
    elif fit.place == "top-left":
        assert (left, top) == (0, 0)


def bilinear(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel centres, two neighbours in each direction, edges repeated: OpenCV's INTER_LINEAR, in plain numpy."""

    def matrix(size: int, of: int) -> np.ndarray:
        place = (np.arange(size) + 0.5) * of / size - 0.5
        below = np.floor(place).astype(int)
        found = np.zeros((size, of))
        for neighbour, weight in ((below, 1 - (place - below)), (below + 1, place - below)):
            np.add.at(found, (np.arange(size), neighbour.clip(0, of - 1)), weight)
        return found

    rows, columns = matrix(height, pixels.shape[0]), matrix(width, pixels.shape[1])
    return np.einsum("hi,ijc,wj->hwc", rows, pixels.astype(np.float64), columns, optimize=True)


@settings(max_examples=30, deadline=None)
@given(sides, sides, st.sampled_from([(1, 1), (24, 40), (160, 160)]), st.integers(0, 9))
def test_the_linear_filter_is_bilinear_without_antialiasing(height, width, sides, seed) -> None:
    width = min(width, 200_000 // height)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    fit = Fit(height=sides[0], width=sides[1], resize="stretch", filter="linear")
    np.testing.assert_allclose(fit(pixels).image, bilinear(pixels, *sides), atol=1)


@given(rules)
def test_a_rule_survives_json(fit: Fit) -> None:
    assert Fit.of_json(fit.as_json()) == fit
    assert fit.is_own == (fit == Fit.square(fit.width))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(["height", "width", "resize", "place", "pad", "filter", "mirror"]), anything)
    | anything
)
def test_whatever_json_says_is_a_rule_or_one_error(content: Any) -> None:
    try:
        fit = Fit.of_json(json.dumps(content))
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 700
    else:
        assert Fit(**content) == fit


@pytest.mark.parametrize("text", ["", "no", "[" * 400, "{" * 9000, '{"height": 32}', '{"height": 1' + "0" * 400 + "}"])
def test_other_texts_are_no_rule(text: str) -> None:
    with pytest.raises(InputError, match="the description of a detector's input"):
        Fit.of_json(text)
