"""A request to stop that a signal handler can make."""

from __future__ import annotations

import queue
from typing import Final


class StopRequest:
    """Like `threading.Event`, for one thread that waits, but a signal handler can set it.

    `threading.Event` has a lock that is not reentrant: a handler that sets it while the thread it interrupts is inside
    `wait` waits for that thread, and so for itself, for ever. `SimpleQueue.put` is reentrant (Python's documentation of
    `queue`).
    """

    def __init__(self) -> None:
        self._asked = False
        self._news: Final[queue.SimpleQueue[None]] = queue.SimpleQueue()

    def set(self) -> None:
        """Ask to stop; from any thread or signal handler, any number of times."""
        self._asked = True
        self._news.put(None)

    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked

    def wait(self, timeout_s: float) -> bool:
        """Wait until a stop is asked for, or for `timeout_s`; whether it was asked for."""
        if not self._asked:
            try:
                self._news.get(timeout=timeout_s)
            except queue.Empty:
                pass
        return self._asked
