"""How long requests wait for each other at one server: first come, first served, any service times.

Both functions simulate each request, for percentiles. The file needs only numpy. Times may have any unit if all have
the same.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError


def waits(arrivals: npt.ArrayLike, services: npt.ArrayLike) -> FloatArray:
    """Time of each request before its service, (requests,), for arrival times in ascending order.

    Raises InputError if the two do not fit together.
    """
    due, needed = np.asarray(arrivals, np.float64), _times("service times", services)
    if due.shape != needed.shape or bool(np.any(np.diff(due) < 0)):
        raise InputError(f"{needed.size} service times need as many arrival times in ascending order, got {due.shape}")
    # Lindley's recursion, as sums: the work brought so far, minus the time available for it.
    brought = np.concatenate([[0.0], np.cumsum(needed)[:-1]])
    slack = brought - (due - due[0])
    waiting: FloatArray = slack - np.minimum.accumulate(slack)
    return waiting


def closed_loop(services: npt.ArrayLike, delays: npt.ArrayLike, clients: int) -> FloatArray:
    """Latency of each request, (requests,), if each client sends its next request as soon as it has the answer.

    A request first spends its delay (on the way, in the client), then waits for the one server, then is served.
    """
    needed, apart = _times("service times", services), np.asarray(delays, np.float64)
    if needed.shape != apart.shape or clients < 1:
        raise InputError(f"{needed.size} requests need as many delays, and a client; got {apart.shape}, {clients}")
    # (arrival at the server, time of sending, service time); the earliest arrival comes first.
    coming: list[tuple[float, float, float]] = []
    found: list[float] = []
    free = 0.0
    for service, delay in zip(needed.tolist(), apart.tolist(), strict=True):
        sent = 0.0
        if len(coming) == clients:
            arrived, was_sent, takes = heapq.heappop(coming)
            free = max(free, arrived) + takes
            found.append(free - was_sent)
            sent = free
        heapq.heappush(coming, (sent + delay, sent, service))
    return np.array(found[clients:], np.float64)  # the first ones find an empty server


def _times(name: str, values: npt.ArrayLike) -> FloatArray:
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or sample.size == 0 or not bool(np.all(np.isfinite(sample) & (sample >= 0))):
        raise InputError(f"{name} must be one or more finite numbers of at least 0, in one dimension")
    return sample
