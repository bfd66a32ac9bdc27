"""Writes operators of ONNX as calls: `ops.Add(boxes, 1.0)` adds a node and gives the name of its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Value = Any
"""an input of an operator: the name of a tensor, or numbers, which become a constant (int64 or float32)"""
FLOAT, INT32, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64


class Ops:
    """Nodes and constants of a part of a graph, whose names begin with `prefix`.

    Attributes are operators: their arguments are inputs and attributes. `outputs` is the number of outputs, which come
    as a tuple if there are several. Operators are those of the opset, at least 14.
    """

    def __init__(self, opset: int, prefix: str) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        if not operator[:1].isupper():
            raise AttributeError(operator)

        def add(*inputs: Value, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
            names = [self._new(operator) if outputs == 1 else self._new(f"{operator}_{i}") for i in range(outputs)]
            given = [self._name(value) for value in inputs]
            self.nodes.append(helper.make_node(operator, given, names, names[0], domain=domain, **attributes))
            return names[0] if outputs == 1 else tuple(names)

        return add

    def largest(self, tensor: str, axis: int, *, operator: str = "ReduceMax") -> str:
        """The largest number along an axis, which goes; axes became an input in opset 18."""
        if self.opset < 18:
            return str(getattr(self, operator)(tensor, axes=[axis], keepdims=0))
        return str(getattr(self, operator)(tensor, [axis], keepdims=0))

    def parts(self, tensor: str, *lengths: int, axis: int) -> tuple[str, ...]:
        """Slices along an axis, one after another."""
        if len(lengths) == 1:
            return (tensor,)
        # Not `Slice`: OpenVINO drops one that starts at 0 before a gather, and then refuses the shapes.
        found: tuple[str, ...] = self.Split(tensor, list(lengths), axis=axis, outputs=len(lengths))
        return found

    def take(self, rows: str, index: str, *, width: int, axis: int = 1) -> str:
        """Rows of (B, N, width) at `index` (B, K), or columns of (B, width, N) with axis 2."""
        other = 3 - axis
        shape = [1, 1, 1]
        shape[other] = width
        wide = self.Expand(self.Unsqueeze(index, [other]), shape)
        return str(self.GatherElements(rows, wide, axis=axis))

    def name_as(self, tensor: str, name: str) -> str:
        """Give a tensor a name without the prefix."""
        self.nodes.append(helper.make_node("Identity", [tensor], [name], f"{self._prefix}{name}"))
        return name

    def _new(self, kind: str) -> str:
        return f"{self._prefix}{kind}_{len(self.nodes)}"

    def _name(self, value: Value) -> str:
        if isinstance(value, str):
            return value
        numbers = np.asarray(value)
        if not isinstance(value, np.ndarray) and numbers.dtype == np.float64:
            numbers = numbers.astype(np.float32)
        name = f"{self._prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(numbers, name))
        return name
