"""Writes files and folders that appear whole or not at all, and checks before the work that they can be written.

Each is written under a hidden name in its folder and then renamed. A reader sees the old one or the new one. If an
error or Ctrl-C ends the work, the old one stays and nothing else is left. This file needs only the standard library.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamicdet.errors import InputError

# The system's errors for a full disk. Any other OSError may be about something else than the file that is written.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """An empty temporary file beside `path` to write to; it replaces `path` when the block ends without error.

    The new file has the permissions of the file that it replaces, or those that the umask allows. If the block removes
    the temporary file, `path` does not change. With `durable`, the content is on the disk before the rename, so a power
    cut leaves no empty file. `durable=False` does not wait for the disk; it is for files that are cheap to make again.

    Raises InputError if `path` cannot be written or the disk is full.
    """
    check_writable(path)
    temporary = _beside(path)
    try:
        with _named(path, _FULL):
            with _named(path):
                # 0o666 minus the umask, as other programs create files; only the owner can read tempfile's own files
                os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            yield temporary
        with _named(path):
            if temporary.exists():
                _place(temporary, path, durable=durable)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(output: Path, *, marker: str | None) -> Iterator[Path]:
    """An empty temporary folder beside `output` to write into; it replaces `output` when the block ends without error.

    Missing parents of `output` are created. Raises InputError if dyndet did not write the existing `output` (it lacks
    the file `marker`; None accepts any folder), if `output` cannot be written, or if the disk is full.
    """
    if marker is not None:
        check_replaceable(output, marker)
    check_creatable(output.parent)
    temporary = _beside(output)
    new, old = temporary / "new", temporary / "old"
    try:
        with _named(output, _FULL):
            with _named(output):
                new.mkdir(parents=True)
            yield new
        with _named(output):
            if output.exists():
                output.rename(old)
            new.rename(output)
    finally:
        if old.exists() and not output.exists():
            old.rename(output)
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Raise InputError if no file can be written to `path`."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write")
    folder = path.parent
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{path} cannot be written: the folder {folder} {found}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: the folder {folder} is not writable")


def check_creatable(output: Path) -> None:
    """Raise InputError if `output` is a file, or if the folder cannot be created in the existing part of its path."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{output} cannot be an output folder: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{output} cannot be written: {existing} is not writable")


def check_replaceable(output: Path, marker: str) -> None:
    """Raise InputError if the folder exists and dyndet did not write it: it lacks the file `marker`."""
    if not output.exists() and not output.is_symlink():
        return
    if output.is_dir() and ((output / marker).is_file() or not any(output.iterdir())):
        return
    raise InputError(
        f"{output} exists and dyndet did not write it (it has no {marker}); give another folder, or remove it"
    )


def _beside(path: Path) -> Path:
    """A hidden name in the same folder, with the same suffix: some writers choose their format by it."""
    path = path.absolute()  # "." has no name of its own
    return path.with_name(f".{path.stem[:40]}.{secrets.token_hex(6)}{path.suffix}")


def _place(temporary: Path, path: Path, *, durable: bool) -> None:
    if path.exists():
        temporary.chmod(stat.S_IMODE(path.stat().st_mode))
    if durable:
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def _named(path: Path, errors: set[int] | None = None) -> Iterator[None]:
    """Turn an OSError (of these kinds) into one sentence about `path`."""
    try:
        yield
    except OSError as error:
        if errors is not None and error.errno not in errors:
            raise
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
