"""From the network's rows to the answers of each family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from dyndet_builder.bundle.spec import Family
from tests.support.foreign.core import ANCHORS, STRIDES, VALUES, rows_of
from tests.support.foreign.nodes import Nodes
from tests.support.foreign.recipes import Boxes, Recipe, Unit, Writer

IOU = 0.65
FLOOR = 0.001
QUERIES = 300
_TINY = 1e-7
_Outputs = dict[str, tuple[str, int, tuple[int, ...]]]
"""tensor, ONNX type and shape without the batch, by role"""


@dataclass(frozen=True)
class Found:
    """Candidates of a picture, or of each of a batch."""

    boxes: str
    """(B, N, 4) cx cy w h, pixels"""
    scores: str
    """(B, N, slots)"""
    objectness: str | None
    """(B, N, 1); scores are then those of the classes alone"""
    count: int
    slots: int


def write_head(model: onnx.ModelProto, rows: str, recipe: Recipe, family: Family, extra: str | None) -> _Outputs:
    """Append the nodes that turn rows into a family's answers; `extra` is the input with the pictures' sizes."""
    nodes = Nodes(model)
    writer = recipe.writer_for(family)
    count = rows_of(recipe.size)
    if writer.cells:
        rows, count = _cells(nodes, rows, recipe.size), count // ANCHORS
    found = _candidates(nodes, rows, count, recipe, split=family in ("yolo-objectness", "yolox-raw"))
    return _HEADS[family](_Head(nodes, recipe, writer, extra), found)


def _cells(nodes: Nodes, rows: str, size: tuple[int, int]) -> str:
    """The best of each cell's anchors."""
    chosen, start = [], 0
    for stride in STRIDES:
        cells = (size[0] // stride) * (size[1] // stride)
        level = nodes.columns(rows, start, start + ANCHORS * cells, axis=1)
        level = nodes("Reshape", level, [-1, ANCHORS, cells, VALUES])
        best = nodes.reduce("ReduceMax", nodes.columns(level, 5, VALUES), axis=-1, keep=True)
        anchor = nodes("ArgMax", nodes("Mul", best, nodes.columns(level, 4, 5)), axis=1)
        row = nodes("GatherElements", level, nodes("Tile", anchor, [1, 1, 1, VALUES]), axis=1)
        chosen.append(nodes("Reshape", row, [-1, cells, VALUES]))
        start += ANCHORS * cells
    return str(nodes("Concat", *chosen, axis=1))


def _candidates(nodes: Nodes, rows: str, count: int, recipe: Recipe, *, split: bool) -> Found:
    """Boxes and scores in the recipe's slots; classes that the network does not know have score 0."""
    objectness, scores = nodes.columns(rows, 4, 5), nodes.columns(rows, 5, VALUES)
    if not split:
        scores = nodes("Mul", objectness, scores)
    columns = recipe.columns()
    nothing = nodes("Mul", objectness, 0.0)
    index = [VALUES - 5 if one is None else one for one in columns]
    scores = nodes("Gather", nodes("Concat", scores, nothing, axis=-1), index, axis=2)
    return Found(nodes.columns(rows, 0, 4), scores, objectness if split else None, count, len(columns))


class _Head:
    """What the families share."""

    def __init__(self, nodes: Nodes, recipe: Recipe, writer: Writer, extra: str | None) -> None:
        self.nodes, self.recipe, self.writer, self.extra = nodes, recipe, writer, extra

    def boxes(self, centred: str, *, form: Boxes | None = None, unit: Unit | None = None) -> str:
        """Boxes cx cy w h in pixels as the recipe wants them."""
        nodes = self.nodes
        form, unit = form or self.recipe.boxes or self.writer.boxes, unit or self.recipe.unit or self.writer.unit
        height, width = self.recipe.size
        if unit == "normalised":
            centred = nodes("Div", centred, [float(width), float(height)] * 2)
        if form == "cxcywh":
            return centred
        centre, side = nodes.columns(centred, 0, 2), nodes.columns(centred, 2, 4)
        half = nodes("Mul", side, 0.5)
        first, last = nodes("Sub", centre, half), nodes("Add", centre, half)
        corners = nodes("Concat", first, side if form == "xywh" else last, axis=-1)
        return str(nodes("Gather", corners, [1, 0, 3, 2], axis=2)) if form == "yxyx" else str(corners)

    def queries(self, found: Found) -> Found:
        """The best boxes, with the scores of the classes in which no better box overlaps them."""
        nodes = self.nodes
        scores = nodes("Transpose", found.scores, perm=[0, 2, 1])  # (B, slots, N)
        corners = self.boxes(found.boxes, form="xyxy", unit="pixels")
        chosen = nodes("NonMaxSuppression", corners, scores, [1000], [IOU], [FLOOR])  # (M, 3) image, slot, row
        ones = nodes("Reshape", nodes("Cast", nodes.columns(chosen, 0, 1), to=TensorProto.FLOAT), [-1])
        ones = nodes("Add", nodes("Mul", ones, 0.0), 1.0)
        mask = nodes("ScatterND", nodes("Mul", scores, 0.0), chosen, ones)
        kept = nodes("Mul", scores, mask)
        _, row = nodes("TopK", nodes.reduce("ReduceMax", kept, axis=1), [QUERIES], outputs=2)
        boxes = nodes.take(found.boxes, row, width=4, count=QUERIES)
        rows = nodes("Transpose", kept, perm=[0, 2, 1])
        return Found(boxes, nodes.take(rows, row, width=found.slots, count=QUERIES), None, QUERIES, found.slots)

    def best(self, found: Found) -> tuple[str, str, str]:
        """Boxes (B, K, 4) cx cy w h, scores (B, K) and labels (B, K) int64 of the best pairs of box and class."""
        nodes, found = self.nodes, self.queries(found)
        flat = nodes("Reshape", found.scores, [-1, found.count * found.slots])
        scores, place = nodes("TopK", flat, [QUERIES], outputs=2)
        boxes = nodes.take(found.boxes, nodes("Div", place, found.slots), width=4, count=QUERIES)
        return boxes, scores, nodes("Add", nodes("Mod", place, found.slots), self.recipe.class_offset)

    def column(self, value: str) -> str:
        """(B, K) to (B, K, 1) floats."""
        floats = self.nodes("Cast", value, to=TensorProto.FLOAT)
        return str(self.nodes("Reshape", floats, [-1, QUERIES, 1]))


def _yolo(head: _Head, found: Found) -> _Outputs:
    joined = head.nodes("Concat", head.boxes(found.boxes), found.scores, axis=-1)
    columns = head.nodes("Transpose", joined, perm=[0, 2, 1])
    return {"all": (columns, TensorProto.FLOAT, (4 + found.slots, found.count))}


def _yolo_objectness(head: _Head, found: Found) -> _Outputs:
    joined = head.nodes("Concat", head.boxes(found.boxes), found.objectness, found.scores, axis=-1)
    return {"all": (joined, TensorProto.FLOAT, (found.count, 5 + found.slots))}


def _yolox_raw(head: _Head, found: Found) -> _Outputs:
    nodes, (height, width) = head.nodes, head.recipe.size
    cells, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride]
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((len(cells[-1]), 1), float(stride)))
    scaled = nodes("Div", found.boxes, np.concatenate(strides)[None])
    centre = nodes("Sub", nodes.columns(scaled, 0, 2), np.concatenate(cells)[None].astype(float))
    side = nodes("Log", nodes("Max", nodes.columns(scaled, 2, 4), 1e-6))
    columns = nodes("Concat", centre, side, found.objectness, found.scores, axis=-1)
    # Real files end in convolutions. This one changes nothing.
    width = 5 + found.slots
    image = nodes("Reshape", nodes("Transpose", columns, perm=[0, 2, 1]), [-1, width, found.count, 1])
    image = nodes("Conv", image, np.eye(width).reshape(width, width, 1, 1))
    joined = nodes("Transpose", nodes("Reshape", image, [-1, width, found.count]), perm=[0, 2, 1])
    return {"all": (joined, TensorProto.FLOAT, (found.count, width))}


