"""Looks for the image files of a data set, inside its image folder alone; `frames.py` opens them."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynamicdet.aliases import BoolArray
from dynamicdet.datasets.findings import Findings
from dynamicdet.text import printable

_HIDDEN = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, line and paragraph separators


def find_files(folder: Path, entries: Sequence[dict[str, Any]], findings: Findings) -> tuple[BoolArray, str]:
    """Which image files of these entries can be opened (N,), and a text that changes when an image changes."""
    openable, stamps, owners = np.zeros(len(entries), np.bool_), [], dict[str, str]()
    inside = _Inside(folder)
    for index, entry in enumerate(entries):
        name, owner = entry["file_name"], printable(entry["id"], limit=80)
        reason = _strange_name(name)
        if reason:
            findings.add("path", f"the file name {printable(repr(name), limit=200)} {reason}")
            continue
        path = folder / name
        try:
            found, target = inside.find(path)
        except (OSError, ValueError) as error:
            _add_missing(folder, name, error, findings)
            continue
        own = os.path.normpath(target or path)
        if target is not None and not target.is_relative_to(inside.root):
            findings.add(
                "path",
                f"{printable(path)} is a link that leaves the image folder",
                way_out="put the files themselves there, for example with `cp -rL`",
            )
        elif stat.S_ISDIR(found.st_mode):
            findings.add("no picture", f"{printable(path)} is a folder, not a picture")
        elif not stat.S_ISREG(found.st_mode):  # before the size: a pipe has none
            findings.add("unreadable", f"{printable(path)} is not a regular file")
        elif not found.st_size:
            findings.add("no picture", f"{printable(path)} is empty, not a picture")
        elif own in owners:
            findings.add(
                "same file",
                f"the file {printable(name)} belongs to the images {owners[own]} and {owner}",
                way_out="give each file one image with all its objects",
            )
        else:
            openable[index] = True
        owners[own] = owner
        stamps.append(f"{name} {found.st_size} {found.st_mtime_ns}\n")
    return openable, "".join(stamps)


def _strange_name(name: object) -> str:
    """Why a file name is refused; empty if it is not."""
    if not isinstance(name, str) or not name:
        return "is not a text"
    if any(unicodedata.category(char) in _HIDDEN for char in name if not char.isprintable()):
        return "has characters that cannot be printed"
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or parts[0].endswith(":"):
        return "leaves the image folder; file names are relative to it (--images names another folder)"
    return ""


def _add_missing(folder: Path, name: str, error: Exception, findings: Findings) -> None:
    path = folder / name
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        findings.add("unreadable", f"the image {printable(path, limit=200)} cannot be read: {printable(reason)}")
        return
    places = (folder / "images", folder.parent, folder.parent.parent)
    found = next((place for place in places if _is_file(place / name)), None)
    hint = f"with --images {printable(found)} it would be found" if found else "--images names the folder of the images"
    findings.add("missing", f"the image {printable(path)} does not exist", way_out=hint)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # in a folder that may not be read
        return False


class _Inside:
    """Where files really are. A folder is looked up once, because resolving takes longer than reading a header."""

    def __init__(self, folder: Path) -> None:
        self.root = folder.resolve()
        self._known = {folder}

    def find(self, path: Path) -> tuple[os.stat_result, Path | None]:
        """The file's description, and its real place if a link may be on the way. Raises OSError, ValueError."""
        found = path.lstat()
        is_link = stat.S_ISLNK(found.st_mode)
        if not is_link and self._is_inside(path.parent):
            return found, None
        return path.stat(), path.resolve()

    def _is_inside(self, folder: Path) -> bool:
        if folder not in self._known and folder.resolve().is_relative_to(self.root):
            self._known.add(folder)
        return folder in self._known
