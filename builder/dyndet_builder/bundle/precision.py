"""The precision in which a graph computes, by its layers with weights."""

from __future__ import annotations

import onnx

from dyndet_builder.bundle.manifest import Precision

_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_WEIGHED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
DOMINANT = 0.5
"""share of the layers with weights from which a graph counts as half or int8"""


def graph_shares(model: onnx.ModelProto) -> dict[str, float]:
    """Shares of a graph's convolutions and matrix products with weights that compute in `half` and `int8`."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types |= {node.output[0]: _constant_type(node) for node in model.graph.node if node.op_type == "Constant"}
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    half = int8 = count = 0
    for node in model.graph.node:
        if node.op_type not in _WEIGHED or len(node.input) < 2:
            continue
        data, weight = node.input[:2]
        is_int8 = data in dequantized and weight in dequantized
        if weight not in types and not is_int8:
            continue  # a product of two activations
        count, int8, half = count + 1, int8 + is_int8, half + (types.get(weight) in _HALF)
    return {"half": half / max(1, count), "int8": int8 / max(1, count)}


def precision_in(model: onnx.ModelProto) -> Precision:
    """The precision in which at least half of a graph's layers with weights compute; fp32 if there is none."""
    shares = graph_shares(model)
    return "int8" if shares["int8"] >= DOMINANT else "fp16" if shares["half"] >= DOMINANT else "fp32"


def _constant_type(node: onnx.NodeProto) -> int:
    return next((attribute.t.data_type for attribute in node.attribute if attribute.name == "value"), 0)
