"""A few ONNX nodes at any opset from 11 on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Nodes:
    """Appends nodes to a graph. A method takes and returns names of tensors; numbers and arrays become constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.opset: int = next(entry.version for entry in model.opset_import if entry.domain == "")

    def __call__(self, operator: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node; the name of its output, or a list of the names."""
        number = len(self.graph.node)
        names = [f"{operator.lower()}_{number}_{index}" for index in range(outputs)]
        given = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        self.graph.node.append(helper.make_node(operator, given, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any) -> str:
        """Floats are single precision, whole numbers 64 bits."""
        array = np.asarray(value)
        array = array.astype({"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype))
        name = f"constant_{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def reduce(self, operator: str, value: str, *, axis: int, keep: bool = False) -> str:
        """ReduceMax or ReduceSum; their axes moved from an attribute to an input."""
        keepdims = int(keep)
        if self.opset >= {"ReduceSum": 13, "ReduceMax": 18}[operator]:
            return str(self(operator, value, [axis], keepdims=keepdims))
        return str(self(operator, value, axes=[axis], keepdims=keepdims))

    def columns(self, value: str, first: int, last: int, *, axis: int = -1) -> str:
        """A slice of the last axis, or of another."""
        return str(self("Slice", value, [first], [last], [axis]))

    def take(self, rows: str, index: str, *, width: int, count: int) -> str:
        """Rows (B, N, width) at `index` (B, count)."""
        spread = self("Tile", self("Reshape", index, [-1, count, 1]), [1, 1, width])
        return str(self("GatherElements", rows, spread, axis=1))
