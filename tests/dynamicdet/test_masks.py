"""Masks are pasted by one rule, and COCO's tools read what is written of them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.masks import parts, paste, paste_each, to_rle

sides = st.floats(-30, 60, width=32)
masks_of = arrays(np.uint8, st.tuples(st.just(1), st.integers(1, 6), st.integers(1, 6)))


def slowly(mask: UInt8Array, box: npt.NDArray[np.float64], x: int, y: int) -> float:
    """The value of a mask (0 to 255) at a pixel, cell by cell, as the rule says it."""
    rows, columns = mask.shape
    x1, y1, x2, y2 = box.tolist()
    if x2 <= x1 or y2 <= y1:
        return -1.0
    across = (x + 0.5 - x1) / (x2 - x1) * columns - 0.5
    down = (y + 0.5 - y1) / (y2 - y1) * rows - 0.5
    found = 0.0
    for row in (math.floor(down), math.floor(down) + 1):
        for column in (math.floor(across), math.floor(across) + 1):
            if 0 <= row < rows and 0 <= column < columns:
                found += float(mask[row, column]) * (1 - abs(down - row)) * (1 - abs(across - column))
    return found


@given(mask=masks_of, corners=st.tuples(sides, sides, sides, sides), threshold=st.sampled_from([0.1, 0.5, 0.9]))
def test_each_pixel_is_what_the_rule_says(mask: UInt8Array, corners: tuple[float, ...], threshold: float) -> None:
    """Boxes inside, across and outside the picture, reversed and without area; only a pixel on the edge may differ."""
    box, width, height = np.array(corners, np.float64), 23, 17
    pasted = paste(mask, box[None], width, height, threshold=threshold)
    assert pasted.shape == (1, height, width) and pasted.dtype == bool
    for y in range(height):
        for x in range(width):
            value = slowly(mask[0], box, x, y)
            assert pasted[0, y, x] == (value >= 255 * threshold) or abs(value - 255 * threshold) < 0.01, (x, y, value)


@given(
    masks=arrays(np.uint8, (3, 28, 28), elements=st.sampled_from([0, 100, 127, 128, 255])),
    boxes=arrays(np.float32, (3, 4), elements=st.floats(-20, 80, width=32)),
)
def test_encoded_masks_are_the_pasted_ones(masks: UInt8Array, boxes: npt.NDArray[np.float32]) -> None:
    """pycocotools decodes them to the same pixels, and one by one they are the same as all together."""
    pasted = paste(masks, boxes, 61, 47)
    encoded = to_rle(masks, boxes, 61, 47)
    assert all(rle["size"] == [47, 61] and isinstance(rle["counts"], str) for rle in encoded)
    np.testing.assert_array_equal(coco.decode(encoded).transpose(2, 0, 1).astype(bool), pasted)
    np.testing.assert_array_equal(np.stack([*paste_each(masks, boxes, 61, 47)]), pasted)
    assert sum(int(part.mask.sum()) for part in parts(masks, boxes, 61, 47)) == pasted.sum()


def test_a_full_mask_is_its_box_and_none_is_nothing() -> None:
    full = np.full((1, 28, 28), 255, np.uint8)
    expected = np.zeros((1, 30, 40), bool)
    expected[0, 4:20, 3:31] = True
    np.testing.assert_array_equal(paste(full, [[3, 4, 31, 20]], 40, 30), expected)
    assert not paste(full // 255 * 127, [[3, 4, 31, 20]], 40, 30).any()  # 127 / 255 is below one half
    assert paste(full[:0], np.zeros((0, 4)), 40, 30).shape == (0, 30, 40)
    assert to_rle(full[:0], np.zeros((0, 4)), 40, 30) == []


def test_a_box_of_any_size_needs_no_more_than_the_picture() -> None:
    """A hostile server may send boxes of 1e30 pixels."""
    mask = np.full((1, 28, 28), 255, np.uint8)
    assert paste(mask, [[-1e30, -1e30, 1e30, 1e30]], 9, 7).all()
    assert not paste(mask, [[1e30, 0, 2e30, 5]], 9, 7).any()


@pytest.mark.parametrize(
    ("masks", "boxes", "said"),
    [
        (np.zeros((1, 28, 28)), np.zeros((1, 4)), "uint8 array of shape"),
        (np.zeros((28, 28), np.uint8), np.zeros((1, 4)), r"not uint8 \(28, 28\)"),
        (np.zeros((1, 0, 28), np.uint8), np.zeros((1, 4)), "uint8 array of shape"),
        (np.zeros((2, 28, 28), np.uint8), np.zeros((1, 4)), r"2 masks need boxes of shape \(2, 4\), not \(1, 4\)"),
        (np.zeros((1, 28, 28), np.uint8), np.full((1, 4), np.nan), "finite"),
    ],
)
def test_what_cannot_be_pasted_is_refused(masks: UInt8Array, boxes: npt.NDArray[np.float64], said: str) -> None:
    with pytest.raises(InputError, match=said):
        paste(masks, boxes, 8, 8)
