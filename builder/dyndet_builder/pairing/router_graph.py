"""Puts a router into the graph of detector 1, in standard operators: the arithmetic of `features.py` and `network.py`.

Only operators that mean the same from opset 13 on, so that the detector's own opset can stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dynamicdet.errors import InputError
from dyndet_builder.pairing.features import (
    COUNTS,
    CROWD,
    MOST_CLASSES,
    SIDE_STEP,
    SIDES,
    SMALL_SIDE,
    THRESHOLDS,
    TOP,
)
from dyndet_builder.pairing.network import TAIL, Network
from dyndet_builder.pairing.router import FittedRouter

PREFIX = "router/"
"""of the names of all nodes and tensors of the router"""
OPSETS = (13, 22)
_READS = ("boxes", "scores", "classes")
_LOOKS_STEP = 16
_AXES_ARE_INPUTS = 18
"""opset from which ReduceMin has its axes as an input"""


def attach(model: onnx.ModelProto, router: FittedRouter) -> onnx.ModelProto:
    """A copy of a merged detector with the output `difficulty`, float32 [B, 1]; `model` stays as it is.

    The detector has the input `image` uint8 [B, H, W, 3] and the outputs `boxes` [B, K, 4] in pixels of it, `scores`
    [B, K] and `classes` [B, K]; B may be any number or 1. Raises InputError for another graph, one of an opset outside
    13 to 22, and one that has a router already.
    """
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise InputError(f"a router needs a graph of opset {OPSETS[0]} to {OPSETS[1]}, not {opset}")
    height, width, rows, batch = _shapes(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    draft = _Draft(opset)
    pixels = next(
        (
            node.output[0]
            for node in result.graph.node
            if node.op_type == "Cast"
            and node.input[0] == "image"
            and helper.get_node_attr_value(node, "to") == TensorProto.FLOAT
        ),
        None,
    )
    pixels = pixels or draft("Cast", "image", to=TensorProto.FLOAT)
    network = router.network
    read = _features(draft, network.class_count, pixels=pixels, height=height, width=width, rows=rows)
    draft.name_last(_difficulty(draft, network, read), "difficulty")
    result.graph.node.extend(draft.nodes)
    result.graph.initializer.extend(draft.constants)
    result.graph.output.append(helper.make_tensor_value_info("difficulty", TensorProto.FLOAT, [batch, 1]))
    return result


def _shapes(model: onnx.ModelProto) -> tuple[int, int, int, str | int | None]:
    """Height and width of the image, rows of the answer, and the batch."""
    tensors = {one.name: one.type.tensor_type for one in (*model.graph.input, *model.graph.output)}
    if "difficulty" in tensors:
        raise InputError("the graph has a difficulty already, so it gets no second router")
    missing = [name for name in ("image", *_READS) if name not in tensors]
    if missing:
        raise InputError(f"a router needs a merged detector, but the graph has no {missing[0]}")
    image, scores = ([*tensors[name].shape.dim] for name in ("image", "scores"))
    if len(image) != 4 or len(scores) != 2 or not all(one.dim_value for one in (*image[1:], scores[1])):
        raise InputError("a router needs a merged detector whose image and scores have fixed shapes but for the batch")
    batch = scores[0].dim_value or scores[0].dim_param or None
    return image[1].dim_value, image[2].dim_value, scores[1].dim_value, batch


class _Draft:
    """Nodes that are being written; calling it adds one and returns the name of its output."""

    def __init__(self, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._opset = opset
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def __call__(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        output = f"{PREFIX}{len(self.nodes)}_{operator}"
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **attributes))
        return output

    def constant(self, value: float | npt.NDArray[Any] | Sequence[int]) -> str:
        """A float (or an array of floats) is of single precision; integers keep their type, 64 bits for a sequence."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"{PREFIX}constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def sum(self, value: str, *axes: int, keep: bool = False) -> str:
        return self("ReduceSum", value, list(axes), keepdims=int(keep))

    def least(self, value: str, axis: int) -> str:
        if self._opset >= _AXES_ARE_INPUTS:
            return self("ReduceMin", value, [axis], keepdims=1)
        return self("ReduceMin", value, axes=[axis], keepdims=1)

    def number(self, value: str) -> str:
        """A truth value as 0 or 1."""
        return self("Cast", value, to=TensorProto.FLOAT)

    def first(self, value: str, count: int) -> str:
        """The first rows of (B, K) or (B, K, 4)."""
        return self("Slice", value, [0], [count], [1])

    def name_last(self, output: str, name: str) -> None:
        assert self.nodes[-1].output[0] == output
        self.nodes[-1].output[0] = name


