"""Reads the graphs of a bundle's stages as parts of a larger graph: one opset, and no name that two of them share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import onnx
import onnx.version_converter

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import Bundle, StageName


def load_stages(folder: Path, bundle: Bundle) -> dict[StageName, onnx.ModelProto]:
    """The graphs of a request's stages, all of the highest opset among them.

    Graphs of a pair have the opsets of their makers. Raises InputError if one cannot be written in that of another.
    """
    opset = max(bundle.opset_of(stage) for stage in bundle.served)
    models = {}
    for stage in bundle.served:
        model = onnx.load(folder / bundle.stages[stage].file)
        if (own := bundle.opset_of(stage)) != opset:
            try:
                model = onnx.version_converter.convert_version(model, opset)
            except (RuntimeError, ValueError) as error:  # it knows the changes of some operators alone
                raise InputError(
                    f"{stage} has the opset {own}, which cannot be converted to the {opset} of the other detector: one "
                    "file needs one opset, so export both detectors' files with the same one"
                ) from error
        models[stage] = model
    return models


def as_part(model: onnx.ModelProto, prefix: str, kept: Mapping[str, str]) -> onnx.GraphProto:
    """A copy of a graph whose names all begin with `prefix`, except those in `kept`, which get the names given there.

    Names of a graph and of the graphs inside its operators are different by the standard, so one rule renames them all,
    also where an inner graph reads a tensor of an outer one. Sizes without a number are renamed as well: a batch of
    hard images is not the batch of all.
    """
    part = onnx.GraphProto()
    part.CopyFrom(model.graph)
    _rename(part, prefix, kept)
    nodes = _in_order(part.node)
    del part.node[:]
    part.node.extend(nodes)
    return part


def _in_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes after those that they read, as the standard wants it.

    ONNX Runtime's tool for int8 puts a loop before what only the graph inside it reads, and loads it all the same.
    """
    made_by = {name: index for index, node in enumerate(nodes) for name in node.output}
    needed = {index: {made_by[name] for name in _reads(node) if name in made_by} for index, node in enumerate(nodes)}
    copies = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    return [copies[index] for index in TopologicalSorter(needed).static_order()]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node and the graphs inside it read; some are made inside."""
    yield from node.input
    for attribute in node.attribute:
        for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            yield from (value.name for value in inner.output)
            for each in inner.node:
                yield from _reads(each)


def _rename(graph: onnx.GraphProto, prefix: str, kept: Mapping[str, str]) -> None:
    def new(name: str) -> str:
        return kept.get(name, f"{prefix}{name}") if name else ""  # an empty name is an input that is left out

    for node in graph.node:
        node.name = f"{prefix}{node.name}" if node.name else ""
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                _rename(inner, prefix, kept)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = new(value.name)
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = f"{prefix}{dim.dim_param}"
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name, sparse.indices.name = new(sparse.values.name), new(sparse.indices.name)
    del graph.quantization_annotation[:]  # only tools of training read it
