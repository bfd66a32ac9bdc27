"""Suppression inside a graph equals the textbook, for any boxes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import dynamicdet
from dynamicdet.networks.network import DynamicDetector
from dyndet_builder.bundle import nms as suppression
from dyndet_builder.bundle.graphs import OPSET
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.bundle.stages import DETECTIONS, Finish

IOU = 0.65
CLASSES = 3


def textbook(boxes: Any, scores: Any, classes: Any) -> list[int]:
    """Rows that stay, best first: take the best, drop what overlaps it, repeat. Plain Python, double precision."""
    left = [row for row in range(len(scores)) if scores[row] > 0]
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [r for r in left if classes[r] != classes[best] or _iou(boxes[best], boxes[r]) <= IOU]
    return kept


def _iou(a: Any, b: Any) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = float(width) * float(height)
    return shared / (float(a[2] - a[0]) * float(a[3] - a[1]) + float(b[2] - b[0]) * float(b[3] - b[1]) - shared)


@cache
def _keep_mask_session() -> onnxruntime.InferenceSession:
    """Only the operator, as it is inlined into a stage."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18, "dyndet": 1]>
        g (float[b, k, 4] boxes, float[b, k] scores, int64[b, k] classes) => (bool[b, k] keep) {
            iou = Constant <value = float {0.65}> ()
            keep = dyndet.KeepMask (boxes, scores, classes, iou)
        }"""
    )
    return onnxruntime.InferenceSession(suppression.inline_suppression(model).SerializeToString())


# Whole coordinates on a small field: many boxes are equal, touch, have no area, or overlap by exactly a threshold.
_corner = st.integers(0, 12)
_box = st.tuples(_corner, _corner, st.integers(0, 6), st.integers(0, 6)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
_candidate = st.tuples(_box, st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.integers(0, CLASSES - 1))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.data())
def test_graph_and_numpy_keep_what_the_textbook_keeps(batch: int, count: int, data: st.DataObject) -> None:
    """Ties, duplicates, empty boxes, unused rows and several images at once."""
    images = data.draw(st.lists(st.lists(_candidate, min_size=count, max_size=count), min_size=batch, max_size=batch))
    images = [sorted(image, key=lambda c: -c[1]) for image in images]
    boxes = np.array([[c[0] for c in image] for image in images], np.float32)
    scores = np.array([[c[1] for c in image] for image in images], np.float32)
    classes = np.array([[c[2] for c in image] for image in images], np.int64)
    (graph,) = _keep_mask_session().run(None, {"boxes": boxes, "scores": scores, "classes": classes})
    for b, s, c, from_graph in zip(boxes, scores, classes, graph, strict=True):
        expected = np.zeros(count, np.bool_)
        expected[textbook(b, s, c)] = True
        np.testing.assert_array_equal(from_graph, expected)
        np.testing.assert_array_equal(suppression.suppress(b, s, c, iou_threshold=IOU), expected)


def test_a_chain_of_candidates_is_decided_from_its_start() -> None:
    """Each box overlaps only its neighbours: every second one stays, however long the chain."""
    count = 60
    left = np.arange(count, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 8, 0 * left + 1], axis=1)[None]  # neighbours 7/9, next but one 6/10
    scores = np.linspace(0.9, 0.1, count, dtype=np.float32)[None]
    feed = {"boxes": boxes, "scores": scores, "classes": np.zeros((1, count), np.int64)}
    (keep,) = _keep_mask_session().run(None, feed)
    np.testing.assert_array_equal(keep[0], np.arange(count) % 2 == 0)


@pytest.fixture(scope="module")
def small_network() -> DynamicDetector:
    return dynamicdet.create("dy-yolov7-pico", num_classes=CLASSES, input_size=64).eval()


@pytest.fixture(scope="module")
def finish(small_network: DynamicDetector, tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    """Decoding and suppression of raw maps, as the end of a stage: 40 candidates, at most 12 detections."""
    module = _FromMaps(Finish(small_network, Nms(pre_top_k=40, max_detections=12))).eval()
    maps = {f"map{stride}": torch.zeros(2, 3, 64 // stride, 64 // stride, 5 + CLASSES) for stride in (8, 16, 32)}
    path = tmp_path_factory.mktemp("finish") / "finish.onnx"
    suppression.register_for_torchscript(OPSET)
    torch.onnx.export(
        module,
        tuple(maps.values()),
        path,
        dynamo=False,
        opset_version=OPSET,
        input_names=list(maps),
        output_names=list(DETECTIONS),
        dynamic_axes={name: {0: "batch"} for name in (*maps, *DETECTIONS)},
        custom_opsets={suppression.DOMAIN: 1},
    )
    model = suppression.inline_suppression(onnx.load(path))
    return onnxruntime.InferenceSession(model.SerializeToString())


class _FromMaps(torch.nn.Module):
    def __init__(self, finish: Finish) -> None:
        super().__init__()
        self.finish = finish

    def forward(self, *maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.finish(maps)[: len(DETECTIONS)]


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, 3, elements=st.floats(-14, 6)), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_detections_are_the_best_of_all_decoded_rows(
    small_network: DynamicDetector,
    finish: onnxruntime.InferenceSession,
    levels: Any,
    batch: int,
    seed: int,
) -> None:
    """From none at all to more than fit, for images of different content in one batch."""
    generator = np.random.default_rng(seed)
    shapes = [(batch, 3, 64 // stride, 64 // stride, 5 + CLASSES) for stride in (8, 16, 32)]
    maps = [generator.normal(size=shape).astype(np.float32) for shape in shapes]
    for raw in maps:
        raw[..., 4] += levels[generator.integers(0, 3, batch)][:, None, None, None]
    found = dict(zip(DETECTIONS, finish.run(list(DETECTIONS), _feed(finish, maps)), strict=True))
    rows = small_network.decode([torch.from_numpy(raw) for raw in maps]).numpy()
    for index in range(batch):
        boxes, scores, classes = _expected(rows[index])
        count = int(found["num_detections"][index, 0])
        assert count == len(scores)
        np.testing.assert_allclose(found["scores"][index, :count], scores, atol=1e-6)
        np.testing.assert_allclose(found["boxes"][index, :count], boxes, atol=1e-3)
        np.testing.assert_array_equal(found["classes"][index, :count], classes)
        assert not any(found[name][index, count:].any() for name in ("boxes", "scores", "classes"))


def _feed(session: onnxruntime.InferenceSession, maps: list[Any]) -> dict[str, Any]:
    return {value.name: raw for value, raw in zip(session.get_inputs(), maps, strict=True)}


def _expected(rows: Any) -> tuple[Any, Any, Any]:
    """Boxes, scores and classes of one image's decoded rows (N, 5 + classes)."""
    pairs = (rows[:, 4:5] * rows[:, 5:]).ravel()
    order = np.argsort(-pairs, kind="stable")[:41]
    close = np.diff(pairs[order[pairs[order] >= 0.0009]]) > -2e-6
    assume(not close.any())  # rounding decides which of two is first, and so what suppression leaves
    best = order[:40]
    best = best[pairs[best] >= 0.001]
    row, classes, scores = best // CLASSES, best % CLASSES, pairs[best]
    corners = np.hstack([rows[row, :2] - rows[row, 2:4] / 2, rows[row, :2] + rows[row, 2:4] / 2])
    kept = textbook(corners, scores, classes)[:12]
    return corners[kept].clip(0, 64), scores[kept], classes[kept]
