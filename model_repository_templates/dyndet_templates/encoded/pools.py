"""Threads for requests and their pictures, and room for their files. Needs only Python."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor


class Pools:
    """Threads for requests and for their pictures: a request that waits must not take a thread that it waits for.

    Decoding occupies a core and holds large images in memory, so it gets one thread per core, whatever the batch size.
    """

    def __init__(self, requests: int, *, niceness: int = 0) -> None:
        def yield_cores() -> None:
            if niceness:
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + niceness)

        self.requests = ThreadPoolExecutor(requests, "request")
        self.pictures = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "picture", yield_cores)

    def close(self) -> None:
        """Wait until everything is answered, and stop the threads."""
        self.requests.shutdown()
        self.pictures.shutdown()


class Room:
    """Lets requests in while their files have at most so many bytes, and one of any size if there is no other."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._changed = threading.Condition()

    def enter(self, size: int) -> None:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + size <= self._size)
            self._used += size

    def leave(self, size: int) -> None:
        """Make room for others."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()