def _rows(head: _Head, found: Found) -> _Outputs:
    boxes, scores, labels = head.best(found)
    joined = head.nodes("Concat", head.boxes(boxes), head.column(scores), head.column(labels), axis=-1)
    return {"all": (joined, TensorProto.FLOAT, (QUERIES, 6))}


def _counted(head: _Head, found: Found) -> _Outputs:
    nodes = head.nodes
    boxes, scores, labels = head.best(found)
    used = nodes("Cast", nodes("Greater", scores, FLOOR), to=TensorProto.FLOAT)
    boxes = nodes("Mul", head.boxes(boxes), head.column(used))
    count = nodes.reduce("ReduceSum", used, axis=1, keep=True)
    if head.writer.outputs[0] == "num_detections":  # TensorFlow's: floats, and one number per picture
        count = nodes("Reshape", count, [-1])
        labels = nodes("Cast", labels, to=TensorProto.FLOAT)
        kinds, shape = (TensorProto.FLOAT, TensorProto.FLOAT), ()
    else:
        count = nodes("Cast", count, to=TensorProto.INT32)
        labels = nodes("Cast", labels, to=TensorProto.INT32)
        kinds, shape = (TensorProto.INT32, TensorProto.INT32), (1,)
    return {
        "count": (count, kinds[0], shape),
        "boxes": (boxes, TensorProto.FLOAT, (QUERIES, 4)),
        "scores": (nodes("Mul", scores, used), TensorProto.FLOAT, (QUERIES,)),
        "labels": (labels, kinds[1], (QUERIES,)),
    }


