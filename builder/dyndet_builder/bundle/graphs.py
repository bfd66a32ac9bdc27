"""Turns a network into checked ONNX graphs: torch's current exporter, or its TorchScript one, then simplification."""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import onnx
import onnxslim
import torch
from torch import Tensor, nn

from dynamicdet.errors import ParityError
from dynamicdet.files import scratch_folder
from dynamicdet.networks.base import RoutedNetwork
from dynamicdet.networks.network import DynamicDetector, StaticDetector
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dyndet_builder.bundle import nms as suppression
from dyndet_builder.bundle import roi
from dyndet_builder.bundle.graph_files import nodes_of
from dyndet_builder.bundle.manifest import STAGES, Nms, StageName
from dyndet_builder.bundle.stages import (
    CANDIDATES,
    DETECTIONS,
    Backbone1Stage,
    Detector2Stage,
    Head1Stage,
    StaticStage,
    feature_outputs,
)
from dyndet_builder.bundle.two_stage import RouteStage, outputs_of, probes_of

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
    network: RoutedNetwork,
    nms: Nms,
    *,
    exporter: Exporter | None = None,
    stages: Collection[StageName] = STAGES,
    report: Report = lambda _stage: None,
) -> tuple[dict[StageName, StageGraph], Exporter]:
    """The stages from one exporter, and its name; `exporter` forces one. `report` is called before each stage.

    A two-stage detector has the form for its target: see `for_target`. Raises ParityError if the shapes of a graph are
    not those of the contract, or if it leaves open how it samples features.
    """
    plans = {name: plan for name, plan in _plans(network, nms).items() if name in stages}
    return _exported(plans, exporter, report)


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


def _plans(network: RoutedNetwork, nms: Nms) -> dict[StageName, _Plan]:
    size = network.input_size
    image = torch.zeros(_TRACED_BATCH, size, size, 3, dtype=torch.uint8)
    backbone1 = Backbone1Stage(network).eval()
    with torch.no_grad():
        features = dict(zip(feature_outputs(network), backbone1(image)[1:], strict=True))
    read1 = {name: features[name] for name in network.head1_reads}
    read2 = {name: features[name] for name in network.detector2_reads}
    if network.reads_image:
        read2 = {"image": image, **read2}
    if isinstance(network, TwoStageDetector):
        named = outputs_of(network), probes_of(network)
        head1 = _Plan(RouteStage(network, "easy", nms).eval(), read1, *named)
        detector2 = _Plan(RouteStage(network, "hard", nms).eval(), read2, *named)
    else:
        assert isinstance(network, DynamicDetector)
        head1 = _Plan(Head1Stage(network, nms).eval(), read1, DETECTIONS, CANDIDATES)
        detector2 = _Plan(Detector2Stage(network, nms).eval(), read2, DETECTIONS, CANDIDATES)
    plan = _Plan(backbone1, {"image": image}, ("difficulty", *features))
    return {"backbone1": plan, "head1": head1, "detector2": detector2}


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
        _drop_unused(model.graph)
        roi.check_sampling(model)
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
        custom_translation_table=suppression.TRANSLATIONS | roi.TRANSLATIONS,
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
    roi.register_for_torchscript(OPSET)
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


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Drop the nodes and the weights that no output needs any more; a graph's nodes are in order."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(name for each in (node, *_inner_nodes(node)) for name in each.input)
    if len(kept) < len(graph.node):
        nodes = [*reversed(kept)]
        weights = [tensor for tensor in graph.initializer if tensor.name in needed]
        made = {name for node in nodes for name in node.output}
        values = [value for value in graph.value_info if value.name in made]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(weights)
        graph.value_info.extend(values)


def _inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    return (inner for each in node.attribute if each.HasField("g") for inner in nodes_of(each.g))


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
