"""A static detector that answers every image with the same box: a real graph for the real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dyndet_builder.bundle.export import stage_of
from dyndet_builder.bundle.manifest import Nms, Parity, Source
from dyndet_builder.bundle.static import FILE_NAME, StaticExport
from tests.support.toy_bundle import ROWS, SIZE

_OPSET = 17
_TYPES = {"num_detections": TensorProto.INT32, "classes": TensorProto.INT32}


def write_toy_static(folder: Path, class_names: tuple[str, ...], box: tuple[float, float, float, float]) -> Path:
    """Write the folder of a static detector that finds the first class at `box` (x1 y1 x2 y2), surely."""
    folder.mkdir(parents=True)
    answer = {
        "num_detections": np.ones((1, 1), np.int32),
        "boxes": np.array([[box, *[(0,) * 4] * (ROWS - 1)]], np.float32),
        "scores": np.eye(1, ROWS, dtype=np.float32),
        "classes": np.zeros((1, ROWS), np.int32),
    }
    nodes = [
        helper.make_node("Shape", ["image"], ["batch"], start=0, end=1),
        *(node for name in answer for node in _repeated(name)),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    outputs = [
        helper.make_tensor_value_info(name, _TYPES.get(name, TensorProto.FLOAT), ["batch", *value.shape[1:]])
        for name, value in answer.items()
    ]
    constants = [numpy_helper.from_array(value, f"{name}_one") for name, value in answer.items()]
    constants += [numpy_helper.from_array(np.ones(count, np.int64), f"{name}_ones") for name, count in _OTHERS.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "static", [image], outputs, constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    onnx.save(model, folder / "toy.onnx")
    described = StaticExport(
        name="toy",
        architecture="toy",
        input_size=SIZE,
        class_names=class_names,
        precision="fp32",
        opset=_OPSET,
        exporter="dynamo",
        graph=stage_of(folder / "toy.onnx", model),
        nms=Nms(max_detections=ROWS),
        source=Source(checkpoint="none", sha256="0" * 64),
        tool_versions={},
        parity=Parity(images=0, batch_sizes=(1,), box_px=0, score=0, difficulty=0, route_flip_share=0),
        gflops=1.0,
    )
    (folder / FILE_NAME).write_text(described.model_dump_json(indent=2))
    return folder


_OTHERS = {"num_detections": 1, "boxes": 2, "scores": 1, "classes": 1}
"""dimensions after the batch"""


def _repeated(name: str) -> list[onnx.NodeProto]:
    """The constant answer, once for each image of the batch."""
    return [
        helper.make_node("Concat", ["batch", f"{name}_ones"], [f"{name}_times"], axis=0),
        helper.make_node("Tile", [f"{name}_one", f"{name}_times"], [name]),
    ]
