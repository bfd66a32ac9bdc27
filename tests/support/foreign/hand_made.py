"""Small detectors as ONNX files whose answers are known: one that always finds the same, and one that sees pixels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dyndet_builder.bundle.spec import DetectorSpec, InputSpec, OutputSpec

SIZE = 64
NAMES = ("cat", "dog", "owl")
PATCH = 16
"""pixels; each patch of a picture is an object of `patch_detector`"""


def spec_of(output: Mapping[str, Any], **input_fields: Any) -> DetectorSpec:
    """A description for these detectors, whose input is `images`."""
    given = {"name": "images", "size": (SIZE, SIZE), "batch": "dynamic", **input_fields}
    return DetectorSpec(input=InputSpec(**given), output=OutputSpec(**output), class_names=NAMES)


def constant_detector(
    path: Path,
    outputs: Mapping[str, Any],
    *,
    opset: int = 17,
    batch: int | str = "batch",
    dtype: str = "float32",
    extra: Mapping[str, tuple[str, list[int | str]]] | None = None,
    open_sizes: Collection[str] = (),
) -> Path:
    """Write a detector that gives `outputs`, arrays of one picture, for every picture of a batch.

    `extra` are more inputs, with type and shape. The file does not say the sizes of the outputs in `open_sizes`.
    """
    inputs = [_info("images", dtype, [batch, 3, SIZE, SIZE])]
    nodes = [helper.make_node("Cast", ["images"], ["pixels"], to=1), helper.make_node("Mul", ["pixels", "zero"], ["z"])]
    weights = [numpy_helper.from_array(np.float32(0), "zero")]
    if opset < 18:
        nodes.append(helper.make_node("ReduceMean", ["z"], ["m"], keepdims=0, axes=[1, 2, 3]))
    else:
        weights.append(numpy_helper.from_array(np.array([1, 2, 3]), "axes"))
        nodes.append(helper.make_node("ReduceMean", ["z", "axes"], ["m"], keepdims=0))
    for name, (kind, shape) in (extra or {}).items():
        inputs.append(_info(name, kind, shape))
    infos = []
    for name, values in outputs.items():
        weights += [
            numpy_helper.from_array(values[None].astype(np.float32), f"{name}_values"),
            numpy_helper.from_array(np.array([-1, *[1] * values.ndim]), f"{name}_shape"),
        ]
        nodes += [
            helper.make_node("Reshape", ["m", f"{name}_shape"], [f"{name}_zero"]),
            helper.make_node("Add", [f"{name}_zero", f"{name}_values"], [f"{name}_all"]),
            helper.make_node("Cast", [f"{name}_all"], [name], to=helper.np_dtype_to_tensor_dtype(values.dtype)),
        ]
        shape = [f"{name}_{axis}" for axis in range(values.ndim)] if name in open_sizes else [*values.shape]
        infos.append(_info(name, values.dtype.name, [batch, *shape]))
    return _saved(path, helper.make_graph(nodes, "constant", inputs, infos, weights), opset)


def patch_detector(path: Path, spec: DetectorSpec, *, batch: int | str = "batch") -> Path:
    """Write a detector that finds each patch of 16 x 16 pixels three times, with the mean of red, green and blue.

    It takes pictures in the way that `spec` says, and gives output `all` of the family `yolo`, boxes x1 y1 x2 y2.
    """
    one, side = spec.input, SIZE // PATCH
    shape = [batch, 3, SIZE, SIZE] if one.layout == "NCHW" else [batch, SIZE, SIZE, 3]
    nodes = [helper.make_node("Cast", ["images"], ["pixels"], to=1)]
    last = "pixels"

    def add(operator: str, *others: Any, **attributes: Any) -> None:
        nonlocal last
        names = []
        for value in others:
            names.append(f"constant_{len(weights)}")
            weights.append(numpy_helper.from_array(value, names[-1]))
        nodes.append(helper.make_node(operator, [last, *names], [f"step_{len(nodes)}"], **attributes))
        last = nodes[-1].output[0]

    weights: list[onnx.TensorProto] = []
    if one.layout == "NHWC":
        add("Transpose", perm=[0, 3, 1, 2])
    add("Mul", np.array(one.std, np.float32).reshape(3, 1, 1))
    add("Add", np.array(one.mean, np.float32).reshape(3, 1, 1))
    add("Mul", np.float32(one.divide_by / 255))
    if one.colour == "BGR":
        add("Gather", np.array([2, 1, 0]), axis=1)
    add("AveragePool", kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH])
    add("Reshape", np.array([0, 3, side * side]))
    y, x = (grid.ravel() * PATCH for grid in np.mgrid[:side, :side])
    boxes = np.stack([x, y, x + PATCH, y + PATCH])[None].astype(np.float32)
    weights += [numpy_helper.from_array(boxes, "boxes"), numpy_helper.from_array(np.float32(0), "none")]
    nodes += [
        helper.make_node("ReduceMean", [last], ["mean"], axes=[1, 2], keepdims=1),
        helper.make_node("Mul", ["mean", "none"], ["zeros"]),
        helper.make_node("Add", ["zeros", "boxes"], ["wide"]),
        helper.make_node("Concat", ["wide", last], ["all"], axis=1),
    ]
    info = _info("all", "float32", [batch, 7, side * side])
    return _saved(path, helper.make_graph(nodes, "patches", [_info("images", one.dtype, shape)], [info], weights), 17)


def _info(name: str, dtype: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def _saved(path: Path, graph: onnx.GraphProto, opset: int) -> Path:
    version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=max(6, version))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
