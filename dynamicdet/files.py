"""Writes files and folders that appear whole or not at all, and checks before the work that they can be written.

Each is written under a hidden name in its folder and then renamed. A reader sees the old one or the new one. If an
error or Ctrl-C ends the work, the old one stays and nothing else is left. If the process is killed, the next one that
writes into the same folder removes what is left: a lock on every temporary file and folder says whether its process
still runs. This file needs only the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynamicdet.errors import DyndetError, InputError

# The system's errors for a full disk. Any other OSError may be about something else than the file that is written.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Libraries that write by themselves put the system's error into a text, or leave it out when the disk is full.
_FULL_TEXT = re.compile(r"No space left|Disk quota exceeded|File too large|os error (28|27|122)\b")
_ALMOST_NOTHING = 1 << 16

_TEMPORARY = re.compile(r"\.dyndet-[0-9a-f]{12}(\.\w+)?")
_SCRATCH = r"dyndet-{purpose}-[0-9a-f]{{12}}\.tmp"
_OLD = ".replaced"
_LOCK = ".lock"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100

_cleaned: set[Path] = set()
"""folders that this process has searched for leftovers"""


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """An empty temporary file beside `path` to write to; it replaces `path` when the block ends without error.

    The new file has the permissions of the file that it replaces, or those that the umask allows. A `path` that is a
    link stays one: the file that it leads to is replaced. If the block removes the temporary file, `path` does not
    change. With `durable`, the content is on the disk before the rename, so a power cut leaves no empty file.
    `durable=False` does not wait for the disk; it is for files that are cheap to make again.

    Raises InputError if `path` cannot be written or the disk is full.
    """
    _check_place(path)
    target = _behind_links(path)
    with _named(path):
        temporary, lock = _locked_file(target)
    try:
        with _full_disk_named(path, temporary):
            yield temporary
        with _named(path):
            if temporary.exists():
                _place(temporary, target, mode=os.fstat(lock).st_mode, durable=durable)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def whole_folder(output: Path, *, marker: str | None) -> Iterator[Path]:
    """An empty temporary folder beside `output` to write into; it replaces `output` when the block ends without error.

    Missing parents of `output` are created. An `output` that is a link to a folder stays one: the folder that it leads
    to is replaced. Raises InputError if dyndet did not write the existing `output` (it lacks the file `marker`; None
    accepts any folder), if `output` cannot be written, or if the disk is full.
    """
    if marker is not None:
        check_replaceable(output, marker)
    _check_folder(output.parent)
    target = _behind_links(output)
    with _named(output):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _locked_folder(target.parent, lambda: f".dyndet-{secrets.token_hex(6)}")
    new = temporary / target.name
    try:
        with _full_disk_named(output, temporary):
            with _named(output):
                new.mkdir()
            yield new
        with _named(output):
            _put_folder(new, target)
    finally:
        _remove(temporary)
        os.close(lock)


@contextmanager
def scratch_folder(purpose: str, *, forget: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A temporary folder in the system's place for them, removed afterwards.

    `purpose` is a word, which becomes part of its name. First, the folders of this purpose are removed whose processes
    were killed; `forget` is called with each of them before, to remove what belongs to it elsewhere. Raises InputError
    if the folder cannot be created.
    """
    place = Path(tempfile.gettempdir())
    pattern = re.compile(_SCRATCH.format(purpose=purpose))
    _clean(place, lambda name: pattern.fullmatch(name) is not None, forget)
    with _named(place):
        folder, lock = _locked_folder(place, lambda: f"dyndet-{purpose}-{secrets.token_hex(6)}.tmp", mode=0o700)
    try:
        yield folder
    except OSError as error:
        if error.errno not in FULL or not _is_full(folder):  # the block may write elsewhere too
            raise
        raise InputError(f"{place} cannot be written: {error.strerror or error}; TMPDIR names another place") from error
    finally:
        _remove(folder)
        os.close(lock)


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders, so that no moment is without either; False where the system cannot do that."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # of the C library, on Linux
    if renameat2 is None:
        return False
    status: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    return status == 0


def check_writable(path: Path) -> None:
    """Raise InputError if no file can be written to `path`: a device or a pipe would be replaced, so it is refused."""
    _try_to_create(_check_place(path), path)


def _check_place(path: Path) -> Path:
    """The folder of a file. Raises InputError as `check_writable` does, by what the system says of it."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a device or a pipe; name a file to write")
    target = _behind_links(path)
    folder = target.parent
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{path} cannot be written: the folder {folder} {found}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: the folder {folder} is not writable")
    return folder


def check_creatable(output: Path) -> None:
    """Raise InputError if `output` is a file, or if the folder cannot be created in the existing part of its path."""
    _try_to_create(_check_folder(output), output)


def _check_folder(output: Path) -> Path:
    """The existing part of its path. Raises InputError as `check_creatable` does, by what the system says of it."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{output} cannot be an output folder: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{output} cannot be written: {existing} is not writable")
    return existing


