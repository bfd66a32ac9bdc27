"""Reads the header of a safetensors file and compares it with the file, before the library reads any tensor."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynamicdet.errors import CheckpointError
from dynamicdet.text import printable

LARGEST_HEADER = 4 << 20
"""bytes; that of the largest network, with 1,000 classes of long names, has less than 3 MB"""

_LENGTH_BYTES = 8
_MOST_DIMENSIONS = 8
_METADATA = "__metadata__"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}


@dataclass(frozen=True)
class DescribedTensor:
    """A tensor as the header describes it; `begin` and `end` count bytes behind the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class _HeaderError(ValueError):
    """Says what is wrong with a header, as the rest of a sentence about the file."""


def read_header(path: Path) -> tuple[dict[str, str], dict[str, DescribedTensor]]:
    """The metadata and the tensors by name; they fill the file, and none overlaps with another.

    Raises CheckpointError, in one sentence, if the header is damaged or does not fit the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > min(LARGEST_HEADER, size - _LENGTH_BYTES):
                raise _HeaderError(f"its header claims {length:,} bytes (the file has {size:,})")
            content = file.read(length)
        header = json.loads(content, object_pairs_hook=_unique)
        metadata, tensors = _split(header)
        _check_places(tensors, size - _LENGTH_BYTES - length)
    except OSError as error:
        raise CheckpointError(f"{printable(path)} cannot be read: {printable(error.strerror or error)}") from error
    except _HeaderError as error:
        raise CheckpointError(f"{printable(path)} is damaged: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{printable(path)} is damaged: its header is not a list of tensors") from error
    return metadata, tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _HeaderError("its header has a name twice")
    return found


def _split(header: Any) -> tuple[dict[str, str], dict[str, DescribedTensor]]:
    if not isinstance(header, dict):
        raise _HeaderError("its header is not a list of tensors")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _HeaderError("its header has other metadata than texts")
    return metadata, {name: _tensor(name, entry) for name, entry in header.items()}


def _tensor(name: str, entry: Any) -> DescribedTensor:
    shown = printable(name, limit=100)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _HeaderError(f"its header does not describe {shown}")
    kind, shape, places = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise _HeaderError(f"{shown} is stored as {printable(kind, limit=20)}; dyndet accepts {', '.join(_DTYPES)}")
    if not (_are_sizes(shape) and len(shape) <= _MOST_DIMENSIONS and _are_sizes(places) and len(places) == 2):
        raise _HeaderError(f"{shown} has a shape or a place that is none")
    tensor = DescribedTensor(_DTYPES[kind], tuple(shape), *places)
    if tensor.end - tensor.begin != math.prod(shape) * tensor.dtype.itemsize:
        raise _HeaderError(f"{shown} has another size than its shape")
    return tensor


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _check_places(tensors: dict[str, DescribedTensor], data: int) -> None:
    """Each byte of the data belongs to exactly one tensor."""
    place = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != place:
            raise _HeaderError(f"{printable(name, limit=100)} overlaps with another tensor, or leaves a gap")
        place = tensor.end
    if place != data:
        raise _HeaderError(f"its tensors have {place:,} bytes, and the file has {data:,} for them")
