"""Folders of results: whether they can be written is found out before the work begins, and they appear whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamicdet.errors import InputError


def check_creatable(output: Path) -> None:
    """Raise InputError where the folder `output` is a file, or cannot be made below what exists of its path."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{output} cannot be a folder of results: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{output} cannot be written: {existing} allows no writing")


@contextmanager
def whole_folder(output: Path, marker: str) -> Iterator[Path]:
    """A temporary folder beside `output` to write into; it takes its place when the block ends without an error.

    Raises InputError where `output` holds what dyndet did not write (it lacks the file `marker`).
    """
    check_replaceable(output, marker)
    check_creatable(output.parent)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        _put(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(output: Path, marker: str) -> None:
    """Raise InputError where a folder exists that holds what dyndet did not write."""
    if not output.exists() and not output.is_symlink():
        return
    if output.is_dir() and ((output / marker).is_file() or not any(output.iterdir())):
        return
    raise InputError(
        f"{output} exists and dyndet did not render it (it has no {marker}); give another folder, or remove it"
    )


def _put(temporary: Path, output: Path) -> None:
    """Rename the finished folder into place; the old one goes only after that has worked."""
    if not output.exists():
        temporary.rename(output)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{output.name}.old.", dir=output.parent)) / "folder"
    try:
        output.rename(old)
        try:
            temporary.rename(output)
        except BaseException:
            old.rename(output)
            raise
    finally:
        shutil.rmtree(old.parent, ignore_errors=True)
