"""How a graph ends: which operators compute an output, and the score below which its suppression drops boxes.

A sigmoid at the end says that scores are final, a convolution that they are not decoded: facts that names do not give.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from dynamicdet.text import printable
from dyndet_builder.bundle.graph_files import is_elsewhere

_MOVES_ITS_FIRST = {
    *("Cast", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape", "Slice"),
    *("Split", "Squeeze", "Transpose", "Unsqueeze"),
}
"""operators that only move the numbers of their first input"""
_MOVES_ALL = {"Concat"}
_KEEPS_A_CONSTANT = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
_MOST_STEPS = 10_000
_COMPARISONS = {"Greater": 1, "GreaterOrEqual": 1, "Less": 0, "LessOrEqual": 0}
"""input that is the smaller side"""


class Tails:
    """The ends of one graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._made_by = {output: node for node in graph.node for output in node.output}
        self._weights = {one.name: one for one in graph.initializer}

    def of(self, output: str) -> tuple[str, ...]:
        """The operators that compute an output, behind those that only move numbers; sorted, each once."""
        found: set[str] = set()
        seen: set[str] = set()
        waiting = [output]
        while waiting and len(seen) < _MOST_STEPS:
            name = waiting.pop()
            node = self._made_by.get(name)
            if name in seen or node is None:
                continue
            seen.add(name)
            if node.op_type in _MOVES_ALL:
                waiting.extend(node.input)
            elif node.op_type in _MOVES_ITS_FIRST:
                waiting.extend(node.input[:1])
            elif node.op_type != "Constant":
                found.add(printable(node.op_type, limit=120))
        return tuple(sorted(found))

    def score_floors(self) -> tuple[float, ...]:
        """What suppression compares scores with: in NonMaxSuppression itself, and in comparisons beside it.

        Some exporters drop low scores before they call the operator without a floor.
        """
        suppressions = [node for node in self._graph.node if node.op_type == "NonMaxSuppression"]
        if not suppressions:
            return ()
        names = [node.input[4] for node in suppressions if len(node.input) > 4]
        names += [node.input[_COMPARISONS[node.op_type]] for node in self._comparisons()]
        values = {self._constant(name) for name in names}
        return tuple(sorted(value for value in values if value is not None and 0 < value < 1))

    def _comparisons(self) -> Iterator[onnx.NodeProto]:
        return (node for node in self._graph.node if node.op_type in _COMPARISONS and len(node.input) == 2)

    def _constant(self, name: str) -> float | None:
        """The one number that a tensor always holds; None if it changes, or holds several."""
        for _ in range(10):
            node = self._made_by.get(name)
            if node is None or node.op_type not in _KEEPS_A_CONSTANT or not node.input:
                break
            name = node.input[0]
        if node is None:
            return _number(self._weights.get(name))
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value_float":
                return round(float(attribute.f), 6)
            if attribute.name == "value":
                return _number(attribute.t)
        return None


def _number(tensor: onnx.TensorProto | None) -> float | None:
    if tensor is None or is_elsewhere(tensor) or len(tensor.dims) > 4 or any(side != 1 for side in tensor.dims):
        return None
    try:
        return round(float(numpy_helper.to_array(tensor).reshape(())), 6)
    except (ValueError, TypeError, KeyError):  # a damaged tensor
        return None
