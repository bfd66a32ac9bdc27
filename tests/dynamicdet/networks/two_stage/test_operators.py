"""Suppression, RoI features and the coding of boxes against slow references, on examples that hypothesis draws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamicdet.aliases import FloatArray
from dynamicdet.networks.two_stage.architectures import DY_FASTER_RCNN_R50
from dynamicdet.networks.two_stage.operators import keep_best, roi_features
from dynamicdet.networks.two_stage.regions import clip, decode, encode, level_anchors
from dyndet_builder.bundle.nms import suppress

STRIDE, HEIGHT, WIDTH = 4, 6, 9


def roi_align(feature: FloatArray, box: FloatArray, *, output: int, aligned: bool) -> FloatArray:
    """One map (C, H, W) and one box, as the ONNX operator RoiAlign defines it, with ratio 2."""
    _, rows, columns = feature.shape
    offset = 0.5 if aligned else 0.0
    left, top, right, bottom = box / STRIDE - offset
    wide, high = (right - left, bottom - top) if aligned else (max(right - left, 1.0), max(bottom - top, 1.0))
    out = np.zeros((feature.shape[0], output, output))
    for row, column in np.ndindex(output, output):
        for down, along in np.ndindex(2, 2):
            y = top + (row + (down + 0.5) / 2) * high / output
            x = left + (column + (along + 0.5) / 2) * wide / output
            if not (-1.0 <= y <= rows and -1.0 <= x <= columns):
                continue  # more than a pixel outside
            y, x = min(max(y, 0.0), rows - 1.0), min(max(x, 0.0), columns - 1.0)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            fy, fx = y - y0, x - x0
            out[:, row, column] += (
                feature[:, y0, x0] * (1 - fy) * (1 - fx)
                + feature[:, y0, x1] * (1 - fy) * fx
                + feature[:, y1, x0] * fy * (1 - fx)
                + feature[:, y1, x1] * fy * fx
            ) / 4
    return out


@st.composite
def boxes_inside(draw: st.DrawFn) -> tuple[float, float, float, float]:
    """Boxes of all sizes, those without an area and those along the border included."""
    wide, high = STRIDE * WIDTH, STRIDE * HEIGHT
    x = sorted(draw(st.floats(0, wide, width=32)) for _ in range(2))
    y = sorted(draw(st.floats(0, high, width=32)) for _ in range(2))
    kind = draw(st.sampled_from(("any", "point", "right border", "whole")))
    if kind == "point":
        return x[0], y[0], x[0], y[0]
    if kind == "right border":
        return x[0], y[0], float(wide), float(high)
    return (x[0], y[0], x[1], y[1]) if kind == "any" else (0.0, 0.0, float(wide), float(high))


@given(st.lists(boxes_inside(), min_size=1, max_size=3), st.booleans(), st.sampled_from((2, 7)))
def test_roi_features_are_those_of_roi_align(
    boxes: list[tuple[float, float, float, float]], aligned: bool, output: int
) -> None:
    """Also for boxes of no area and at the border; a box that is widened beyond the border is left out."""
    numbers = np.array(boxes)
    if not aligned:
        limits = np.array([WIDTH, HEIGHT]) * STRIDE
        numbers[:, 2:] = np.minimum(np.maximum(numbers[:, 2:], numbers[:, :2] + STRIDE), limits)
        numbers[:, :2] = np.minimum(numbers[:, :2], numbers[:, 2:] - STRIDE)
    feature = np.random.default_rng(0).normal(size=(3, HEIGHT, WIDTH))
    found = roi_features(
        [torch.tensor(feature[None], dtype=torch.float32)],
        torch.tensor(numbers[None], dtype=torch.float32),
        torch.zeros(1, len(boxes), dtype=torch.int64),
        (STRIDE,),
        output,
        aligned,
    )
    wanted = np.stack([roi_align(feature, box, output=output, aligned=aligned) for box in numbers])
    assert found.shape == (1, len(boxes), 3, output, output)
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=2e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from((0.3, 0.5, 0.7)))
def test_suppression_keeps_what_the_graphs_operator_keeps(seed: int, iou: float) -> None:
    """For a batch of crowded boxes, some of them unused."""
    rng = np.random.default_rng(seed)
    corner, extent = rng.uniform(0, 30, (2, 24, 2)), rng.uniform(0, 30, (2, 24, 2))
    boxes = np.concatenate([corner, corner + extent], axis=-1).astype(np.float32)
    scores = np.sort(rng.uniform(0, 1, (2, 24)).astype(np.float32))[:, ::-1].copy()
    scores[:, 20:] = 0
    groups = rng.integers(0, 3, (2, 24))
    found = keep_best(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(groups), iou).numpy()
    for image in range(2):
        wanted = suppress(boxes[image], scores[image], groups[image], iou_threshold=iou)
        np.testing.assert_array_equal(found[image], wanted)


_SIDES = st.floats(2, 200)


@given(st.tuples(*[_SIDES] * 8))
def test_decoding_undoes_encoding(numbers: tuple[float, ...]) -> None:
    x, y, w, h, x2, y2, w2, h2 = numbers
    box = torch.tensor([x, y, x + w, y + h], dtype=torch.float64)
    wanted = torch.tensor([x2, y2, x2 + w2, y2 + h2], dtype=torch.float64)
    spreads = (0.1, 0.1, 0.2, 0.2)
    ratio = torch.tensor([w2 / w, h2 / h]).log().abs()
    if (ratio < math.log(1000 / 16)).all():
        torch.testing.assert_close(decode(encode(box, wanted, spreads), box, spreads), wanted, rtol=1e-6, atol=1e-5)


def test_decoding_limits_the_stretch_and_clipping_the_place() -> None:
    box = torch.tensor([10.0, 10.0, 12.0, 12.0])
    far = decode(torch.tensor([0.0, 0.0, 100.0, -100.0]), box)
    assert far.tolist() == pytest.approx([11 - 62.5, 11 - 0.016, 11 + 62.5, 11 + 0.016])
    assert clip(far, (64, 32)).tolist() == [0.0, far[1].item(), 32.0, far[3].item()]


def test_anchors_have_the_places_and_the_order_of_either_rule() -> None:
    """Row by row, cell by cell, ratio by ratio; torchvision's are whole numbers, and so are their strides."""
    exact = level_anchors(DY_FASTER_RCNN_R50, 0, 2, 3, (8, 12)).view(2, 3, 3, 4)
    assert exact[1, 2, 1].tolist() == [8 - 16, 4 - 16, 8 + 16, 4 + 16]
    narrow = exact[0, 0, 2]
    assert (narrow[3] / narrow[2]).item() == 2  # height / width
    assert (exact[0, 0, 0, 2] * exact[0, 0, 0, 3] * 4).item() == pytest.approx(1024)
    whole = level_anchors(replace(DY_FASTER_RCNN_R50, anchor_rule="whole"), 4, 13, 13, (800, 800)).view(13, 13, 3, 4)
    assert whole[0, 0, 0].tolist() == [-362, -181, 362, 181]
    assert (whole[0, 1, 0] - whole[0, 0, 0]).tolist() == [61, 0, 61, 0]  # 800 // 13
