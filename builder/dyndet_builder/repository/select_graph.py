"""The graph by which a fused detector takes some images out of a batch without leaving the device."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from dyndet_builder.bundle.manifest import Bundle, Tensor

_TYPES = {"uint8": TensorProto.UINT8, "float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}
_IR_VERSION = 8  # that of the stages' graphs


def select_graph(bundle: Bundle) -> onnx.ModelProto:
    """`rows` int64 [n] and what the detectors read (B, ...) to `<name>_selected` (n, ...)."""
    tensors = {tensor.name: tensor for stage in bundle.stages.values() for tensor in stage.inputs}
    names = list(tensors)
    rows = helper.make_tensor_value_info("rows", TensorProto.INT64, ["n"])
    graph = helper.make_graph(
        [helper.make_node("Gather", [name, "rows"], [f"{name}_selected"], axis=0) for name in names],
        "select",
        [rows, *(_info(tensor, name, "batch") for name, tensor in tensors.items())],
        [_info(tensor, f"{name}_selected", "n") for name, tensor in tensors.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", bundle.opset)], ir_version=_IR_VERSION, producer_name="dyndet"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _info(tensor: Tensor, name: str, batch: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _TYPES[tensor.dtype], [batch, *tensor.shape])