def _try_to_create(folder: Path, output: Path) -> None:
    """Create and remove an empty folder where root may write and the file system, such as /proc, still refuses."""
    if os.geteuid() == 0:
        with _named(output):
            (probe := folder / f".dyndet-{secrets.token_hex(6)}").mkdir()
            probe.rmdir()


def check_replaceable(output: Path, marker: str) -> None:
    """Raise InputError if the folder exists and dyndet did not write it: it lacks the file `marker`."""
    if not output.exists() and not output.is_symlink():
        return
    if output.is_dir() and ((output / marker).is_file() or not any(output.iterdir())):
        return
    raise InputError(
        f"{output} exists and dyndet did not write it (it has no {marker}); give another folder, or remove it"
    )


def _behind_links(path: Path) -> Path:
    """The absolute path; where a link leads, if it is one."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path.absolute()  # a link to itself is replaced


def _locked_file(target: Path) -> tuple[Path, int]:
    """A new hidden file beside `target`, with its suffix, by which some writers choose their format; and its lock."""
    _clean_once(target.parent)
    suffix = target.suffix if re.fullmatch(r"\.\w{1,20}", target.suffix) else ""
    while True:
        path = target.with_name(f".dyndet-{secrets.token_hex(6)}{suffix}")
        # 0o666 minus the umask, as other programs create files; only the owner can read tempfile's own files
        lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        if _lock(lock) and path.exists():
            return path, lock
        os.close(lock)  # another process took it for a leftover between two calls


def _locked_folder(parent: Path, name: Callable[[], str], *, mode: int = 0o777) -> tuple[Path, int]:
    _clean_once(parent)
    while True:
        path = parent / name()
        path.mkdir(mode=mode)
        with suppress(FileNotFoundError):  # as above
            # A lock on the folder itself would be in the way of those who lock folders that they write into.
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            if _lock(lock) and (path / _LOCK).exists():
                return path, lock
            os.close(lock)


def _lock(descriptor: int) -> bool:
    """Whether this process holds the lock now. A file system without locks has no leftovers that could be told."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _clean_once(folder: Path) -> None:
    if folder not in _cleaned:
        _cleaned.add(folder)
        _clean(folder, lambda name: _TEMPORARY.fullmatch(name) is not None)


def _clean(folder: Path, ours: Callable[[str], bool], forget: Callable[[Path], None] | None = None) -> None:
    """Remove the temporary files and folders of killed processes of this user."""
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if ours(entry.name) and not entry.is_symlink()]
    except OSError:
        return
    for path in found:
        with suppress(OSError):
            if path.lstat().st_uid == os.geteuid():
                _clean_one(path, forget)


def _clean_one(path: Path, forget: Callable[[Path], None] | None) -> None:
    file, create = (path / _LOCK, os.O_CREAT) if path.is_dir() else (path, 0)
    lock = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | create, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process runs
        if forget is not None:
            forget(path)
        for old in path.glob(f"*{_OLD}"):
            output = path.parent / old.name.removesuffix(_OLD)
            if not output.exists():
                old.rename(output)
        _remove(path)
    finally:
        os.close(lock)


def _put_folder(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`, which ends up beside `new`."""
    if not target.exists():
        new.rename(target)
    elif not exchange(new, target):
        old = new.with_name(f"{target.name}{_OLD}")
        target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            old.rename(target)
            raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _place(temporary: Path, path: Path, *, mode: int, durable: bool) -> None:
    # A library may have put a file of its own, which only the owner can read, in the place of the temporary one.
    temporary.chmod(stat.S_IMODE(path.stat().st_mode if path.exists() else mode))
    if durable:
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn an OSError into one sentence about `path`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def _full_disk_named(path: Path, temporary: Path) -> Iterator[None]:
    """Turn the errors of a full disk into one sentence about `path`, also those of libraries with errors of their own.

    An error of ours says already what it is about, so it passes.
    """
    try:
        yield
    except DyndetError:
        raise
    except OSError as error:
        if error.errno not in FULL and not _FULL_TEXT.search(str(error)):
            raise
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    except Exception as error:
        if not _FULL_TEXT.search(str(error)) and not _is_full(temporary.parent):
            raise
        raise InputError(f"{path} cannot be written: {os.strerror(errno.ENOSPC)}") from error


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _ALMOST_NOTHING
    except OSError:
        return False


def cache_folder(name: str) -> Path:
    """Default folder of this name for files that can be made again: in `dyndet` in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dyndet" / name
