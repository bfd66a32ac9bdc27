"""Turns a network into checked ONNX graphs: torch's current exporter, or its TorchScript one, then simplification."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import onnx
import onnxslim
import torch
from torch import Tensor, nn

from dynamicdet.errors import ParityError
from dynamicdet.files import scratch_folder
from dynamicdet.networks.network import DynamicDetector, StaticDetector
from dyndet_builder.bundle import nms as suppression
from dyndet_builder.bundle.manifest import Nms, StageName
from dyndet_builder.bundle.stages import (
    CANDIDATES,
    DETECTIONS,
    Backbone1Stage,
    Detector2Stage,
    Head1Stage,
    StaticStage,
    feature_outputs,
)

Exporter = Literal["dynamo", "torchscript"]

OPSET = 18  # for ONNX Runtime 1.14+, TensorRT 10 and 11; the lowest that torch's current exporter writes directly
IR_VERSION = 8  # belongs to opset 18; torch writes a newer version that servers of the last two years may refuse
BATCH = "batch"
_TRACED_BATCH = 2  # 0 and 1 would become constants
_TYPES = {"uint8": "UINT8", "int32": "INT32", "float16": "FLOAT16", "float32": "FLOAT"}

Report = Callable[[StageName], None]


@dataclass(frozen=True)
class StageGraph:
    """One stage's graph. `probe` is the same graph with the candidates before suppression as outputs, for parity."""

    model: onnx.ModelProto
    probe: onnx.ModelProto


@dataclass(frozen=True)
class _Plan:
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    hidden: tuple[str, ...] = ()


def export_graphs(
    network: DynamicDetector, nms: Nms, *, exporter: Exporter | None = None, report: Report = lambda _stage: None
) -> tuple[dict[StageName, StageGraph], Exporter]:
    """All stages from one exporter, and its name; `exporter` forces one. `report` is called before each stage.

    Raises ParityError if the shapes of a graph are not those of the contract.
    """
    return _exported(_plans(network, nms), exporter, report)


def export_static_graph(
    network: StaticDetector, nms: Nms, *, exporter: Exporter | None = None
) -> tuple[StageGraph, Exporter]:
    """The graph of a static detector, and the exporter that made it; see `export_graphs`."""
    size = network.input_size
    image = torch.zeros(_TRACED_BATCH, size, size, 3, dtype=torch.uint8)
    plan = _Plan(StaticStage(network, nms).eval(), {"image": image}, DETECTIONS, CANDIDATES)
    graphs, used = _exported({"detector1": plan}, exporter, lambda _stage: None)
    return graphs["detector1"], used


def _exported(
    plans: dict[StageName, _Plan], exporter: Exporter | None, report: Report
) -> tuple[dict[StageName, StageGraph], Exporter]:
    if exporter == "torchscript":
        return _export_all(plans, _by_torchscript, report), "torchscript"
    try:
        return _export_all(plans, _by_dynamo, report), "dynamo"
    except torch.onnx.OnnxExporterError:
        if exporter == "dynamo":
            raise
        return _export_all(plans, _by_torchscript, report), "torchscript"


def _plans(network: DynamicDetector, nms: Nms) -> dict[StageName, _Plan]:
    size = network.input_size
    image = torch.zeros(_TRACED_BATCH, size, size, 3, dtype=torch.uint8)
    backbone1 = Backbone1Stage(network).eval()
    with torch.no_grad():
        features = dict(zip(feature_outputs(network), backbone1(image)[1:], strict=True))
    read1 = {name: features[name] for name in network.head1_reads}
    read2 = {"image": image, **{name: features[name] for name in network.detector2_reads}}
    return {
        "backbone1": _Plan(backbone1, {"image": image}, ("difficulty", *features)),
        "head1": _Plan(Head1Stage(network, nms).eval(), read1, DETECTIONS, CANDIDATES),
        "detector2": _Plan(Detector2Stage(network, nms).eval(), read2, DETECTIONS, CANDIDATES),
    }


def _export_all(
    plans: dict[StageName, _Plan], trace: Callable[[_Plan], onnx.ModelProto], report: Report
) -> dict[StageName, StageGraph]:
    graphs: dict[StageName, StageGraph] = {}
    for name, plan in plans.items():
        report(name)
        with torch.no_grad(), _quiet():
            probe = _simplified(trace(plan))
        model = onnx.ModelProto()
        model.CopyFrom(probe)
        del model.graph.output[len(plan.outputs) :]
        for graph in (model, probe):
            onnx.checker.check_model(graph, full_check=True)
            _check_shapes(name, graph)
        graphs[name] = StageGraph(model, probe)
    return graphs


def _by_dynamo(plan: _Plan) -> onnx.ModelProto:
    batch = torch.export.Dim(BATCH, min=1)
    program = torch.onnx.export(
        plan.module,
        tuple(plan.inputs.values()),
        dynamo=True,
        opset_version=OPSET,
        input_names=list(plan.inputs),
        output_names=[*plan.outputs, *plan.hidden],
        dynamic_shapes=_dynamic(plan, {0: batch}),
        custom_translation_table=suppression.TRANSLATIONS,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _dynamic(plan: _Plan, axes: dict[int, torch.export.Dim]) -> dict[str, object]:
    """The axes of every input, by parameter of `forward`; the last parameter may stand for any number of inputs."""
    left = len(plan.inputs)
    shapes: dict[str, object] = {}
    for name, parameter in inspect.signature(plan.module.forward).parameters.items():
        variable = parameter.kind is inspect.Parameter.VAR_POSITIONAL
        shapes[name] = (axes,) * left if variable else axes
        left -= 1
    return shapes


def _by_torchscript(plan: _Plan) -> onnx.ModelProto:
    suppression.register_for_torchscript(OPSET)
    with scratch_folder("graph") as folder:
        path = folder / "stage.onnx"
        torch.onnx.export(
            plan.module,
            tuple(plan.inputs.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(plan.inputs),
            output_names=[*plan.outputs, *plan.hidden],
            dynamic_axes={name: {0: BATCH} for name in (*plan.inputs, *plan.outputs, *plan.hidden)},
            custom_opsets={suppression.DOMAIN: 1},
        )
        model = onnx.load(path)
    with torch.no_grad():
        traced = plan.module(*plan.inputs.values())
    for value, tensor in zip(model.graph.output, traced, strict=True):  # this exporter loses some static sizes
        shape = onnx.helper.make_tensor_type_proto(value.type.tensor_type.elem_type, [BATCH, *tensor.shape[1:]])
        value.type.CopyFrom(shape)
    return model


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """Only standard operators, constants folded, no data about this machine."""
    model = onnxslim.slim(suppression.inline_suppression(model))
    model.ir_version = IR_VERSION
    standard = [entry for entry in model.opset_import if entry.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.name = "dyndet"
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        item.doc_string = ""
        del item.metadata_props[:]
    return model


def _check_shapes(stage: StageName, model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        batch, *others = value.type.tensor_type.shape.dim
        if batch.dim_param != BATCH or not all(dim.HasField("dim_value") for dim in others):
            shape = [dim.dim_param or dim.dim_value for dim in (batch, *others)]
            raise ParityError(f"{value.name} of {stage} was exported with shape {shape}; only its batch may be dynamic")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporters' warnings about their own internals; errors are still raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
