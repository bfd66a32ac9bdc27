"""Nodes of a router's graph while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

PREFIX = "router/"
"""of the names of all nodes and tensors of the router"""
_AXES_ARE_INPUTS = 18
"""opset from which ReduceMin and the like have their axes as an input"""


class Draft:
    """Nodes that are being written; calling it adds one and returns the name of its output."""

    def __init__(self, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._opset = opset
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def __call__(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        """Add a node; its inputs are names, or constants."""
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
        """Sum over axes."""
        return self("ReduceSum", value, list(axes), keepdims=int(keep))

    def reduce(self, operator: str, value: str, *axes: int) -> str:
        """ReduceMin and the like, without the axes."""
        if self._opset >= _AXES_ARE_INPUTS:
            return self(operator, value, list(axes), keepdims=0)
        return self(operator, value, axes=list(axes), keepdims=0)

    def halves(self, value: str, *, of: int) -> tuple[str, str]:
        """The upper and the lower half of axis 1, which is `of` long."""
        first = self("Split", value, [of // 2, of // 2], axis=1)
        second = f"{first}_2"
        self.nodes[-1].output.append(second)
        return first, second

    def number(self, value: str) -> str:
        """A truth value as 0 or 1."""
        return self("Cast", value, to=TensorProto.FLOAT)

    def first(self, value: str, count: int, *, axis: int) -> str:
        """The first rows of an axis."""
        return self("Slice", value, [0], [count], [axis])

    def name_last(self, output: str, name: str) -> None:
        """Give the newest node's output its public name."""
        assert self.nodes[-1].output[0] == output
        self.nodes[-1].output[0] = name
