"""Lets one push at a time change a detector in a model folder; a lock whose owner has died does not hold.

For a folder the lock is the system's own (`flock`), which ends with its process. An object store has no such thing: an
object says who holds it, and its owner renews it. One that was not renewed for a while is taken over.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dynamicdet.errors import InputError
from dynamicdet.records import Name, NotNegative, Record, Text, record_of
from dynamicdet.text import printable

RENEWED_S = 20.0
"""seconds after which the owner of an object renews it"""
STALE_S = 180.0
"""seconds after which an object that nobody has renewed does not count"""
_POLL_S = 0.2
_LONGEST_OWNER = 300
_LARGEST = 1 << 16


class _Entry(Record):
    """Content of an object that is a lock."""

    token: Name
    owner: Text
    time: NotNegative
    """when its owner renewed it, seconds since 1970"""


@contextmanager
def folder_lock(path: Path, *, wait_s: float, busy: str) -> Iterator[None]:
    """Hold the lock file `path`, which is removed afterwards.

    Raises InputError that begins with `busy` if another process still holds it after `wait_s` seconds, or if the file
    cannot be created.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            file = open(path, "a+", opener=_no_link, errors="replace")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
        with _closing_quietly(file):
            if _locked(file, path):
                try:
                    _sign(file, path)
                    yield
                finally:
                    with suppress(OSError):
                        path.unlink()
                return
            file.seek(0)
            owner = file.read(_LONGEST_OWNER)
        if time.monotonic() >= deadline:
            raise _refusal(busy, owner, wait_s)
        time.sleep(_POLL_S)


def _no_link(path: str, flags: int) -> int:
    """Open a lock, but no file elsewhere that a link stands for: taking the lock empties it."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextmanager
def _closing_quietly(file: Any) -> Iterator[None]:
    """Close a file; what a full disk did not take is reported already."""
    try:
        yield
    finally:
        with suppress(OSError):
            file.close()


def _sign(file: Any, path: Path) -> None:
    """Write who holds the lock."""
    try:
        file.truncate(0)
        file.write(_owner())
        file.flush()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def _locked(file: Any, path: Path) -> bool:
    """Try to take the lock; False also if its owner removed the file in the meantime."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(f"{path} cannot be locked: {error.strerror or error}") from error
    try:
        return os.fstat(file.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


@contextmanager
def object_lock(
    filesystem: Any, path: str, *, wait_s: float, busy: str, renewed_s: float = RENEWED_S, stale_s: float = STALE_S
) -> Iterator[None]:
    """Hold the object `path` of an fsspec file system, which is removed afterwards; errors as for `folder_lock`.

    The age of an object is judged by its owner's clock, so clocks must agree within `stale_s`. A file system that
    cannot create an object exclusively is asked again after a moment who got it.
    """
    token = secrets.token_hex(8)
    deadline = time.monotonic() + wait_s
    while not _created(filesystem, path, token, stale_s=stale_s):
        if time.monotonic() >= deadline:
            found = _content(filesystem, path)
            raise _refusal(busy, "" if found is None else found.owner, wait_s)
        time.sleep(_POLL_S)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(renewed_s):
            with suppress(Exception):  # a failed attempt is repeated; the object is stale only much later
                filesystem.pipe_file(path, _entry(token))

    thread = threading.Thread(target=renew, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(Exception):
            if _holds(filesystem, path, token):
                filesystem.rm_file(path)


def _created(filesystem: Any, path: str, token: str, *, stale_s: float) -> bool:
    found = _content(filesystem, path)
    if found is not None:
        if time.time() - found.time < stale_s:
            return False
        filesystem.rm_file(path)
    try:
        filesystem.pipe_file(path, _entry(token), mode="create")
    except FileExistsError:
        return False
    except (TypeError, NotImplementedError):
        filesystem.pipe_file(path, _entry(token))
        time.sleep(_POLL_S)
    return _holds(filesystem, path, token)


def _holds(filesystem: Any, path: str, token: str) -> bool:
    found = _content(filesystem, path)
    return found is not None and found.token == token


def _content(filesystem: Any, path: str) -> _Entry | None:
    """Who holds a lock; None if nobody does. Raises InputError if the object is not a lock."""
    advice = "remove it if no push is running"
    try:
        if int(filesystem.info(path).get("size") or 0) > _LARGEST:
            raise InputError(f"{printable(path)} is too large for a lock; {advice}")
        content = filesystem.cat_file(path)
    except FileNotFoundError:
        return None
    return record_of(content, _Entry, path, described="the lock of a push", advice=advice)


def _entry(token: str) -> bytes:
    return _Entry(token=token, owner=_owner(), time=time.time()).model_dump_json().encode()


def _owner() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # an id without a name
        name = str(os.getuid())
    return f"{name} on {socket.gethostname()}, process {os.getpid()}, since {time.strftime('%Y-%m-%dT%H:%M:%S%z')}"


def _refusal(busy: str, owner: str, wait_s: float) -> InputError:
    who = f" ({printable(owner, limit=_LONGEST_OWNER)})" if owner else ""
    return InputError(f"{busy}{who}, and did not end within {wait_s:g} s; try again later")
