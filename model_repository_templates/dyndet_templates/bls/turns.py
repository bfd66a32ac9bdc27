"""Lets a call of a stage that failed be repeated alone, so that no other image can harm it again.

Triton merges calls of a stage into batches. If one image makes a batch fail, backends such as onnxruntime and tensorrt
give this error to every call in it. Nothing tells Triton to run a call alone. But it can merge only calls that wait at
the same time, so the public model makes no others meanwhile, in any of its instances, which are processes. Needs only
Python.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Turns:
    """Calls are made together, until one has to be made alone. Locks on two files tell all instances.

    `gate` and `room` are files that nobody replaces; they are only read. Who wants to be alone holds the gate, so that
    nobody else enters, and waits until the room is empty. Where the file system has no locks, a call is repeated among
    others: it is harmed only if another image fails in the same batch.
    """

    def __init__(self, gate: Path, room: Path) -> None:
        self._gate, self._room = gate, room

    @contextmanager
    def together(self) -> Iterator[None]:
        """A call among others; it begins when nobody is alone."""
        with _locked(self._gate, fcntl.LOCK_SH) as gate:
            with _locked(self._room, fcntl.LOCK_SH):
                _unlock(gate)
                yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A call that begins when all others have ended, and during which no other begins."""
        with _locked(self._gate, fcntl.LOCK_EX), _locked(self._room, fcntl.LOCK_EX):
            yield


@contextmanager
def _locked(path: Path, how: int) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a lock belongs to what was opened, so each thread opens its own
    try:
        with suppress(OSError):  # such as NFS, where an exclusive lock needs a file that can be written
            fcntl.flock(file, how)
        yield file
    finally:
        os.close(file)  # gives the lock back


def _unlock(file: int) -> None:
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
