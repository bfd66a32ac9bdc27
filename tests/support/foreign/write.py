"""Writes a route of the demo network as a detector of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from dynamicdet.networks.network import Route
from dyndet_builder.bundle.spec import DetectorSpec, ExtraInput, Family, InputSpec, OutputSpec
from tests.support.foreign.core import core
from tests.support.foreign.heads import write_head
from tests.support.foreign.nodes import Nodes
from tests.support.foreign.recipes import Recipe, Writer

_GREY = 114 / 255
_SIZES = "orig_target_sizes"


def write_detector(path: Path, route: Route, family: Family, recipe: Recipe) -> DetectorSpec:
    """Write the ONNX file, named and shaped as its real exporter would, and return what is true of it."""
    model = detector(route, family, recipe)
    onnx.save(model, path)
    return spec_of(family, recipe)


def detector(route: Route, family: Family, recipe: Recipe) -> onnx.ModelProto:
    """The graph that `write_detector` writes."""
    writer = recipe.writer_for(family)
    half = recipe.dtype == "float16"
    model = core(route, recipe.size, opset=recipe.opset, half=half)
    network = list(model.graph.node)
    del model.graph.node[:], model.graph.input[:], model.graph.output[:], model.graph.value_info[:]

    model.graph.input.append(_input(writer, recipe))
    extra = _SIZES if family == "triple" else None
    if extra:
        sizes = helper.make_tensor_value_info(extra, TensorProto.INT64, [_batch(recipe), 2])
        model.graph.input.append(sizes)
    undone = _Undo.of(recipe)
    _write_input(Nodes(model), writer.input, recipe, undone)
    model.graph.node.extend(network)
    rows = undone.boxes(Nodes(model), "rows") if undone else "rows"

    outputs = write_head(model, rows, recipe, family, extra)
    for role, name in zip(writer.roles, writer.outputs, strict=True):
        _write_output(model, name, *outputs[role], recipe=recipe)
    model.graph.name = "main_graph"
    model.metadata_props.extend(_metadata(writer, recipe))
    onnx.checker.check_model(model)
    return model


def spec_of(family: Family, recipe: Recipe) -> DetectorSpec:
    """What is true of a detector."""
    writer = recipe.writer_for(family)
    extra = (ExtraInput(name=_SIZES, dtype="int64", kind="width-height"),) if family == "triple" else ()
    return DetectorSpec(
        input=InputSpec(
            name=writer.input,
            dtype=recipe.dtype,
            layout=recipe.layout,
            size=recipe.size,
            batch=recipe.batch,
            colour=recipe.colour,
            divide_by=recipe.divide_by,
            mean=recipe.mean,
            std=recipe.std,
            resize=recipe.resize,
            place=recipe.place,
            pad=recipe.pad,
            filter=recipe.filter,
            extra=extra,
        ),
        output=OutputSpec(
            family=family,
            tensors=dict(zip(writer.roles, writer.outputs, strict=True)),
            boxes=recipe.boxes or writer.boxes,
            unit=recipe.unit or writer.unit,
            activation=recipe.activation if family == "detr" else "none",
            background=recipe.background,
            class_offset=recipe.class_offset,
            class_ids=recipe.class_ids,
            suppress=writer.suppress,
        ),
        class_names=recipe.class_names,
        licence=_LICENCE if writer.metadata == "ultralytics" else None,
    )


_LICENCE = "AGPL-3.0 License (https://ultralytics.com/license)"


def _batch(recipe: Recipe) -> int | str:
    return 1 if recipe.batch == "one" else "batch"


def _input(writer: Writer, recipe: Recipe) -> onnx.ValueInfoProto:
    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}[recipe.dtype]
    height, width = recipe.size
    shape = (3, height, width) if recipe.layout == "NCHW" else (height, width, 3)
    return helper.make_tensor_value_info(writer.input, kind, [_batch(recipe), *shape])


def _write_input(nodes: Nodes, name: str, recipe: Recipe, undone: _Undo | None) -> None:
    """From the file's input to `pictures`: RGB, 0..1, as the network was trained to see them."""
    value = name if recipe.dtype == "float32" else nodes("Cast", name, to=TensorProto.FLOAT)
    if recipe.layout == "NHWC":
        value = nodes("Transpose", value, perm=[0, 3, 1, 2])
    std = np.array(recipe.std).reshape(1, 3, 1, 1)
    mean = np.array(recipe.mean).reshape(1, 3, 1, 1)
    value = nodes("Add", nodes("Mul", value, std), mean)
    value = nodes("Mul", value, recipe.divide_by / 255)
    if recipe.colour == "BGR":
        value = nodes("Gather", value, [2, 1, 0], axis=1)
    if undone:
        value = undone.picture(nodes, value)
    kind = TensorProto.FLOAT16 if recipe.dtype == "float16" else TensorProto.FLOAT
    nodes.graph.node.append(helper.make_node("Cast", [value], ["pictures"], to=kind))


