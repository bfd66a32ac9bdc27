"""A stage's graph in two files: boxes, and the masks that follow from them.

A request that wants no masks is not to wait for them. ONNX Runtime computes a whole graph, whatever outputs are asked
for: `RunOptions.only_execute_path_to_fetches` changes nothing (measured with release 1.32). So the nodes that only
masks need become a graph of their own, which reads what the other one has computed, in the same process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnx
from onnx import helper

from dyndet_builder.bundle.manifest import MASKS
from dyndet_builder.bundle.sessions import session_of
from dyndet_builder.repository.config import BOXES_FILE, MASKS_FILE

_ELEMENT_TYPES = {
    "bool": onnx.TensorProto.BOOL,
    "double": onnx.TensorProto.DOUBLE,
    "float": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
}
"""by ONNX Runtime's names"""


def write_apart(graph: Path, folder: Path, *, prefix: str = "") -> None:
    """Write `BOXES_FILE` and `MASKS_FILE` of a stage into a folder; nothing if it has no masks that stand apart."""
    model = onnx.load(graph)
    if any(output.name == MASKS for output in model.graph.output) and (parts := apart(model)) is not None:
        for name, part in zip((BOXES_FILE, MASKS_FILE), parts, strict=True):
            onnx.save(part, folder / f"{prefix}{name}")


def apart(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto] | None:
    """The graph without masks, which also gives what masks are computed from, and the graph that computes them.

    None if masks are no more than what boxes need as well, or if something on the way is no tensor of a known type.
    """
    graph = model.graph
    others = [output.name for output in graph.output if output.name != MASKS]
    kept = _needed(graph, others)
    only = [row for row in _needed(graph, [MASKS]) if row not in kept]
    # A node without inputs is a constant: both graphs get it.
    copied = {row for row in kept if not graph.node[row].input}
    own = [row for row in range(len(graph.node)) if row in {*only, *copied}]
    made = {name for row in own for name in graph.node[row].output}
    constants = {tensor.name for tensor in graph.initializer}
    read = dict.fromkeys(name for row in only for name in _read(graph.node[row]))
    passed = [name for name in read if name not in made and name not in constants]
    if not only or not passed:
        return None
    given = [value.name for value in graph.input]
    boxes = _part(model, sorted(kept), [*graph.input], others, [name for name in passed if name not in given])
    known = _tensors_of(boxes, [*graph.input])
    if known is None:
        return None
    del boxes.graph.output[:]
    boxes.graph.output.extend(known[name] for name in dict.fromkeys([*others, *passed]) if name not in given)
    used = {name for row in own for name in _read(graph.node[row])}
    masks = _part(model, [row for row in own if used & {*graph.node[row].output} or row in only], [], [MASKS], [])
    masks.graph.input.extend(known[name] for name in passed)
    for part in (boxes, masks):
        onnx.checker.check_model(part)
    return boxes, masks


def _needed(graph: onnx.GraphProto, outputs: Sequence[str]) -> set[int]:
    """The rows of the nodes that outputs need."""
    makers = {name: row for row, node in enumerate(graph.node) for name in node.output if name}
    found: set[int] = set()
    due = [makers[name] for name in outputs if name in makers]
    while due:
        row = due.pop()
        if row not in found:
            found.add(row)
            due += [makers[name] for name in _read(graph.node[row]) if name in makers]
    return found


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those that its subgraphs take from outside included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            own = {each.name for each in (*inner.input, *inner.initializer)}
            own |= {name for each in inner.node for name in each.output}
            outside = {name for each in inner.node for name in _read(each)} | {each.name for each in inner.output}
            yield from sorted(outside - own)


def _part(
    model: onnx.ModelProto,
    rows: Iterable[int],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    further: Sequence[str],
) -> onnx.ModelProto:
    """Some nodes of a model with the constants that they read; types of `further` outputs are left open."""
    graph = model.graph
    part = onnx.ModelProto(
        ir_version=model.ir_version, producer_name=model.producer_name, producer_version=model.producer_version
    )
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = graph.name
    part.graph.node.extend(graph.node[row] for row in rows)
    used = {name for node in part.graph.node for name in _read(node)} | {*outputs}
    part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in used)
    part.graph.input.extend(inputs)
    part.graph.output.extend(value for value in graph.output if value.name in outputs)
    named = {value.name for value in part.graph.output}
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in further if name not in named)
    return part


def _tensors_of(model: onnx.ModelProto, inputs: Sequence[onnx.ValueInfoProto]) -> dict[str, onnx.ValueInfoProto] | None:
    """Type and shape of a model's inputs and outputs, as ONNX Runtime finds them; None if one is of another kind."""
    session = session_of(model.SerializeToString(), name="a graph without its masks")
    known = {value.name: value for value in (*inputs, *model.graph.output) if value.type.HasField("tensor_type")}
    for output in session.get_outputs():
        element = _ELEMENT_TYPES.get(output.type.removeprefix("tensor(").removesuffix(")"))
        if output.name not in known:
            if element is None:
                return None
            known[output.name] = helper.make_tensor_value_info(output.name, element, output.shape)
    return known
