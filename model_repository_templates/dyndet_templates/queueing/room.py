"""Bounds how many bytes of waiting requests lie in shared memory, which grows and never shrinks. Needs only Python."""

from __future__ import annotations

import threading


class Room:
    """Lets requests in while they have at most so many bytes, and one of any size if there is no other."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._changed = threading.Condition()

    def enter(self, size: int, *, waits: bool = True) -> bool:
        """Take so many bytes; False if there is no room for them, unless the caller waits until there is."""
        with self._changed:
            if waits:
                self._changed.wait_for(lambda: self._fits(size))
            elif not self._fits(size):
                return False
            self._used += size
            return True

    def leave(self, size: int) -> None:
        """Make room for others."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._size
