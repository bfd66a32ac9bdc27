"""One graph for a detector of others: from uint8 pictures to finished boxes, in standard operators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit
from dynamicdet.text import printable
from dyndet_builder.bundle import nms as suppression
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.bundle.sessions import run_session, session_of
from dyndet_builder.bundle.spec import DetectorSpec, Role
from dyndet_builder.detectors.decoding import Output, add_candidates
from dyndet_builder.detectors.facts import GraphFacts, TensorFacts, read_facts
from dyndet_builder.detectors.finish import Table, add_detections, check_calibration, detection_infos
from dyndet_builder.detectors.ops import FLOAT, INT64, Ops
from dyndet_builder.detectors.pre import add_inputs, image_info
from dyndet_builder.detectors.source import PREFIX, load_source, opset_of

BATCH = "batch"
_IR_VERSION = 8
"""the lowest that is written; later opsets need later ones"""


def build_graph(
    file: Path,
    spec: DetectorSpec,
    *,
    fit: Fit,
    nms: Nms,
    classes: Sequence[int],
    calibration: Table = (),
) -> onnx.ModelProto:
    """A detector's file with our pre-processing before it, and decoding and suppression behind it.

    The graph reads `image` uint8 (B, H, W, 3), pictures that were fitted by `fit`, and gives `num_detections` int32
    (B, 1), `boxes` float32 (B, max_detections, 4) in pixels of `image`, `scores` float32 and `classes` int32
    (B, max_detections); unused rows are zero. B is any number, or 1 where `spec.input.batch` is `one`. Its opset is
    that of the file, and at least 14.

    `classes` gives the number of each of `spec.class_names` in the answer; objects of a class with -1 are left out.
    `calibration` is what `Detector.calibration` of a bundle holds.

    Raises InputError for a file that cannot be used: damaged, of an opset outside 11 to 22, without the tensors of
    `spec`, with operators outside the standard, incomplete, or too large for one file.
    """
    check_calibration(calibration)
    if len(classes) != len(spec.class_names) or max(classes) < 0:
        raise InputError(f"a number is needed for each of the {len(spec.class_names)} classes, and one that is not -1")
    facts = read_facts(file)
    model = load_source(file)
    opset = opset_of(model)
    before, behind = Ops(opset, "before/"), Ops(opset, "behind/")
    fed = add_inputs(before, spec.input, fit=fit, inputs={one.name: one for one in facts.inputs})
    outputs = {role: _output(behind, one) for role, one in _described(file, facts, spec).items()}
    found = add_candidates(behind, spec, outputs, fit=fit, nms=nms, classes=tuple(classes))
    add_detections(behind, found, suppress=spec.output.suppress, fit=fit, nms=nms, calibration=calibration)

    renamed = {tensor: f"{PREFIX}{name}" for name, tensor in fed.items()}
    for node in before.nodes:
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.input[:] = [renamed.get(name, name) for name in node.input]
    return _merged(model, before, behind, fit=fit, nms=nms, batch=1 if spec.input.batch == "one" else BATCH)


def _described(file: Path, facts: GraphFacts, spec: DetectorSpec) -> dict[Role, TensorFacts]:
    """The output in each role, with the sizes that the file says, or else those of a run."""
    by_name = {one.name: one for one in facts.outputs}
    for role, name in spec.output.tensors.items():
        if name not in by_name:
            found = printable(", ".join(by_name), limit=200)
            raise InputError(f"{printable(file)} has no output {printable(name)} for the {role}; it has {found}")
    described = {role: by_name[name] for role, name in spec.output.tensors.items()}
    chosen_by_detector = spec.output.family in ("rows", "counted", "triple", "dets-labels")
    open_sizes = any(isinstance(dim, str) for one in described.values() for dim in one.dims[1:])
    if not open_sizes or (chosen_by_detector and all(len(one.dims) > 1 for one in described.values())):
        return described
    shapes = _measured(file, facts, spec)
    return {
        role: TensorFacts(name=one.name, dtype=one.dtype, dims=(one.dims[0], *shapes[one.name][1:]))
        for role, one in described.items()
    }


def _measured(file: Path, facts: GraphFacts, spec: DetectorSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs for one black picture."""
    ops = Ops(14, "before/")
    height, width = spec.input.size
    fit = spec.input.fit
    fed = add_inputs(
        ops,
        spec.input.model_copy(update={"batch": "one"}),
        fit=fit,
        inputs={one.name: TensorFacts(name=one.name, dtype=one.dtype, dims=one.dims) for one in facts.inputs},
    )
    infos = [helper.make_empty_tensor_value_info(name) for name in fed.values()]
    graph = helper.make_graph(ops.nodes, "before", [image_info(fit, 1)], infos, ops.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=_IR_VERSION)
    black = np.zeros((1, height, width, 3), np.uint8)
    tensors = run_session(session_of(model.SerializeToString()), {"image": black}, name="the pre-processing")
    feed = {name: tensors[tensor] for name, tensor in fed.items()}
    answer = run_session(session_of(file), feed, name=printable(file))
    return {name: values.shape for name, values in answer.items()}


def _output(ops: Ops, found: TensorFacts) -> Output:
    is_float = found.dtype.startswith("float")
    tensor = f"{PREFIX}{found.name}"
    wanted = "float32" if is_float else "int64"
    if found.dtype != wanted:
        tensor = ops.Cast(tensor, to=FLOAT if is_float else INT64)
    dims = tuple(dim if isinstance(dim, int) else None for dim in found.dims)
    return Output(tensor=tensor, dims=dims, is_float=is_float)


def _merged(
    model: onnx.ModelProto, before: Ops, behind: Ops, *, fit: Fit, nms: Nms, batch: int | str
) -> onnx.ModelProto:
    """The three parts as one model; nodes and weights of the detector are not touched."""
    opset = opset_of(model)
    finished = _inlined(behind, opset, nms, batch)
    graph = model.graph
    graph.name = "dyndet"
    nodes = [*graph.node]
    del graph.node[:]
    graph.node.extend([*before.nodes, *nodes, *finished.node])
    graph.initializer.extend([*before.constants, *finished.initializer])
    for fields, values in ((graph.input, [image_info(fit, batch)]), (graph.output, detection_infos(nms, batch))):
        del fields[:]
        fields.extend(values)
    needed = helper.find_min_ir_version_for(model.opset_import)
    model.ir_version = max(_IR_VERSION, needed)
    model.producer_name, model.producer_version, model.domain, model.doc_string = "dyndet", "", "", ""
    model.model_version = 0
    return model


def _inlined(behind: Ops, opset: int, nms: Nms, batch: int | str) -> onnx.GraphProto:
    """The part behind the detector, in standard operators."""
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(suppression.DOMAIN, 1)]
    graph = helper.make_graph(behind.nodes, "behind", [], detection_infos(nms, batch), behind.constants)
    model = helper.make_model(graph, opset_imports=imports)
    return suppression.inline_suppression(model).graph