def _features(draft: _Draft, class_count: int, *, pixels: str, height: int, width: int, rows: int) -> str:
    """The features (B, F), in the order of `feature_names`."""
    scores = draft.first("scores", rows)  # a name of its own, so that the output can be read
    used = draft.number(draft("Greater", scores, 0.0))
    corners = [draft("Gather", "boxes", np.int64(place), axis=2) for place in range(4)]  # each (B, K)
    sides = [
        draft("Mul", draft("Max", draft("Sub", corners[place + 2], corners[place]), 0.0), 1 / length)
        for place, length in ((0, width), (1, height))
    ]
    side = draft("Sqrt", draft("Mul", *sides))
    by_row = draft("Unsqueeze", scores, [1])  # (B, 1, K)
    total = draft.sum(scores, 1, keep=True)
    small = draft("Max", draft("Sub", 1.0, draft("Mul", side, 1 / SMALL_SIDE)), 0.0)
    columns = [
        _top(draft, scores, rows),
        _soft_counts(draft, by_row, used),
        _near(draft, by_row, side),
        draft.sum(draft.number(draft("Greater", by_row, _column(COUNTS))), 2),
        total,
        draft.sum(draft("Mul", scores, draft("Sub", 1.0, scores)), 1, keep=True),
        draft("Div", total, draft("Max", draft.sum(used, 1, keep=True), 1.0)),
        draft.sum(draft("Mul", scores, small), 1, keep=True),
        draft.least(draft("Where", draft("Greater", scores, COUNTS[0]), side, 1.0), 1),
        _crowd(draft, scores, corners, min(rows, CROWD)),
        *_looks(draft, pixels, height, width),
    ]
    if 0 < class_count <= MOST_CLASSES:
        numbers = np.arange(class_count, dtype=np.int32)[None, :, None]
        same = draft("Equal", draft("Unsqueeze", draft("Cast", "classes", to=TensorProto.INT32), [1]), numbers)
        columns.append(draft.sum(draft("Mul", draft.number(same), by_row), 2))
    return draft("Concat", *columns, axis=1)


def _column(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """To be compared with (B, 1, K)."""
    return np.array(values)[None, :, None]


def _top(draft: _Draft, scores: str, rows: int) -> str:
    if rows >= TOP:
        return draft.first(scores, TOP)
    return draft("Pad", scores, [0, 0, 0, TOP - rows], 0.0)


def _soft_counts(draft: _Draft, by_row: str, used: str) -> str:
    places = draft("Mul", draft("Sub", by_row, _column(THRESHOLDS)), _column([4 / one for one in THRESHOLDS]))
    return draft.sum(draft("Mul", draft("Sigmoid", places), draft("Unsqueeze", used, [1])), 2)


def _near(draft: _Draft, by_row: str, side: str) -> str:
    size = draft("Mul", draft("Log", draft("Max", side, 1e-4)), float(1 / np.log(2)))
    size = draft("Unsqueeze", draft("Clip", size, SIDES[0], SIDES[-1]), [1])
    away = draft("Mul", draft("Abs", draft("Sub", size, _column(SIDES))), 1 / SIDE_STEP)
    return draft.sum(draft("Mul", draft("Max", draft("Sub", 1.0, away), 0.0), by_row), 2)


def _crowd(draft: _Draft, scores: str, corners: Sequence[str], count: int) -> str:
    best = [draft.first(one, count) for one in (*corners, scores)]
    (left, top, right, bottom, score), (left_t, top_t, right_t, bottom_t, score_t) = (
        [draft("Unsqueeze", one, [axis]) for one in best] for axis in (2, 1)
    )
    inner = [
        draft("Max", draft("Sub", draft("Min", high, high_t), draft("Max", low, low_t)), 0.0)
        for low, high, low_t, high_t in ((left, right, left_t, right_t), (top, bottom, top_t, bottom_t))
    ]
    shared = draft("Mul", *inner)
    areas = [
        draft("Mul", *(draft("Max", draft("Sub", high, low), 0.0) for low, high in pairs))
        for pairs in (((left, right), (top, bottom)), ((left_t, right_t), (top_t, bottom_t)))
    ]
    union = draft("Sub", draft("Add", *areas), shared)
    overlap = draft("Div", shared, draft("Max", union, 1e-6))
    weighted = draft("Mul", draft("Mul", overlap, draft("Mul", score, score_t)), np.triu(np.ones((count, count)), 1))
    return draft.sum(draft.sum(weighted, 2), 1, keep=True)


def _looks(draft: _Draft, pixels: str, height: int, width: int) -> tuple[str, str]:
    """Mean and standard deviation (B, 1) of every 16th pixel, as `looks_of`."""
    step = _LOOKS_STEP
    sample = draft("Slice", pixels, [0, 0], [height, width], [1, 2], [step, step])
    grey = draft("Mul", draft.sum(sample, 3), 1 / (3 * 255))
    share = 1 / (-(-height // step) * -(-width // step))
    mean = draft("Mul", draft.sum(grey, 1, 2, keep=True), share)
    off = draft("Sub", grey, mean)
    variance = draft("Mul", draft.sum(draft("Mul", off, off), 1, 2), share)
    return draft("Squeeze", mean, [2]), draft("Unsqueeze", draft("Sqrt", variance), [1])


def _difficulty(draft: _Draft, network: Network, features: str) -> str:
    scaled = draft("Mul", draft("Sub", features, network.mean), network.factor)
    scaled = draft("Clip", scaled, -network.limit, network.limit)
    value = draft("MatMul", scaled, network.linear[:, None])
    if len(network.out):
        hidden = draft("Relu", draft("Add", draft("MatMul", scaled, network.hidden), network.bias))
        value = draft("Add", value, draft("MatMul", hidden, network.out[:, None]))
    steps, slopes = np.diff(network.knots), np.diff(network.ranks) / np.diff(network.knots)
    beyond = draft("Max", draft("Sub", value, network.knots[:-1]), 0.0)
    inside = draft.sum(draft("Mul", draft("Min", beyond, steps), slopes), 1, keep=True)
    above = draft("Max", draft("Sub", value, float(network.knots[-1])), 0.0)
    below = draft("Max", draft("Sub", float(network.knots[0]), value), 0.0)
    tails = [draft("Div", one, draft("Add", one, network.spread)) for one in (above, below)]
    level = draft("Add", inside, draft("Mul", draft("Sub", *tails), TAIL))
    return draft("Add", level, TAIL)
