"""Folders of images: the image files in a folder, and a selection spread over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dynamicdet.errors import InputError
from dynamicdet.images import SUFFIXES

_Item = TypeVar("_Item")


def pictures_in(folder: Path) -> list[Path]:
    """The image files directly inside a folder, sorted by name. Raises InputError if there are none."""
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"the image folder {folder} {found}")
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not pictures:
        if any(path.suffix.lower() in SUFFIXES for path in folder.glob("images/*")):
            raise InputError(f"{folder} holds no images, but its folder images/ does; give {folder / 'images'}")
        raise InputError(f"{folder} holds no images; dyndet reads files that end in {', '.join(SUFFIXES)}")
    return pictures


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most `count` of the items, evenly spread over the sequence; the first is one of them."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
