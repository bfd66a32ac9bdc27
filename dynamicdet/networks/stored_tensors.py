"""What a pickle of torch.save may hold beside plain values: dense tensors, described by where their numbers are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from dynamicdet.networks.plain_pickle import PickleError, read_pickle

_MOST_DIMENSIONS = 8
_DTYPES = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Double": torch.float64,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}


@dataclass(frozen=True)
class Storage:
    """The numbers that one or more tensors are views of."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file that was not read yet; it fits into its storage, and has no element twice."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """The type of its elements."""
        return self.storage.dtype


def read_value(file: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """The value of the next pickle, with a `StoredTensor` for each tensor; its storages are added to `storages`.

    Raises PickleError if it holds anything but plain values and dense tensors.
    """
    found: dict[str, Storage] = {} if storages is None else storages

    def storage(reference: Any) -> Storage:
        kind, dtype, key, _, numel, *view = reference
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or any(view):
            raise TypeError("not a storage")
        one = Storage(key, dtype, _natural(numel))
        if found.setdefault(key, one) != one:
            raise ValueError("a storage has two types or sizes")
        return one

    return read_pickle(file, known=_KNOWN, persistent=storage)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_others: Any) -> StoredTensor:
    if not isinstance(storage, Storage) or not len(shape) == len(stride) <= _MOST_DIMENSIONS:
        raise TypeError("not a dense tensor")
    stored = StoredTensor(storage, _natural(offset), tuple(map(_natural, shape)), tuple(map(_natural, stride)))
    numel = math.prod(stored.shape)
    last = sum((length - 1) * step for length, step in zip(stored.shape, stored.stride, strict=True))
    if numel > storage.numel:
        shown = "x".join(map(str, stored.shape))
        raise PickleError(f"claims a tensor of {shown} numbers, and stores {storage.numel:,}")
    if numel and stored.offset + last >= storage.numel:
        raise PickleError(f"claims a tensor that reaches beyond its {storage.numel:,} numbers")
    return stored


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a size")
    return value


def _parameter(tensor: Any, *_others: Any) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise TypeError("not a dense tensor")
    return tensor


def _dictionary() -> dict[Any, Any]:
    return {}


# What a pickle of torch.save may name. A dictionary of others is filled by operations, never by a call: copies of a
# large one could fill the memory.
_KNOWN: dict[str, Any] = {
    "collections OrderedDict": _dictionary,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    **{f"torch {name}Storage": dtype for name, dtype in _DTYPES.items()},
}
