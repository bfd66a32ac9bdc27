"""Passes images to a server on the same machine without sending them: a pool of slots in one region of memory.

The region is a file in /dev/shm that the server maps once. Its owner holds a lock on the file (flock), and the kernel
releases the lock however the owner ends. So a file that can be locked was left behind; the client that finds it removes
it, whatever process number its owner had. `tritonclient.utils.shared_memory` is not used, because it needs
`pkg_resources`, which setuptools no longer has.
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
"""Most images in flight in a pool; further images are sent over the network."""

_PREFIX = "dyndet-client-"
_PAGE = 4096


class Pool(Protocol):
    """Slots in a region that is registered with the server once."""

    transport: TransportChoice
    kind: str
    """in the names of Triton's methods: system or cuda"""
    name: str
    registration: Mapping[str, Any]

    def put(self, image: UInt8Array) -> Slot | None:
        """Copy an image into a free slot; None if all are taken."""

    def release(self, slot: Slot) -> None:
        """Make a slot free. An abandoned request may still read it, but its answer is not used."""

    def close(self) -> None:
        """Give the memory back. May be called twice."""


def make_pool(choice: TransportChoice, image_bytes: int) -> Pool:
    """A pool for images of this size. Raises SharedMemoryError or MissingExtraError if it is not available."""
    return CudaPool(image_bytes) if choice == "cuda-shared-memory" else SystemPool(image_bytes)


class SystemPool:
    """Slots in main memory. Memory is allocated only for slots that are used."""

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
        """Copy an image into a free slot; None if all are taken or the memory is full."""
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
        """Remove the file; its memory is freed when the server releases it as well."""
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
    """One slot in the memory of GPU 0; further images are sent over the network.

    This follows Triton's documentation for machines with a GPU and was not run yet. There is one slot, because Triton's
    client writes only to the start of a region.
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
        """Copy an image to the GPU; None if the slot is taken."""
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
    """Remove files of clients that ended without cleaning up. Files of other users stay."""
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
    """The new file; it never appears under its name without its lock."""
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
    """Remove the file if its owner has ended. True if it is gone."""
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
