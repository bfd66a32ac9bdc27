"""Hands pictures to a server on the same machine without sending them: a pool of slots in one region of memory.

The region is a file in /dev/shm that the server maps once. Its owner keeps the file locked (flock), and the kernel
drops the lock however the owner ends: a file that can be locked was left behind and is removed by whoever finds it,
whatever process number its owner had. `tritonclient.utils.shared_memory` is not used, since it needs `pkg_resources`,
which setuptools does not have any more.
"""

from __future__ import annotations

import fcntl
import importlib
import mmap
import os
import re
import secrets
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dynamicdet.aliases import UInt8Array
from dyndet_client.errors import MissingExtraError, SharedMemoryError
from dyndet_client.protocol import Slot
from dyndet_client.settings import TransportChoice

FOLDER = Path("/dev/shm")
SLOTS = 32
"""Pictures in flight that a pool holds; those beyond are sent over the network."""

_PREFIX = "dyndet-client-"
_PAGE = 4096


class Pool(Protocol):
    """Slots in a region that the server is told about once, by its registration."""

    transport: TransportChoice
    kind: str
    """in the names of Triton's methods: system or cuda"""
    name: str
    registration: Mapping[str, Any]

    def put(self, image: UInt8Array) -> Slot | None:
        """Copy a picture into a free slot; none where all are taken."""

    def release(self, slot: Slot) -> None:
        """Make a slot free. A request that was given up may still read it, but nobody waits for its answer."""

    def close(self) -> None:
        """Give the memory back. May be called twice."""


def make_pool(choice: TransportChoice, image_bytes: int) -> Pool:
    """A pool for pictures of this size. Raises SharedMemoryError or MissingExtraError where it cannot be had."""
    return CudaPool(image_bytes) if choice == "cuda-shared-memory" else SystemPool(image_bytes)


class SystemPool:
    """Slots in the main memory. Memory is taken from the system only for slots that are used."""

    transport: TransportChoice = "shared-memory"
    kind = "system"

    def __init__(self, image_bytes: int) -> None:
        self._image_bytes = image_bytes
        self._stride = -(-image_bytes // _PAGE) * _PAGE
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._used = 0
        self.name = _new_name()
        size = self._stride * SLOTS
        self.registration: Mapping[str, Any] = {"key": f"/{self.name}", "byte_size": size}
        try:
            self._file = _create_locked(FOLDER / self.name, size)
            memory = mmap.mmap(self._file, size)
        except OSError as error:
            raise SharedMemoryError(f"this machine provides no shared memory: {error.strerror or error}") from error
        self._pixels = np.frombuffer(memory, np.uint8)
        # Runs when the pool is closed, forgotten, or the interpreter ends; a process that was forked owns nothing.
        self._remove = weakref.finalize(self, _remove_own, FOLDER / self.name, self._file, os.getpid())

    def put(self, image: UInt8Array) -> Slot | None:
        """Copy a picture into a free slot; none where all are taken or the memory is used up."""
        with self._lock:
            if not self._free:
                self._add_slot()
            if not self._free:
                return None
            start = self._free.pop()
        self._pixels[start : start + self._image_bytes] = image.reshape(-1)
        return Slot(self.name, start, self._image_bytes)

    def release(self, slot: Slot) -> None:
        """Make a slot free."""
        with self._lock:
            self._free.append(slot.offset)

    def close(self) -> None:
        """Remove the file; its memory goes when the server has let go of it as well."""
        self._remove()

    def _add_slot(self) -> None:
        start = self._used * self._stride
        if self._used == SLOTS:
            return
        with suppress(OSError):  # without this, writing to a full /dev/shm would end the process (SIGBUS)
            os.posix_fallocate(self._file, start, self._stride)
            self._used += 1
            self._free.append(start)


class CudaPool:
    """One slot in the memory of GPU 0; pictures beyond the one in flight are sent over the network.

    Written after Triton's documentation for machines with a GPU; it has not been run yet. One slot, since Triton's
    client writes to the start of a region alone.
    """

    transport: TransportChoice = "cuda-shared-memory"
    kind = "cuda"

    def __init__(self, image_bytes: int, device: int = 0) -> None:
        try:
            self._cuda = importlib.import_module("tritonclient.utils.cuda_shared_memory")
        except (ImportError, RuntimeError) as error:  # RuntimeError: what Triton's client makes of it
            raise MissingExtraError(
                "CUDA shared memory needs cuda-python and pkg_resources: "
                'pip install "tritonclient[cuda]" "setuptools<81"'
            ) from error
        self._free = threading.Semaphore()
        self.name = _new_name()
        try:
            self._handle = self._cuda.create_shared_memory_region(self.name, image_bytes, device)
            raw = self._cuda.get_raw_handle(self._handle)
        except Exception as error:  # the driver's own errors, of several packages
            raise SharedMemoryError(f"GPU {device} provides no shared memory: {error}") from error
        self.registration: Mapping[str, Any] = {"raw_handle": raw, "device_id": device, "byte_size": image_bytes}
        self._slot = Slot(self.name, 0, image_bytes)
        self._destroy = weakref.finalize(self, self._cuda.destroy_shared_memory_region, self._handle)

    def put(self, image: UInt8Array) -> Slot | None:
        """Copy a picture to the GPU; none where the slot is taken."""
        if not self._free.acquire(blocking=False):
            return None
        self._cuda.set_shared_memory_region(self._handle, [image])
        return self._slot

    def release(self, slot: Slot) -> None:
        """Make the slot free."""
        self._free.release()

    def close(self) -> None:
        """Give the memory back."""
        with suppress(Exception):
            self._destroy()


def remove_leftovers() -> None:
    """Remove files of clients that ended without tidying up. Those of other users are left alone."""
    with suppress(OSError):
        for path in list(FOLDER.glob(f"{_PREFIX}*")):
            _remove_if_left(path)


def is_leftover(name: str, key: str) -> bool:
    """Whether a region that the server has registered belongs to a client that has ended."""
    if not re.fullmatch(re.escape(_PREFIX) + r"\d+-[0-9a-f]+", name) or key != f"/{name}":
        return False
    return not (FOLDER / name).exists() or _remove_if_left(FOLDER / name)


def _new_name() -> str:
    return f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"


def _create_locked(path: Path, size: int) -> int:
    """The new file, which is never seen under its name without its lock."""
    hidden = path.with_name(f".{path.name}")
    file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(file, size)
        hidden.rename(path)
    except BaseException:
        os.close(file)
        hidden.unlink(missing_ok=True)
        raise
    return file


def _remove_own(path: Path, file: int, owner: int) -> None:
    if os.getpid() == owner:
        path.unlink(missing_ok=True)
    os.close(file)


def _remove_if_left(path: Path) -> bool:
    """Remove the file where its owner has ended. True where it is gone."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(file)
    return True
