"""Counters of a server that have settled: Triton answers a request before it counts it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_QUIET_S = 0.25
_LONGEST_S = 10.0

_T = TypeVar("_T")


def settled(read: Callable[[], _T]) -> _T:
    """A reading that stayed the same for a quarter of a second, so that no earlier request is still to be counted."""
    end = time.monotonic() + _LONGEST_S
    last, since = read(), time.monotonic()
    while (now := time.monotonic()) < end and now - since < _QUIET_S:
        time.sleep(_QUIET_S / 4)
        if (reading := read()) != last:
            last, since = reading, time.monotonic()
    return last
