"""The two forms of torch.save's files: a zip of stored entries (since PyTorch 1.6), and a row of pickles (before).

Sizes in a file of others are claims. So each is compared with the file before anything of that size is read.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, Protocol

from dynamicdet.networks.plain_pickle import PickleError
from dynamicdet.networks.stored_tensors import Storage, read_value
from dynamicdet.text import printable

_ZIP = b"PK"
_MOST_ENTRIES = 20_000  # a training state of the largest network has 7,000
_LARGEST_DIRECTORY = 4 << 20  # bytes
_LARGEST_PICKLE = 8 << 20  # bytes
_LOCAL_HEADER = 30  # bytes in front of an entry, without its name
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Container(Protocol):
    """What the zip and the row of pickles have in common."""

    def content(self) -> Any:
        """The value that was saved, with a `StoredTensor` for each tensor."""

    def sizes(self) -> Mapping[str, int]:
        """Bytes of each storage, by key."""

    def read(self, key: str) -> bytearray:
        """The content of a storage."""


def open_container(file: BinaryIO, size: int) -> Container:
    """The form that a file of `size` bytes has, with its directory and its pickle read.

    Raises PickleError, or what `zipfile` raises for a damaged file.
    """
    is_zip = file.read(len(_ZIP)) == _ZIP
    file.seek(0)
    return _Zip(file, size) if is_zip else _Legacy(file, size)


class _Bounded:
    """A file that reads only so many bytes at once: a directory may claim to be as large as the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.most = _LARGEST_DIRECTORY
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        size = self._size - self._file.tell() if size < 0 else size
        if size > self.most:
            raise PickleError(f"is damaged: it has a directory of {size:,} bytes (at most {self.most:,})")
        return self._file.read(size)


class _Zip:
    """The zip of stored entries: ROOT/data.pkl, and one entry ROOT/data/KEY for each storage."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        bounded = _Bounded(file, size)
        self._zip = zipfile.ZipFile(bounded)
        bounded.most = size
        self._entries = _checked_entries(self._zip.infolist(), size)
        roots = [name for name in self._entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(roots) != 1:
            raise PickleError("is a zip file, but none that torch.save wrote: it has no data.pkl")
        self._root = roots[0].removesuffix("data.pkl")

    def content(self) -> Any:
        order = self._entries.get(f"{self._root}byteorder")
        if order is not None and (order.file_size != len("little") or self._zip.read(order) != b"little"):
            raise PickleError("was written on a machine of another byte order; dyndet accepts only little-endian files")
        pickle = self._entries[f"{self._root}data.pkl"]
        if pickle.file_size > _LARGEST_PICKLE:
            raise PickleError(f"has a pickle of {pickle.file_size:,} bytes (at most {_LARGEST_PICKLE:,})")
        return read_value(io.BytesIO(self._zip.read(pickle)))

    def sizes(self) -> Mapping[str, int]:
        prefix = f"{self._root}data/"
        return {
            name.removeprefix(prefix): entry.file_size
            for name, entry in self._entries.items()
            if name.startswith(prefix)
        }

    def read(self, key: str) -> bytearray:
        entry = self._entries[f"{self._root}data/{key}"]
        data = bytearray(entry.file_size)
        left = memoryview(data)
        with self._zip.open(entry) as stored:
            # The last call compares the checksum.
            while left and (count := stored.readinto(left)):  # type: ignore[attr-defined]
                left = left[count:]
        if left:
            raise EOFError("a tensor's data is incomplete")
        return data


def _checked_entries(entries: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name: none is compressed, encrypted or there twice, and each has bytes of the file of its own."""
    if len(entries) > _MOST_ENTRIES:
        raise PickleError(f"has {len(entries):,} entries (at most {_MOST_ENTRIES:,})")
    end = 0
    for entry in sorted(entries, key=lambda one: one.header_offset):
        name = f"'{printable(entry.filename, limit=100)}'"
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise PickleError(f"is compressed (entry {name}); dyndet accepts stored entries, as torch.save writes them")
        if entry.flag_bits & 0x1:
            raise PickleError(f"is encrypted (entry {name}); dyndet accepts stored entries, as torch.save writes them")
        if entry.header_offset < end:
            raise PickleError(f"is damaged: its entry {name} overlaps with another one")
        end = entry.header_offset + _LOCAL_HEADER + len(entry.orig_filename) + entry.file_size
        if end > size:
            raise PickleError(f"is damaged: its entry {name} is larger than the file")
    named = {entry.filename: entry for entry in entries}
    if len(named) != len(entries):
        raise PickleError("is damaged: two of its entries have the same name")
    return named


class _Legacy:
    """The row of pickles: magic number, version, machine, the value, the keys; then all storages."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        start = io.BytesIO(file.read(_LARGEST_PICKLE))
        magic, version, machine = (read_value(start) for _ in range(3))
        if magic != _LEGACY_MAGIC or version != _LEGACY_PROTOCOL or not isinstance(machine, dict):
            raise PickleError("is damaged, or is not a file of plain tensors from torch.save")
        if machine.get("little_endian") is not True:
            raise PickleError("was written on a machine of another byte order; dyndet accepts only little-endian files")
        storages: dict[str, Storage] = {}
        self._content = read_value(start, storages)
        keys = read_value(start)
        if not isinstance(keys, list) or set(map(str, keys)) != set(storages) or len(keys) != len(storages):
            raise PickleError("is damaged: its list of storages does not fit its tensors")
        self._places: dict[str, tuple[int, int]] = {}
        place = start.tell()
        for key in keys:
            # Each storage has its number of elements in front.
            place += 8
            self._places[key] = (place, storages[key].bytes)
            place += storages[key].bytes
        if place > size:
            raise PickleError(f"is damaged: its tensors need {place:,} bytes, and it has {size:,}")

    def content(self) -> Any:
        return self._content

    def sizes(self) -> Mapping[str, int]:
        return {key: size for key, (_, size) in self._places.items()}

    def read(self, key: str) -> bytearray:
        place, size = self._places[key]
        data = bytearray(size)
        self._file.seek(place)
        if self._file.readinto(data) != size:  # type: ignore[attr-defined]
            raise EOFError("a tensor's data is incomplete")
        return data
