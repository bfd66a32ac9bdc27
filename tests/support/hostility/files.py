"""Checkpoint files that claim more than they hold, or that would take much more memory or time than their size."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_GB = 1 << 30


class _Claimed:
    """Pickles as a tensor of this shape and stride, whose storage claims `numel` numbers."""

    def __init__(self, shape: tuple[int, ...], stride: tuple[int, ...], numel: int, *, offset: int = 0) -> None:
        self.numel = numel
        self.view = (offset, shape, stride)

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (_Storage(self.numel), *self.view, False, OrderedDict())


class _Storage:
    def __init__(self, numel: int) -> None:
        self.numel = numel


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", value.numel) if isinstance(value, _Storage) else None


def _pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def _zip(path: Path, content: bytes, *, data: bytes = bytes(64), method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x/data.pkl", content)
        file.writestr("x/data/0", data)


def _tensor(path: Path, shape: tuple[int, ...], stride: tuple[int, ...], numel: int, *, offset: int = 0) -> None:
    _zip(path, _pickled({"model": {"weight": _Claimed(shape, stride, numel, offset=offset)}}))


def _large_entry(path: Path) -> None:
    """The directory says that an entry has 3 GB."""
    _zip(path, _pickled({}))
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 20 : place + 28] = struct.pack("<II", 3 * _GB, 3 * _GB)
    path.write_bytes(content)


def _overlapping(path: Path) -> None:
    """Two entries are at the same place."""
    _zip(path, _pickled({}))
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 42 : place + 46] = bytes(4)
    path.write_bytes(content)


def _huge_directory(path: Path) -> None:
    """A file with a hole of 2 GB, all of which is said to be the directory."""
    size = 2 * _GB
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size - 4, 4, 0))


def _many_entries(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(20_001):
            file.writestr(f"x/data/{number}", b"")


def _sparse(path: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(3).to_sparse()}}, path)


def _deep_key(path: Path) -> None:
    """The hash of the key would take 2 ** 60 steps."""
    _zip(path, b"\x80\x02}Nq\x00" + b"h\x00\x86q\x00".join([b""] * 61) + b"Ns.")


def _copies(path: Path) -> None:
    """A dictionary of 20,000 entries, and 20,000 copies of it."""
    filled = b"".join(b"J" + struct.pack("<i", number) + b"N" for number in range(20_000))
    name = b"ccollections\nOrderedDict\nq\x01"
    _zip(path, b"\x80\x02](}(" + filled + b"u\x85q\x00" + name + b"h\x01h\x00R" * 20_000 + b"e.")


def _header(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def _described(**tensors: tuple[str, list[int], list[int]]) -> bytes:
    entries = {name: dict(zip(("dtype", "shape", "data_offsets"), one, strict=True)) for name, one in tensors.items()}
    return json.dumps(entries).encode()


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "compressed": (
        lambda path: _zip(path, _pickled({}), data=bytes(64 << 20), method=zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "large entry": (_large_entry, "is larger than the file"),
    "overlapping entries": (_overlapping, "overlaps with another one"),
    "huge directory": (_huge_directory, "has a directory of 2,147,483,644 bytes"),
    "many entries": (_many_entries, "has 20,001 entries"),
    "expanded": (
        lambda path: _tensor(path, (10**6, 10**6), (0, 0), 1),
        "claims a tensor of 1000000x1000000 numbers, and stores 1",
    ),
    "expanded, older form": (
        lambda path: torch.save({"w": torch.zeros(1).expand(10**12)}, path, _use_new_zipfile_serialization=False),
        "claims a tensor of 1000000000000 numbers, and stores 1",
    ),
    "large storage": (lambda path: _tensor(path, (1 << 30,), (1,), 1 << 30), "is not the published"),
    "view outside": (
        lambda path: _tensor(path, (4,), (1,), 16, offset=13),
        "claims a tensor that reaches beyond its 16 numbers",
    ),
    "view with long strides": (
        lambda path: _tensor(path, (4,), (10**15,), 16),
        "claims a tensor that reaches beyond its 16 numbers",
    ),
    "negative size": (lambda path: _tensor(path, (-4,), (1,), 16), "its pickle cannot be read"),
    "sparse": (_sparse, r"holds what is not a dense tensor \(torch._utils._rebuild_sparse_tensor\)"),
    "raw pickle of code": (
        lambda path: path.write_bytes(pickle.dumps(os.system)),
        r"needs code to load \(posix\.system\) and is refused",
    ),
    "memo number": (lambda path: _zip(path, b"\x80\x02}r\xff\xff\xff\x7f."), "holds no state dict"),
    "long number": (
        lambda path: _zip(path, b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + bytes([1]) * (1 << 20) + b"."),
        "not a file of plain tensors",
    ),
    "nested key": (_deep_key, "its pickle cannot be read"),
    "copied dictionaries": (_copies, "its pickle cannot be read"),
    "many operations": (lambda path: _zip(path, b"\x80\x02" + b"N" * 600_000 + b"."), "more than 500,000 operations"),
    "large pickle": (lambda path: _zip(path, b"\x80\x02" + b"N" * (9 << 20) + b"."), "has a pickle of 9,437,187 bytes"),
    "long header": (lambda path: path.write_bytes(b"\0\0\0\x10\0\0\0\0{"), "its header claims 268,435,456 bytes"),
    "nested header": (lambda path: _header(path, b'{"a":' + b"[" * (4_000_000)), "not a list of tensors"),
    "wide header": (lambda path: _header(path, b'{"a":[' + b"{}," * 400_000 + b"{}]}"), "does not describe a"),
    "name twice": (lambda path: _header(path, b'{"a":{},"a":{}}'), "has a name twice"),
    "overlapping tensors": (
        lambda path: _header(path, _described(a=("F32", [1], [0, 4]), b=("F32", [1], [2, 6])), bytes(6)),
        "b overlaps with another tensor",
    ),
    "gap": (lambda path: _header(path, _described(a=("F32", [1], [4, 8])), bytes(8)), "leaves a gap"),
    "too short": (lambda path: _header(path, _described(a=("F32", [9], [0, 36])), bytes(8)), "have 36 bytes, and"),
    "huge shape": (lambda path: _header(path, _described(a=("F32", [1 << 40], [0, 8])), bytes(8)), "another size"),
    "other type": (lambda path: _header(path, _described(a=("F8_E4M3", [8], [0, 8])), bytes(8)), "stored as F8_E4M3"),
    "more bytes": (lambda path: _header(path, _described(a=("F32", [1], [0, 4])), bytes(8)), "have 4 bytes, and"),
}
"""by name: what writes the file, and a part of the sentence that refuses it"""
