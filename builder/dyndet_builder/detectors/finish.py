"""From candidates to the answer of the contract, as operators: suppression, calibration of scores, unused rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit
from dyndet_builder.bundle import nms as suppression
from dyndet_builder.bundle.manifest import DETECTION_OUTPUTS, Nms
from dyndet_builder.detectors.decoding import Candidates
from dyndet_builder.detectors.ops import INT32, Ops

Table = Sequence[tuple[float, float]]


def add_detections(
    ops: Ops, found: Candidates, *, suppress: bool, fit: Fit, nms: Nms, calibration: Table
) -> tuple[str, ...]:
    """Add what makes the outputs `DETECTION_OUTPUTS` of candidates; gives their names."""
    count = min(found.count, nms.max_detections)
    scores = ops.Min(found.scores, 1.0)
    scores = ops.Where(ops.GreaterOrEqual(scores, nms.score_floor), scores, 0.0)
    boxes, classes = found.boxes, found.classes
    if suppress:
        threshold = np.float32(nms.iou_threshold)
        keep = ops.KeepMask(boxes, scores, classes, threshold, domain=suppression.DOMAIN)
        scores, order = ops.TopK(ops.Where(keep, scores, 0.0), [count], axis=1, outputs=2)
        boxes, classes = ops.take(boxes, order, width=4), ops.GatherElements(classes, order, axis=1)
    used = ops.Greater(scores, 0.0)
    corners = np.array([fit.width, fit.height] * 2, np.float32)
    boxes = ops.Min(ops.Max(boxes, 0.0), corners)
    boxes = ops.Where(ops.Unsqueeze(used, [2]), boxes, 0.0)
    classes = ops.Cast(ops.Where(used, classes, 0), to=INT32)
    if calibration:
        scores = ops.Where(used, _calibrated(ops, scores, calibration), 0.0)
    if missing := nms.max_detections - count:
        boxes = ops.Pad(boxes, [0, 0, 0, 0, missing, 0])
        scores, classes = (ops.Pad(tensor, [0, 0, 0, missing]) for tensor in (scores, classes))
    number = ops.ReduceSum(ops.Cast(used, to=INT32), [1], keepdims=1)
    tensors = (number, boxes, scores, classes)
    return tuple(ops.name_as(tensor, name) for tensor, name in zip(tensors, DETECTION_OUTPUTS, strict=True))


def check_calibration(table: Table) -> None:
    """Raise InputError unless a table's scores ascend and their calibrated ones do not descend, all within 0..1."""
    numbers = np.array([*table], np.float64).reshape(-1, 2)
    steps = np.diff(numbers, axis=0)
    ordered = (steps[:, 0] > 0).all() and (steps[:, 1] >= 0).all()
    if not ordered or not ((numbers >= 0) & (numbers <= 1)).all():
        raise InputError("a calibration needs ascending scores from 0 to 1, and for each one a score that is not lower")


def _calibrated(ops: Ops, scores: str, table: Table) -> str:
    """Linear between the points, constant beside them: the sum of how far a score has come between each two points."""
    given, wanted = np.array(table, np.float64).T
    if len(table) == 1:
        return str(ops.Add(ops.Mul(scores, 0.0), np.float32(wanted[0])))
    width, rise = np.diff(given), np.diff(wanted)
    way = ops.Div(ops.Sub(ops.Unsqueeze(scores, [2]), given[:-1].astype(np.float32)), width.astype(np.float32))
    way = ops.Min(ops.Max(way, 0.0), 1.0)  # (B, K, steps)
    risen = ops.ReduceSum(ops.Mul(way, rise.astype(np.float32)), [2], keepdims=0)
    return str(ops.Add(risen, np.float32(wanted[0])))


def detection_infos(nms: Nms, batch: int | str) -> list[ValueInfoProto]:
    """The declarations of the outputs."""
    rows = nms.max_detections
    types = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    shapes = ([1], [rows, 4], [rows], [rows])
    return [
        helper.make_tensor_value_info(name, kind, [batch, *shape])
        for name, kind, shape in zip(DETECTION_OUTPUTS, types, shapes, strict=True)
    ]
