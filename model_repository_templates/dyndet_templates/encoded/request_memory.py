"""Gives the shared memory of large requests back to the system. Needs only Python and Triton's own module.

The Python backend copies the tensors of a request into a file of /dev/shm, which grows for a large request and never
shrinks. Its own module then turns BYTES into Python objects, before `execute`. Once that is done, nobody reads the copy
again, so its pages can go; the file keeps its length, but the memory is free.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import triton_python_backend_utils as pb_utils

LEAST_BYTES = 1 << 20
"""of a tensor whose memory is given back; smaller ones stay, because fresh pages cost time"""
_MADV_REMOVE = 9  # of Linux; `mmap` has no name for it


def give_requests_back() -> None:
    """From now on, give back the memory of each BYTES tensor as soon as it was read.

    Does nothing in a release of Triton whose module does not read them in Python.
    """
    read = getattr(pb_utils, "deserialize_bytes_tensor", None)
    if read is None or getattr(read, "gives_back", False):
        return
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def read_and_give_back(encoded: Any) -> Any:
        found = read(encoded)
        if encoded.nbytes >= LEAST_BYTES:
            start = -(-encoded.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
            end = (encoded.ctypes.data + encoded.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
            madvise(start, end - start, _MADV_REMOVE)  # where the system cannot, the memory stays as it is
        return found

    read_and_give_back.gives_back = True  # type: ignore[attr-defined]
    pb_utils.deserialize_bytes_tensor = read_and_give_back