def _write_output(
    model: onnx.ModelProto, name: str, tensor: str, kind: int, shape: tuple[int, ...], *, recipe: Recipe
) -> None:
    nodes = Nodes(model)
    if recipe.batch == "one":
        tensor = nodes("Reshape", tensor, [1, *shape])
    half = recipe.dtype == "float16" and kind == TensorProto.FLOAT
    kind = TensorProto.FLOAT16 if half else kind
    model.graph.node.append(helper.make_node("Cast", [tensor], [name], to=kind))
    model.graph.output.append(helper.make_tensor_value_info(name, kind, [_batch(recipe), *shape]))


def _metadata(writer: Writer, recipe: Recipe) -> list[onnx.StringStringEntryProto]:
    names = repr(dict(enumerate(recipe.class_names)))
    entries: dict[str, str] = {}
    if writer.metadata == "yolov5":
        entries = {"stride": "32", "names": names}
    if writer.metadata == "ultralytics":
        kind = {"joined": "rtdetr-l", "rows": "YOLO26n", "yolo": "YOLO11n"}[writer.family]
        dynamic = recipe.batch == "dynamic"
        half = recipe.dtype == "float16"
        arguments = {"batch": 1, "half": half, "dynamic": dynamic, "simplify": True, "opset": None, "nms": False}
        entries = {
            "description": f"Ultralytics {kind} model trained on data.yaml",
            "author": "Ultralytics",
            "date": "2026-01-15T10:00:00.000000",
            "version": "8.4.190",
            "license": _LICENCE,
            "docs": "https://docs.ultralytics.com",
            "stride": "32",
            "task": "detect",
            "batch": "1",
            "imgsz": str(list(recipe.size)),
            "names": names,
            "args": str(arguments),
            "channels": "3",
        }
        if writer.family != "joined":
            entries["end2end"] = str(writer.family == "rows")
    return [onnx.StringStringEntryProto(key=key, value=value) for key, value in entries.items()]


@dataclass(frozen=True)
class _Undo:
    """Gives the network its own letterbox of pictures of one shape, whatever the rule of the file's input is."""

    size: tuple[int, int]
    inner: tuple[int, int]
    stretched: bool

    @classmethod
    def of(cls, recipe: Recipe) -> _Undo | None:
        if recipe.undo is None:
            return None
        (height, width), (high, wide) = recipe.size, recipe.undo
        scale = min(height / high, width / wide)
        return cls(recipe.size, (round(high * scale), round(wide * scale)), recipe.resize == "stretch")

    @property
    def _pads(self) -> tuple[int, int]:
        """Above and left."""
        return (self.size[0] - self.inner[0]) // 2, (self.size[1] - self.inner[1]) // 2

    def picture(self, nodes: Nodes, value: str) -> str:
        height, width = self.inner
        if self.stretched:
            sizes = nodes("Concat", nodes.columns(nodes("Shape", value), 0, 2, axis=0), [height, width], axis=0)
            value = nodes("Resize", value, "", "", sizes, mode="linear")
        else:
            value = nodes("Slice", value, [0, 0], [height, width], [2, 3])
        (top, left), (whole, across) = self._pads, self.size
        pads = [0, 0, top, left, 0, 0, whole - height - top, across - width - left]
        return str(nodes("Pad", value, pads, _GREY))

    def boxes(self, nodes: Nodes, rows: str) -> str:
        """Rows in pixels of the file's input."""
        (top, left), (height, width) = self._pads, self.inner
        scale = np.array([self.size[1] / width, self.size[0] / height] if self.stretched else [1.0, 1.0])
        offset = np.array([left, top, 0, 0], np.float32)
        boxes = nodes("Mul", nodes("Sub", nodes.columns(rows, 0, 4), offset), np.tile(scale, 2))
        return str(nodes("Concat", boxes, nodes.columns(rows, 4, 1000), axis=-1))
