"""Reads what an ONNX file says about itself, without its weights: tensors, operators, metadata, the end of the graph.

Nothing is run. The result is plain data: what `recognise` decides by, and what tests record of other makers' exports.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from dynamicdet.errors import InputError
from dynamicdet.records import check_regular, inside
from dynamicdet.text import printable
from dyndet_builder.bundle.graph_files import STANDARD, is_elsewhere, nodes_of, tensors_of
from dyndet_builder.detectors.forms.tails import Tails

LARGEST = 2_000_000_000
"""bytes of a file and its external data: protobuf, and so every tool that reads ONNX, ends at 2 GB"""
OPSETS = (11, 22)
"""the oldest and the newest that are accepted"""
UNKNOWN_RANK = "..."
"""the only dimension of a tensor whose shape the file does not give"""

_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64"}
_WHOLE = {
    "float32",
    "float64",
    "float16",
    "uint8",
    "int8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "bool",
}
"""types whose numbers take whole bytes"""
_MOST_METADATA, _LONGEST_METADATA, _LONGEST_NAME = 1000, 4_000_000, 200


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """An input or an output of the graph."""

    name: str
    dtype: str
    """as numpy calls it; `sequence` or `map` for what is no tensor"""
    dims: tuple[int | str, ...]
    """a number, or the name of a dimension that changes; `?` has no name"""

    @property
    def described(self) -> str:
        """For a message, such as `images float32 [batch, 3, 640, 640]`."""
        return printable(f"{self.name} {self.dtype} [{', '.join(map(str, self.dims))}]", limit=120)


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What an ONNX file says about itself."""

    inputs: tuple[TensorFacts, ...]
    """without those that have a default, as the weights of old files do"""
    outputs: tuple[TensorFacts, ...]
    operators: Mapping[str, int] = field(default_factory=dict)
    """how often each operator occurs, as `Op`, or `domain:Op` outside the standard; subgraphs and functions included"""
    functions: tuple[str, ...] = ()
    """that the file defines itself"""
    metadata: Mapping[str, str] = field(default_factory=dict)
    opset: int
    ir_version: int = 8
    producer: str = ""
    external: tuple[str, ...] = ()
    """files beside this one that hold weights"""
    bytes: int = 0
    """of the file and of its external data"""
    weights: Mapping[str, int] = field(default_factory=dict)
    """numbers in the weights, by dtype"""
    tails: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """by output: the operators that compute its numbers, behind those that only move numbers"""
    score_floors: tuple[float, ...] = ()
    """what suppression inside the graph compares scores with"""

    def as_json(self) -> str:
        """Text that `of_json` reads."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def of_json(cls, text: str) -> GraphFacts:
        """Read what `as_json` wrote; what has a default may be left out. Raises InputError for anything else."""
        try:
            given: dict[str, Any] = json.loads(text)
            tensors = {
                kind: tuple(TensorFacts(**{**one, "dims": tuple(one["dims"])}) for one in given[kind])
                for kind in ("inputs", "outputs")
            }
            lists = {key: tuple(given.get(key, ())) for key in ("functions", "external", "score_floors")}
            tails = {name: tuple(operators) for name, operators in given.get("tails", {}).items()}
            return cls(**{**given, **tensors, **lists, "tails": tails})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"the facts of a graph cannot be read: {printable(error, limit=200)}") from error

    @property
    def custom(self) -> tuple[str, ...]:
        """Operators outside the ONNX standard, as `domain:Op`."""
        return tuple(name for name in self.operators if ":" in name)


def read_facts(path: Path) -> GraphFacts:
    """What an ONNX file of others says about itself; its weights are not loaded from external data.

    Raises InputError, in one sentence, if it is no regular file, no ONNX file, damaged, or larger than 2 GB with its
    external data; if external data are not files inside its own folder, or too short; and if its opset is not accepted.
    """
    model = _load(path)
    opset = _opset(path, model)
    external = _external(path, model)
    operators = Counter(_name(node) for node in nodes_of(model.graph))
    operators.update(_name(node) for function in model.functions for node in function.node)
    tails = Tails(model.graph)
    defaults = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in defaults]
    _check_names(path, [one.name for one in (*inputs, *model.graph.output)])
    return GraphFacts(
        inputs=tuple(_tensor(one) for one in inputs),
        outputs=tuple(_tensor(one) for one in model.graph.output),
        operators=dict(operators),
        functions=tuple(printable(f"{_text(one.domain)}:{_text(one.name)}", limit=200) for one in model.functions),
        metadata=_metadata(path, model),
        opset=opset,
        ir_version=model.ir_version,
        producer=printable(f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(), limit=100),
        external=tuple(external),
        bytes=path.stat().st_size + sum(external.values()),
        weights=_weights(model.graph),
        tails={one.name: tails.of(one.name) for one in model.graph.output},
        score_floors=tails.score_floors(),
    )


def _load(path: Path) -> onnx.ModelProto:
    check_regular(path, advice="give the ONNX file of a detector, of at most 2 GB", largest=LARGEST)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, OSError, ValueError, RecursionError, MemoryError) as error:
        reason = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else "it cannot be decoded"
        raise InputError(f"{printable(path)} is not an ONNX file, or it is damaged: {reason}") from error
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{printable(path)} is not an ONNX file, or it is damaged: it holds no graph with an output")
    return model


def _opset(path: Path, model: onnx.ModelProto) -> int:
    versions = {one.version for one in model.opset_import if one.domain in STANDARD}
    oldest, newest = OPSETS
    if len(versions) != 1 or not oldest <= min(versions) <= newest:
        found = " and ".join(map(str, sorted(versions))) or "none"
        raise InputError(
            f"{printable(path)} has the opset {found}; {oldest} to {newest} are accepted, so export it again with "
            "`opset=17`"
        )
    return int(min(versions))


def _external(path: Path, model: onnx.ModelProto) -> dict[str, int]:
    """Sizes of the files that hold weights, by name."""
    sizes: dict[str, int] = {}
    left = LARGEST - path.stat().st_size
    advice = f"the weights of {printable(path.name)} must lie beside it"
    for tensor in tensors_of(model):
        if not is_elsewhere(tensor):
            continue
        entries = {_text(one.key): _text(one.value) for one in tensor.external_data}
        name = entries.get("location", "")
        if name not in sizes:
            file = inside(path.parent, name)
            check_regular(file, advice=advice, largest=max(left, 0))
            sizes[name] = file.stat().st_size
            left -= sizes[name]
        offset, length = (_number(entries.get(key), missing) for key, missing in (("offset", 0), ("length", None)))
        needed = _bytes(tensor)
        if offset < 0 or (needed is not None and length not in (None, needed)):
            raise InputError(f"{printable(path)} is damaged: it gives a weight another size than its place in a file")
        if offset + (length or needed or 0) > sizes[name]:
            raise InputError(
                f"{printable(path.parent / name)} is shorter than {printable(path.name)} says; copy both again"
            )
    return sizes


def _number(text: str | None, missing: int | None) -> Any:
    """A number in the description of external data; one beyond every accepted file for what is none."""
    try:
        return missing if text is None else int(text)
    except ValueError:
        return LARGEST


def _bytes(tensor: onnx.TensorProto) -> int | None:
    """What the numbers of a tensor take; None for types that share bytes, or are not known."""
    try:
        size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError, TypeError):
        return None
    return (
        None
        if dtype_name(tensor.data_type) not in _WHOLE
        else size * math.prod(max(0, int(side)) for side in tensor.dims)
    )


def _check_names(path: Path, names: Sequence[str | bytes]) -> None:
    """Names of inputs and outputs go into `detector.yaml`. protobuf gives bytes for what is not UTF-8."""
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            raise InputError(
                f"{printable(path)} has an input or output with the name {printable(name, limit=60)!r}; names of 1 to "
                f"{_LONGEST_NAME} printable characters are accepted"
            )
    if len({*names}) != len(names):
        raise InputError(f"{printable(path)} has two inputs or outputs of one name, so it is damaged")


def _text(text: str | bytes) -> str:
    """A text of the file. protobuf gives bytes for what is not UTF-8."""
    return text if isinstance(text, str) else text.decode("utf-8", "replace")


def _name(node: onnx.NodeProto) -> str:
    operator = _text(node.op_type)
    name = operator if node.domain in STANDARD else f"{_text(node.domain)}:{operator}"
    return printable(name, limit=120)


def _tensor(value: onnx.ValueInfoProto) -> TensorFacts:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return TensorFacts(name=value.name, dtype=(kind or "unknown").removesuffix("_type"), dims=(UNKNOWN_RANK,))
    tensor = value.type.tensor_type
    dims = tuple(_dim(one) for one in tensor.shape.dim) if tensor.HasField("shape") else (UNKNOWN_RANK,)
    return TensorFacts(name=value.name, dtype=dtype_name(tensor.elem_type), dims=dims)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    return int(dim.dim_value) if dim.HasField("dim_value") else printable(_text(dim.dim_param) or "?", limit=60)


def dtype_name(number: int) -> str:
    """Name in numpy of an ONNX type; `type 99` for one that is not known."""
    try:
        name = str(onnx.TensorProto.DataType.Name(number))
    except ValueError:
        return f"type {number}"
    return _DTYPES.get(name, name.lower())


def _metadata(path: Path, model: onnx.ModelProto) -> dict[str, str]:
    length = sum(len(one.key) + len(one.value) for one in model.metadata_props)
    if len(model.metadata_props) > _MOST_METADATA or length > _LONGEST_METADATA:
        raise InputError(
            f"{printable(path)} has {len(model.metadata_props):,} metadata of {length:,} characters; at most "
            f"{_MOST_METADATA:,} of {_LONGEST_METADATA:,} characters are accepted"
        )
    return {_text(one.key): _text(one.value) for one in model.metadata_props}


def _weights(graph: onnx.GraphProto) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for tensor in _initializers(graph):
        number = 1
        for side in tensor.dims:
            number *= max(0, int(side))
        counts[dtype_name(tensor.data_type)] += number
    return dict(counts)


def _initializers(graph: onnx.GraphProto) -> Iterable[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
