"""Puts a router into the graph of detector 1, in standard operators: the arithmetic of `dynamicdet.router`.

Only operators that mean the same from opset 13 on, so that the detector's own opset can stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from dynamicdet.errors import InputError
from dynamicdet.networks.router.ranks import TAIL
from dynamicdet.router.features import (
    COUNTS,
    MOST_CLASSES,
    SIDE_STEP,
    SIDES,
    SMALL_SIDE,
    THRESHOLDS,
    TOP,
)
from dynamicdet.router.weighted import NO_LIMIT, Network
from dyndet_builder.pairing.router.draft import Draft
from dyndet_builder.pairing.router.router import FittedRouter

OPSETS = (13, 22)
_READS = ("boxes", "scores", "classes")
_LOOKS_STEP = 16
_LOG_STEP = float(2 * np.log(2) * SIDE_STEP)
"""`SIDE_STEP` in natural logarithms of areas"""
_ENDLESS = 1e30


def attach(model: onnx.ModelProto, router: FittedRouter) -> onnx.ModelProto:
    """A copy of a merged detector with the output `difficulty`, float32 [B, 1]; `model` stays as it is.

    The detector has the input `image` uint8 [B, H, W, 3] and the outputs `boxes` [B, K, 4] in pixels of it, `scores`
    [B, K] and `classes` [B, K]; B may be any number or 1. Raises InputError for another graph, one of an opset outside
    13 to 22, and one that has a router already.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    draft, batch = _drafted(model, router, pixels=_pixels_in(model))
    result.graph.node.extend(draft.nodes)
    result.graph.initializer.extend(draft.constants)
    result.graph.output.append(helper.make_tensor_value_info("difficulty", TensorProto.FLOAT, [batch, 1]))
    return result


def alone(model: onnx.ModelProto, router: FittedRouter) -> onnx.ModelProto:
    """What `attach` adds to the detector, as a graph of its own, so that it can be timed.

    Its inputs are the detector's outputs that it reads, and `image`, or `pixels`, float32 [B, H, W, 3], where the
    detector makes single precision of the image for itself. It may read less than all of them. Raises as `attach` does.
    """
    draft, batch = _drafted(model, router, pixels="pixels" if _pixels_in(model) else None)
    tensors = {one.name: one for one in (*model.graph.input, *model.graph.output)}
    pixels = onnx.ValueInfoProto()
    pixels.CopyFrom(tensors["image"])
    pixels.name, pixels.type.tensor_type.elem_type = "pixels", TensorProto.FLOAT
    tensors["pixels"] = pixels
    read = {name for node in draft.nodes for name in node.input} & {"image", "pixels", *_READS}
    graph = helper.make_graph(
        draft.nodes,
        "router",
        [tensors[name] for name in sorted(read)],
        [helper.make_tensor_value_info("difficulty", TensorProto.FLOAT, [batch, 1])],
        draft.constants,
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _pixels_in(model: onnx.ModelProto) -> str | None:
    """The image in single precision, where the detector has it."""
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] == "image":
            if helper.get_node_attr_value(node, "to") == TensorProto.FLOAT:
                return str(node.output[0])
    return None


def _drafted(model: onnx.ModelProto, router: FittedRouter, *, pixels: str | None) -> tuple[Draft, str | int | None]:
    """The router's nodes, and the batch of its output."""
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise InputError(f"a router needs a graph of opset {OPSETS[0]} to {OPSETS[1]}, not {opset}")
    height, width, rows, batch = _shapes(model)
    draft = Draft(opset)
    columns = _Columns(draft, router.network, pixels=pixels, height=height, width=width, rows=rows)
    draft.name_last(_difficulty(draft, router.network, columns), "difficulty")
    return draft, batch


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


