"""Lets a call of a stage that failed be repeated alone, so that no other image can harm it again.

Triton merges calls of a stage into batches. If one image makes a batch fail, backends such as onnxruntime and tensorrt
give this error to every call in it. Nothing tells Triton to run a call alone. But it can merge only calls that wait at
the same time, so the public model makes no others meanwhile, in any of its instances, which are processes. Needs only
Python.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeVar

T = TypeVar("T")


class Turns:
    """Calls are made together, until one has to be made alone. Locks on two files tell all instances.

    `gate` and `room` are files that nobody replaces; they are only read. Who wants to be alone holds the gate, so that
    nobody else enters, and waits until the room is empty. Where the file system has no locks, a call is repeated among
    others: it is harmed only if another image fails in the same batch.
    """

    def __init__(self, gate: Path, room: Path) -> None:
        self._paths = gate, room
        self._opened = threading.local()  # a lock belongs to what was opened, so each thread opens the files itself

    def together(self, call: Callable[[], T]) -> T:
        """The result of a call among others; it begins when nobody is alone."""
        gate, room = self._files()
        _lock(gate, fcntl.LOCK_SH)
        _lock(room, fcntl.LOCK_SH)
        _lock(gate, fcntl.LOCK_UN)
        try:
            return call()
        finally:
            _lock(room, fcntl.LOCK_UN)

    def alone(self, call: Callable[[], T]) -> T:
        """The result of a call that begins when all others have ended, and during which no other begins."""
        gate, room = self._files()
        _lock(gate, fcntl.LOCK_EX)
        try:
            _lock(room, fcntl.LOCK_EX)
            return call()
        finally:
            _lock(room, fcntl.LOCK_UN)
            _lock(gate, fcntl.LOCK_UN)

    def _files(self) -> tuple[IO[bytes], IO[bytes]]:
        if not hasattr(self._opened, "files"):
            self._opened.files = tuple(path.open("rb") for path in self._paths)
        files: tuple[IO[bytes], IO[bytes]] = self._opened.files
        return files


def _lock(file: IO[bytes], how: int) -> None:
    with suppress(OSError):  # such as NFS, where an exclusive lock needs a file that can be written
        fcntl.flock(file, how)