def _detr(head: _Head, found: Found) -> _Outputs:
    nodes, recipe, found = head.nodes, head.recipe, head.queries(found)
    likely = nodes("Max", found.scores, _TINY)
    if recipe.activation == "sigmoid":
        likely = nodes("Min", likely, 1 - _TINY)
        logits = nodes("Log", nodes("Div", likely, nodes("Sub", 1.0, likely)))
        nothing = nodes("Sub", nodes("Mul", nodes.columns(logits, 0, 1), 0.0), 9.0)
    else:
        logits = nodes("Log", likely)
        rest = nodes("Sub", 1.0, nodes.reduce("ReduceSum", found.scores, axis=-1, keep=True))
        nothing = nodes("Log", nodes("Max", rest, _TINY))
    slots = found.slots
    if recipe.background != "none":
        order = (nothing, logits) if recipe.background == "first" else (logits, nothing)
        logits, slots = nodes("Concat", *order, axis=-1), slots + 1
    return {
        "logits": (logits, TensorProto.FLOAT, (QUERIES, slots)),
        "boxes": (head.boxes(found.boxes), TensorProto.FLOAT, (QUERIES, 4)),
    }


def _joined(head: _Head, found: Found) -> _Outputs:
    found = head.queries(found)
    joined = head.nodes("Concat", head.boxes(found.boxes), found.scores, axis=-1)
    return {"all": (joined, TensorProto.FLOAT, (QUERIES, 4 + found.slots))}


def _triple(head: _Head, found: Found) -> _Outputs:
    nodes = head.nodes
    boxes, scores, labels = head.best(found)
    sizes = nodes("Cast", head.extra, to=TensorProto.FLOAT)
    sizes = nodes("Reshape", nodes("Concat", sizes, sizes, axis=-1), [-1, 1, 4])
    return {
        "labels": (labels, TensorProto.INT64, (QUERIES,)),
        "boxes": (nodes("Mul", head.boxes(boxes, unit="normalised"), sizes), TensorProto.FLOAT, (QUERIES, 4)),
        "scores": (scores, TensorProto.FLOAT, (QUERIES,)),
    }


def _dets_labels(head: _Head, found: Found) -> _Outputs:
    boxes, scores, labels = head.best(found)
    joined = head.nodes("Concat", head.boxes(boxes), head.column(scores), axis=-1)
    return {"boxes": (joined, TensorProto.FLOAT, (QUERIES, 5)), "labels": (labels, TensorProto.INT64, (QUERIES,))}


def _boxes_scores(head: _Head, found: Found) -> _Outputs:
    return {
        "boxes": (head.boxes(found.boxes), TensorProto.FLOAT, (found.count, 4)),
        "scores": (found.scores, TensorProto.FLOAT, (found.count, found.slots)),
    }


_HEADS: Mapping[Family, Callable[[_Head, Found], _Outputs]] = {
    "yolo": _yolo,
    "yolo-objectness": _yolo_objectness,
    "yolox-raw": _yolox_raw,
    "rows": _rows,
    "counted": _counted,
    "detr": _detr,
    "joined": _joined,
    "triple": _triple,
    "dets-labels": _dets_labels,
    "boxes-scores": _boxes_scores,
}
