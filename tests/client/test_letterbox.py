"""The letterbox keeps the ratio, never loses the picture, and its boxes map back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamicdet.errors import InputError
from dynamicdet.letterbox import PADDING, letterbox

sides = st.one_of(st.integers(1, 700), st.sampled_from([1, 2, 3, 5000, 20000]))
fractions = st.floats(0, 1)


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
