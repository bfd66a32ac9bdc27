"""Loads a detector's file as a part of a larger graph: whole, in standard operators, with names of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.inliner
import onnx.version_converter
from onnx.external_data_helper import load_external_data_for_model

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.bundle.graph_files import STANDARD, nodes_of
from dyndet_builder.detectors.facts import read_facts

LOWEST = 14
"""opset that our own operators need"""
PREFIX = "detector/"


def load_source(file: Path) -> onnx.ModelProto:
    """A detector's model with all weights inside; every name in it begins with `PREFIX`.

    Functions are replaced by their operators. An opset below `LOWEST` is converted; what a graph does not need, such as
    metadata of the machine that wrote it, goes. Raises InputError, in one sentence, for a file that cannot be used; see
    `read_facts`.
    """
    read_facts(file)
    model = onnx.load(file, format="protobuf", load_external_data=False)
    try:
        load_external_data_for_model(model, str(file.parent))
    except Exception as error:  # onnx's own checks raise errors of several kinds
        raise InputError(f"the weights of {printable(file)} cannot be read: {_reason(error)}") from error
    model = _standard(file, model)
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    _strip(model)
    _rename(model.graph)
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return next(int(one.version) for one in model.opset_import if one.domain in STANDARD)


def _standard(file: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Only standard operators, of opset `LOWEST` or above."""
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as error:
            raise InputError(f"the functions of {printable(file)} cannot be inlined: {_reason(error)}") from error
    opset = opset_of(model)
    for node in nodes_of(model.graph):
        known = node.domain in STANDARD and onnx.defs.has(node.op_type, opset)
        if not known:
            name = printable(f"{node.domain}:{node.op_type}".lstrip(":"), limit=100)
            raise InputError(
                f"{printable(file)} has the operator {name}, which is not of the ONNX standard, so ONNX Runtime and "
                "TensorRT do not both run it; export the detector without plugins and without suppression"
            )
    if opset >= LOWEST:
        return model
    try:
        return onnx.version_converter.convert_version(model, LOWEST)
    except Exception as error:
        raise InputError(
            f"{printable(file)} has opset {opset} and cannot be converted to {LOWEST} ({_reason(error)}); export it "
            f"with `opset=17`"
        ) from error


def _strip(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]
    del model.training_info[:]
    version = opset_of(model)
    del model.opset_import[:]
    model.opset_import.extend([onnx.helper.make_opsetid("", version)])
    for graph in _graphs(model.graph):
        graph.doc_string = ""
        for field in (graph.value_info, graph.quantization_annotation, graph.metadata_props):
            del field[:]
        for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
            item.doc_string = ""
            del item.metadata_props[:]


def _rename(graph: onnx.GraphProto) -> None:
    """Put the prefix before every name, in graphs inside operators too.

    onnx.compose.add_prefix would leave what an inner graph reads of the outer weights without it.
    """
    for each in _graphs(graph):
        for item in (*each.input, *each.output, *each.initializer):
            item.name = _named(item.name)
        for sparse in each.sparse_initializer:
            sparse.values.name = _named(sparse.values.name)
        for node in each.node:
            node.name = _named(node.name)
            node.domain = ""
            for names in (node.input, node.output):
                names[:] = [_named(name) for name in names]


def _named(name: str) -> str:
    return f"{PREFIX}{name}" if name else ""


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(inner)


def _reason(error: Exception) -> str:
    return printable(str(error).strip().partition("\n")[0], limit=200)