class _Columns:
    """The features that a network reads, (B, F) in `output`; the others are left out, for each costs time.

    A graph of so small tensors takes as long as it has nodes: sums that are weighted with the scores share theirs.
    `units` (F,) are what the graph's numbers must be multiplied by. `chosen` (F,) are their places in `feature_names`.
    """

    def __init__(
        self, draft: Draft, network: Network, *, pixels: str | None, height: int, width: int, rows: int
    ) -> None:
        self._draft, self._rows, self._root = draft, rows, float(height * width) ** 0.5
        self._pixels, self._image = pixels, (height, width)
        read = (network.linear != 0) | (network.hidden != 0).any(axis=1)
        groups = self._groups(network)
        places = np.split(np.arange(len(read)), np.cumsum([count for count, *_ in groups])[:-1])
        columns, units, chosen = [], [], []
        for is_weighted in (False, True):
            written = []
            for place, (count, unit, weighted, write) in zip(places, groups, strict=True):
                if weighted == is_weighted and read[place].any():
                    written.append(write())
                    units += [unit] * count
                    chosen += place.tolist()
            if is_weighted and written:
                written = [draft.sum(draft("Mul", self._joined(written), self.by_row), 2)]
            columns += written
        self.output = self._joined(columns)
        self.units, self.chosen = np.array(units), np.array(chosen)

    def _groups(self, network: Network) -> Sequence[tuple[int, float, bool, Callable[[], str]]]:
        """How many features, their unit, whether they are sums weighted with the scores, and what writes them.

        In the order of `feature_names`. Written are (B, count), or (B, count, K) of what is to be weighted.
        """
        height, width = self._image
        samples = -(-height // _LOOKS_STEP) * -(-width // _LOOKS_STEP)
        classes = network.class_count if network.class_count <= MOST_CLASSES else 0
        return (
            (TOP, 1.0, False, self._top),
            (len(THRESHOLDS), 1.0, False, self._soft_counts),
            (len(SIDES), 1 / _LOG_STEP, True, self._near),
            (len(COUNTS), 1.0, False, self._counts),
            (1, 1.0, False, lambda: self.total),
            (1, 1.0, True, lambda: self._draft("Sub", 1.0, self.by_row)),
            (1, 1.0, False, self._mean),
            (1, 1 / (SMALL_SIDE * self._root), True, self._small),
            (1, 1 / self._root, False, self._least_side),
            (1, 1 / (3 * 255), False, lambda: self.light),
            (1, 1 / (3 * 255 * samples**0.5), False, self._contrast),
            *([(classes, 1.0, True, lambda: self._of_class(classes))] if classes else []),
        )

    def _joined(self, parts: Sequence[str]) -> str:
        return self._draft("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]

    @cached_property
    def by_row(self) -> str:
        """Scores (B, 1, K)."""
        return self._draft("Unsqueeze", "scores", [1])

    @cached_property
    def used(self) -> str:
        """1 for the rows that hold a detection, (B, 1, K)."""
        return self._draft("Sign", self.by_row)

    @cached_property
    def total(self) -> str:
        """Sum of the scores (B, 1)."""
        return self._draft.sum("scores", 1, keep=True)

    @cached_property
    def corners(self) -> str:
        """-x1 -y1 x2 y2 in pixels, (B, 4, K): the least of two boxes' numbers are those of what they share."""
        signs = np.array([-1.0, -1.0, 1.0, 1.0])[None, :, None]
        return self._draft("Mul", self._draft("Transpose", "boxes", perm=[0, 2, 1]), signs)

    @cached_property
    def areas(self) -> str:
        """Of the boxes, (B, 1, K), pixels."""
        return self._area(self.corners)

    @cached_property
    def side(self) -> str:
        """Their square roots, (B, 1, K)."""
        return self._draft("Sqrt", self.areas)

    @cached_property
    def grey(self) -> str:
        """Every 16th pixel, sum of its colours, (B, h, w, 1)."""
        step = [_LOOKS_STEP, _LOOKS_STEP]
        pixels = self._pixels or self._draft("Cast", "image", to=TensorProto.FLOAT)  # engines cannot slice bytes
        pixels = self._draft("Slice", pixels, [0, 0], [*self._image], [1, 2], step)
        return self._draft.sum(pixels, 3, keep=True)

    @cached_property
    def light(self) -> str:
        """Their mean, (B, 1)."""
        return self._draft.reduce("ReduceMean", self.grey, 1, 2)

    def _area(self, corners: str) -> str:
        """(B, 1, ...) of (B, 4, ...); 0 for what has no width or no height."""
        draft = self._draft
        sides = draft("Relu", draft("Add", *draft.halves(corners, of=4)))
        return draft("Mul", *draft.halves(sides, of=2))

    def _top(self) -> str:
        if self._rows >= TOP:
            return self._draft.first("scores", TOP, axis=1)
        return self._draft("Pad", "scores", [0, 0, 0, TOP - self._rows], 0.0)

    def _soft_counts(self) -> str:
        draft = self._draft
        places = draft("Sub", draft("Mul", self.by_row, _column([4 / one for one in THRESHOLDS])), 4.0)
        return draft.sum(draft("Mul", draft("Sigmoid", places), self.used), 2)

    def _near(self) -> str:
        """In logarithms of areas: no root, and no factor, which are in the unit."""
        draft = self._draft
        centres = 2 * np.log(2) * np.array(SIDES) + 2 * np.log(self._root)
        size = draft("Log", draft("Clip", self.areas, float(np.exp(centres[0])), float(np.exp(centres[-1]))))
        away = draft("Abs", draft("Sub", size, _column(centres)))
        return draft("Relu", draft("Sub", _LOG_STEP, away))

    def _counts(self) -> str:
        return self._draft.sum(self._draft.number(self._draft("Greater", self.by_row, _column(COUNTS))), 2)

    def _mean(self) -> str:
        return self._draft("Div", self.total, self._draft("Max", self._draft.sum(self.used, 2), 1.0))

    def _small(self) -> str:
        return self._draft("Relu", self._draft("Sub", SMALL_SIDE * self._root, self.side))

    def _least_side(self) -> str:
        draft = self._draft
        sides = draft("Where", draft("Greater", self.by_row, COUNTS[0]), self.side, self._root)
        return draft.reduce("ReduceMin", sides, 2)

    def _contrast(self) -> str:
        off = self._draft("Sub", self.grey, self._draft("Unsqueeze", self.light, [1, 2]))
        return self._draft.reduce("ReduceL2", off, 1, 2)

    def _of_class(self, count: int) -> str:
        numbers = np.arange(count, dtype=np.int32)[None, :, None]
        return self._draft.number(self._draft("Equal", self._draft("Unsqueeze", "classes", [1]), numbers))


def _column(values: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """To be compared with (B, 1, K)."""
    return np.array(values)[None, :, None]


def _difficulty(draft: Draft, network: Network, columns: _Columns) -> str:
    """Layers of weights; what is added is in them."""
    mean, factor = network.mean[columns.chosen] / columns.units, network.factor[columns.chosen] * columns.units
    linear, hidden = network.linear[columns.chosen], network.hidden[columns.chosen]
    if network.limit < NO_LIMIT:
        scaled = draft("Mul", draft("Sub", columns.output, mean[None]), factor[None])
        scaled = draft("Clip", scaled, -network.limit, network.limit)
        # The linear part is a layer, too: x = relu(x) - relu(-x).
        weights = np.concatenate([hidden, linear[:, None], -linear[:, None]], axis=1)
        active = draft("Relu", draft("Gemm", scaled, weights, np.concatenate([network.bias, [0.0, 0.0]])))
        return _rank(draft, network, active, np.concatenate([network.out, [1.0, -1.0]]), shift=0.0)
    return _rank(draft, network, columns.output, linear * factor, shift=float((mean * factor) @ linear))  # a rule


def _rank(draft: Draft, network: Network, layer: str, weights: npt.NDArray[np.float64], *, shift: float) -> str:
    """Difficulties (B, 1) of the values `layer` @ `weights` - `shift`."""
    knots = network.knots
    steps, slopes = np.diff(knots), np.diff(network.ranks) / np.diff(knots)
    # How far the value is beyond each knot; below the first and above the last knot, there is no end.
    starts = np.concatenate([knots[:1], knots]) + shift
    beyond = draft("Gemm", layer, np.repeat(weights[:, None], len(starts), axis=1), -starts)
    low, high = np.array([-_ENDLESS, *np.zeros(len(knots))]), np.array([0.0, *steps, _ENDLESS])
    beyond = draft("Min", draft("Max", beyond, low[None]), high[None])
    inside = draft("Gemm", beyond, np.array([[0.0], *slopes[:, None], [0.0]]), np.array([TAIL]))
    ends = np.array([[1.0], *np.zeros((len(steps), 1)), [1.0]]) / network.spread
    return draft("Gemm", draft("Softsign", draft("Gemm", beyond, ends)), np.array([[TAIL]]), inside)
