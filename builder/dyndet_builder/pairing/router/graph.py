"""Puts a router into the graph of detector 1, in standard operators: the arithmetic of `features.py` and `network.py`.

Only operators that mean the same from opset 13 on, so that the detector's own opset can stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dynamicdet.errors import InputError
from dyndet_builder.pairing.router.features import (
    COUNTS,
    MOST_CLASSES,
    SIDE_STEP,
    SIDES,
    SMALL_SIDE,
    THRESHOLDS,
    TOP,
)
from dyndet_builder.pairing.router.network import NO_LIMIT, TAIL, Network
from dyndet_builder.pairing.router.router import FittedRouter

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
    pixels = pixels or draft("Cast", "image", to=TensorProto.FLOAT)  # engines cannot slice bytes
    network = router.network
    columns = _Columns(draft, network, pixels=pixels, height=height, width=width, rows=rows)
    draft.name_last(_difficulty(draft, network, columns), "difficulty")
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


class _Columns:
    """The features (B, F) that a network reads, in their order, the others left out; all cost time.

    `units` (F,) are what the graph's numbers must be multiplied by. `chosen` (F,) are their places in `feature_names`.
    """

    def __init__(self, draft: _Draft, network: Network, *, pixels: str, height: int, width: int, rows: int) -> None:
        self._draft, self._rows, self._area = draft, rows, float(height * width)
        self._pixels, self._image = pixels, (height, width)
        read = (network.linear != 0) | (network.hidden != 0).any(axis=1)
        places = np.split(np.arange(len(read)), np.cumsum([count for count, *_ in self._groups(network)])[:-1])
        columns, units, chosen = [], [], []
        for place, (count, unit, write) in zip(places, self._groups(network), strict=True):
            if read[place].any():
                columns.append(write())
                units += [unit] * count
                chosen += place.tolist()
        self.output = draft("Concat", *columns, axis=1)
        self.units, self.chosen = np.array(units), np.array(chosen)

    def _groups(self, network: Network) -> Sequence[tuple[int, float, Callable[[], str]]]:
        """How many features, their unit, and what writes them (B, count); in the order of `feature_names`."""
        height, width = self._image
        samples = -(-height // _LOOKS_STEP) * -(-width // _LOOKS_STEP)
        classes = network.class_count if network.class_count <= MOST_CLASSES else 0
        return (
            (TOP, 1.0, self._top),
            (len(THRESHOLDS), 1.0, self._soft_counts),
            (len(SIDES), 1.0, self._near),
            (len(COUNTS), 1.0, self._counts),
            (1, 1.0, lambda: self.total),
            (1, 1.0, self._uncertain),
            (1, 1.0, self._mean),
            (1, 1.0, self._small),
            (1, 1.0, self._least_side),
            (1, 1 / (3 * 255 * samples), lambda: self._draft("Squeeze", self.light, [2])),
            (1, 1 / (3 * 255 * samples**0.5), self._contrast),
            *([(classes, 1.0, lambda: self._by_class(classes))] if classes else []),
        )

    @cached_property
    def by_row(self) -> str:
        """Scores (B, 1, K)."""
        return self._draft("Unsqueeze", "scores", [1])

    @cached_property
    def used(self) -> str:
        """1 for the rows that hold a detection, (B, K)."""
        return self._draft.number(self._draft("Greater", "scores", 0.0))

    @cached_property
    def total(self) -> str:
        """Sum of the scores (B, 1)."""
        return self._draft.sum("scores", 1, keep=True)

    @cached_property
    def corners(self) -> tuple[str, str]:
        """Left top and right bottom, (B, K, 2), pixels."""
        return (self._draft("Slice", "boxes", [0], [2], [2]), self._draft("Slice", "boxes", [2], [4], [2]))

    @cached_property
    def areas(self) -> str:
        """Of the boxes, (B, K), pixels."""
        low, high = self.corners
        return self._product(self._draft("Max", self._draft("Sub", high, low), 0.0), axis=2)

    @cached_property
    def side(self) -> str:
        """Square root of the boxes' shares of the picture, (B, K)."""
        return self._draft("Sqrt", self._draft("Mul", self.areas, 1 / self._area))

    @cached_property
    def grey(self) -> str:
        """Every 16th pixel, sum of its colours, (B, h, w)."""
        height, width = self._image
        step = [_LOOKS_STEP, _LOOKS_STEP]
        return self._draft.sum(self._draft("Slice", self._pixels, [0, 0], [height, width], [1, 2], step), 3)

    @cached_property
    def light(self) -> str:
        """Their sum, (B, 1, 1)."""
        return self._draft.sum(self.grey, 1, 2, keep=True)

    def _product(self, value: str, *, axis: int) -> str:
        return self._draft("Mul", *(self._draft("Gather", value, np.int64(part), axis=axis) for part in (0, 1)))

    def _top(self) -> str:
        if self._rows >= TOP:
            return self._draft.first("scores", TOP)
        return self._draft("Pad", "scores", [0, 0, 0, TOP - self._rows], 0.0)

    def _soft_counts(self) -> str:
        draft = self._draft
        slopes = _column([4 / one for one in THRESHOLDS])
        places = draft("Sub", draft("Mul", self.by_row, slopes), 4.0)
        return draft.sum(draft("Mul", draft("Sigmoid", places), draft("Unsqueeze", self.used, [1])), 2)

    def _near(self) -> str:
        draft = self._draft
        size = draft("Mul", draft("Log", draft("Max", self.side, 1e-4)), float(1 / np.log(2)))
        size = draft("Unsqueeze", draft("Clip", size, SIDES[0], SIDES[-1]), [1])
        away = draft("Abs", draft("Sub", size, _column(SIDES)))
        near = draft("Max", draft("Sub", 1.0, draft("Mul", away, 1 / SIDE_STEP)), 0.0)
        return draft.sum(draft("Mul", near, self.by_row), 2)

    def _counts(self) -> str:
        return self._draft.sum(self._draft.number(self._draft("Greater", self.by_row, _column(COUNTS))), 2)

    def _uncertain(self) -> str:
        unsure = self._draft("Mul", "scores", self._draft("Sub", 1.0, "scores"))
        return self._draft.sum(unsure, 1, keep=True)

    def _mean(self) -> str:
        return self._draft("Div", self.total, self._draft("Max", self._draft.sum(self.used, 1, keep=True), 1.0))

    def _small(self) -> str:
        draft = self._draft
        small = draft("Max", draft("Sub", 1.0, draft("Mul", self.side, 1 / SMALL_SIDE)), 0.0)
        return draft.sum(draft("Mul", "scores", small), 1, keep=True)

    def _least_side(self) -> str:
        draft = self._draft
        return draft.least(draft("Where", draft("Greater", "scores", COUNTS[0]), self.side, 1.0), 1)

    def _contrast(self) -> str:
        draft, (height, width) = self._draft, self._image
        samples = -(-height // _LOOKS_STEP) * -(-width // _LOOKS_STEP)
        off = draft("Sub", self.grey, draft("Mul", self.light, 1 / samples))
        return draft("Unsqueeze", draft("Sqrt", draft.sum(draft("Mul", off, off), 1, 2)), [1])

    def _by_class(self, count: int) -> str:
        draft = self._draft
        numbers = np.arange(count, dtype=np.int32)[None, :, None]
        same = draft("Equal", draft("Unsqueeze", "classes", [1]), numbers)
        return draft.sum(draft("Mul", draft.number(same), self.by_row), 2)


def _column(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """To be compared with (B, 1, K)."""
    return np.array(values)[None, :, None]


def _difficulty(draft: _Draft, network: Network, columns: _Columns) -> str:
    mean, factor = network.mean[columns.chosen] / columns.units, network.factor[columns.chosen] * columns.units
    linear, hidden = network.linear[columns.chosen], network.hidden[columns.chosen]
    shift = 0.0
    if network.limit < NO_LIMIT:
        scaled = draft("Mul", draft("Sub", columns.output, mean), factor)
        scaled = draft("Clip", scaled, -network.limit, network.limit)
        value = draft("MatMul", scaled, linear[:, None])
        if len(network.out):
            active = draft("Relu", draft("Add", draft("MatMul", scaled, hidden), network.bias))
            value = draft("Add", value, draft("MatMul", active, network.out[:, None]))
    else:  # a rule
        value, shift = draft("MatMul", columns.output, (linear * factor)[:, None]), float((mean * factor) @ linear)
    knots = network.knots + shift
    steps, slopes = np.diff(knots), np.diff(network.ranks) / np.diff(knots)
    climbed = draft("Min", draft("Max", draft("Sub", value, knots[:-1]), 0.0), steps)
    inside = draft.sum(draft("Mul", climbed, slopes), 1, keep=True)
    beyond = draft("Sub", value, draft("Clip", value, float(knots[0]), float(knots[-1])))
    tail = draft("Div", beyond, draft("Add", draft("Abs", beyond), network.spread))
    return draft("Add", draft("Add", inside, TAIL), draft("Mul", tail, TAIL))
