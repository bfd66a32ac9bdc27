"""Checks a stage's ONNX file, which others may have written, before anything runs it or copies it.

Only the structure is looked at. A graph is data; what makes it more are weights in other files, which can be any files
of the machine, and operators that a library brings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from dynamicdet.errors import InputError
from dynamicdet.text import printable

STANDARD = ("", "ai.onnx")
"""domains of the ONNX standard"""
DTYPES = {
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.FLOAT: "float32",
}
"""a bundle's names of ONNX types"""


def check_graph(
    path: Path, *, inputs: Sequence[str], outputs: Sequence[str], opset: int, batch: int | None = None
) -> None:
    """Check that a file is a graph with these tensors, such as `image uint8 [32, 32, 3]`, and complete in itself.

    `batch` is the only batch size that it takes; None: any. Raises InputError if it is no ONNX file, if it has other
    inputs or outputs, another opset or another batch, if its weights are in other files, or if it has operators or
    functions outside the ONNX standard.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{printable(path)} is not an ONNX graph; export the bundle again") from error
    fault = _fault(model, inputs, outputs, opset, batch)
    if fault:
        raise InputError(
            f"{printable(path)} is not the graph that the bundle describes: {printable(fault, limit=400)}; export the "
            "bundle again"
        )


def _fault(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str], opset: int, batch: int | None) -> str:
    """What is wrong with a graph; empty if nothing is."""
    versions = [one.version for one in model.opset_import if one.domain in STANDARD]
    if versions != [opset]:
        return f"it has the opset {' and '.join(map(str, versions)) or 'of no standard'} instead of {opset}"
    if model.functions:
        return f"it has a function of its own, {model.functions[0].name!r}"
    for kind, values, wanted in (("input", model.graph.input, inputs), ("output", model.graph.output, outputs)):
        found = [_described(value, batch) for value in values]
        if found != [*wanted]:
            return f"its {kind}s are {', '.join(found) or 'none'} instead of {', '.join(wanted)}"
    for node in nodes_of(model.graph):
        if node.domain not in STANDARD:
            return f"it has the operator {node.op_type!r} of the domain {node.domain!r}"
    if any(is_elsewhere(tensor) for tensor in tensors_of(model)):
        return "a part of its weights is in another file"
    return ""


def _described(value: onnx.ValueInfoProto, wanted: int | None) -> str:
    """A tensor in the words of a bundle's `Tensor`; its first dimension must be the `wanted` batch, None: any."""
    kind = value.type.tensor_type
    batch, *sides = kind.shape.dim or [onnx.TensorShapeProto.Dimension(dim_value=1)]
    shape = [side.dim_value for side in sides]
    text = f"{value.name} {DTYPES.get(kind.elem_type, f'type {kind.elem_type}')} {shape}"
    found = batch.dim_value if batch.HasField("dim_value") else None
    return text if found == wanted else f"{text} in a batch of {'any size' if found is None else found}"


def _graphs(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto]:
    """A graph and the graphs inside its operators. Protobuf itself bounds their depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(inner)


def nodes_of(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """The operators of a graph, or of a function, and of the graphs inside them."""
    return (node for each in _graphs(graph) for node in each.node)


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The weights and constants of a file, wherever it can hold them."""
    for each in _graphs(model.graph):
        yield from each.initializer
        for sparse in each.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in chain(nodes_of(model.graph), *(nodes_of(function) for function in model.functions)):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []:
                yield from (sparse.values, sparse.indices)
            for sparse in attribute.sparse_tensors:
                yield from (sparse.values, sparse.indices)


def is_elsewhere(tensor: onnx.TensorProto) -> bool:
    """Whether the numbers of a tensor are in another file."""
    return bool(tensor.external_data) or tensor.data_location == onnx.TensorProto.EXTERNAL
