"""Reads the first directory of TIFF files and of EXIF data, which may be hostile; needs only Python.

Pillow reads every tag of a directory and of those that it names: tags that all point at the same megabytes would fill
the memory. So the orientation is read here, and Pillow gets a directory of only the tags that pixels need.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass

ORIENTATION = 0x0112
MAX_TAGS = 1000
MAX_TAG_BYTES = 8 << 20
"""of the values of the tags that pixels need; a row of pixels has two of four bytes at most"""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "L", 16: "Q"}
_ORDERS = {b"II": "<", b"MM": ">"}


class TagLimitError(ValueError):
    """A directory has too many tags, or values of too many bytes; the text completes "a file with "."""


@dataclass(frozen=True, kw_only=True)
class _Form:
    """Where a directory has its numbers: TIFF, or BigTIFF with 8 bytes for offsets."""

    order: str
    offset: str
    offset_at: int
    count: str
    entry: str

    def unpack(self, form: str, data: bytes, position: int) -> tuple[int, ...]:
        """Whole numbers at a place."""
        return struct.unpack_from(self.order + form, data, position)

    def size(self, form: str) -> int:
        """Bytes of numbers of this form."""
        return struct.calcsize(self.order + form)


@dataclass(frozen=True)
class Directory:
    """The first directory of a TIFF file."""

    data: bytes
    form: _Form
    entries: Mapping[int, bytes]
    """by tag"""

    def first_number(self, tag: int, default: int = 0) -> int:
        """The first whole number of a tag; `default` without it. Raises struct.error if it is cut off."""
        if tag not in self.entries:
            return default
        kind, count, value = self._unpack(tag)
        if kind not in _INTEGERS or count == 0:
            return default
        if count * _SIZES[kind] <= self.form.size(self.form.offset):
            return self.form.unpack(_INTEGERS[kind], value, 0)[0]
        return self.form.unpack(_INTEGERS[kind], self.data, self.form.unpack(self.form.offset, value, 0)[0])[0]

    def file_of(self, tags: Container[int]) -> bytes:
        """The file with only these tags in its first directory, and no other directory.

        Raises TagLimitError if their values have more than `MAX_TAG_BYTES`.
        """
        kept = [tag for tag in self.entries if tag in tags]
        total = sum(count * _SIZES.get(kind, 1) for kind, count, _ in map(self._unpack, kept))
        if total > MAX_TAG_BYTES:
            raise TagLimitError(f"{total:,} bytes of tags; dyndet accepts at most {MAX_TAG_BYTES:,}")
        form, start = self.form, self.data[: self.form.offset_at]
        rest = self.data[form.offset_at + form.size(form.offset) :]
        padding = bytes(-len(self.data) % 8)
        place = struct.pack(form.order + form.offset, len(self.data) + len(padding))
        count = struct.pack(form.order + form.count, len(kept))
        return b"".join((start, place, rest, padding, count, *map(self.entries.__getitem__, kept), bytes(8)))

    def count_of(self, tag: int) -> int:
        """Number of values of a tag; 0 if it is not there."""
        return self._unpack(tag)[1] if tag in self.entries else 0

    def _unpack(self, tag: int) -> tuple[int, int, bytes]:
        """Type, count, and the field for the value or its place."""
        entry = self.entries[tag]
        _, kind, count = self.form.unpack(self.form.entry, entry, 0)
        return kind, count, entry[self.form.size(self.form.entry) :]


def read_directory(data: bytes) -> Directory:
    """The first directory of a TIFF or BigTIFF file, or of EXIF data.

    Raises ValueError if it is damaged, and TagLimitError if it has more than `MAX_TAGS` tags.
    """
    try:
        order = _ORDERS[data[:2]]
        big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
        form = (
            _Form(order=order, offset="Q", offset_at=8, count="Q", entry="HHQ")
            if big
            else _Form(order=order, offset="L", offset_at=4, count="H", entry="HHL")
        )
        start = form.unpack(form.offset, data, form.offset_at)[0]
        tags = form.unpack(form.count, data, start)[0]
    except (struct.error, KeyError, IndexError, OverflowError) as error:
        raise ValueError("its directory of tags is damaged") from error
    if tags > MAX_TAGS:
        raise TagLimitError(f"{tags:,} tags; dyndet accepts at most {MAX_TAGS:,}")
    size = form.size(form.entry) + form.size(form.offset)
    start += form.size(form.count)
    entries = [data[at : at + size] for at in range(start, start + tags * size, size)]
    if any(len(entry) < size for entry in entries):
        raise ValueError("its directory of tags is cut off")
    return Directory(data, form, {form.unpack("H", entry, 0)[0]: entry for entry in entries})


def orientation_of(exif: bytes) -> int:
    """The orientation in EXIF data, 1 to 8; 1 if there is none, or if the data are damaged."""
    try:
        found = read_directory(exif.removeprefix(b"Exif\0\0")).first_number(ORIENTATION, 1)
    except (ValueError, struct.error, IndexError, OverflowError):
        return 1
    return found if 1 <= found <= 8 else 1
