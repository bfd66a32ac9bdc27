"""How long requests wait for each other: first come, first served, any number of servers, any service times.

Closed forms where there are some (Erlang C, Allen and Cunneen's approximation), simulation for percentiles and for
closed loops. Needs numpy alone. Times may have any unit as long as it is the same throughout; a rate is per that unit.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError


def utilisation(rate: float, mean_service: float, servers: int = 1) -> float:
    """Share of their time that the servers work; at 1 and above the queue grows without end.

    Raises InputError unless rate and service time are positive and finite and there is a server.
    """
    for name, value in (("the arrival rate", rate), ("the mean service time", mean_service)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be positive and finite, got {value}")
    if servers < 1:
        raise InputError(f"a queue needs at least one server, got {servers}")
    return rate * mean_service / servers


def erlang_c(servers: int, offered: float) -> float:
    """Share of the requests that wait at all, M/M/c; 1 in overload. `offered` is rate x mean service time."""
    if offered >= servers:
        return 1.0
    blocked = 1.0  # Erlang B by its recursion, which does not overflow
    for busy in range(1, servers + 1):
        blocked = offered * blocked / (busy + offered * blocked)
    return blocked / (1 - offered / servers * (1 - blocked))


def mean_wait(rate: float, services: npt.ArrayLike, servers: int = 1) -> float:
    """Mean time before service, M/G/c, from a sample of service times; infinite where it is overloaded.

    Exact for one server (Pollaczek and Khinchine), Allen and Cunneen's approximation for more: the wait of M/M/c times
    (1 + the squared coefficient of variation of the service time) / 2.
    """
    sample = _times("service times", services)
    mean = float(sample.mean())
    busy = utilisation(rate, mean, servers)
    if busy >= 1:
        return math.inf
    variation = float(sample.var()) / mean**2
    return erlang_c(servers, rate * mean) * mean / (servers * (1 - busy)) * (1 + variation) / 2


def waits(arrivals: npt.ArrayLike, services: npt.ArrayLike, servers: int = 1) -> FloatArray:
    """Time of each request before its service, (requests,), for arrival times in ascending order.

    Raises InputError where the two do not fit together.
    """
    due, needed = np.asarray(arrivals, np.float64), _times("service times", services)
    if due.shape != needed.shape or bool(np.any(np.diff(due) < 0)):
        raise InputError(f"{needed.size} service times need as many arrival times in ascending order, got {due.shape}")
    if servers < 1:
        raise InputError(f"a queue needs at least one server, got {servers}")
    if servers == 1:  # Lindley's recursion, as sums: the work brought so far, less the time there was for it
        brought = np.concatenate([[0.0], np.cumsum(needed)[:-1]])
        slack = brought - (due - due[0])
        waiting: FloatArray = slack - np.minimum.accumulate(slack)
        return waiting
    free = [due[0]] * servers
    found = np.empty_like(due)
    for number, (arrival, service) in enumerate(zip(due.tolist(), needed.tolist(), strict=True)):
        start = max(arrival, heapq.heappop(free))
        found[number] = start - arrival
        heapq.heappush(free, start + service)
    return found


def closed_loop(services: npt.ArrayLike, delays: npt.ArrayLike, clients: int) -> FloatArray:
    """Latency of each request, (requests,), where each client sends its next one as soon as it has its answer.

    A request spends its delay alone (on the way, in the client), then waits for the one server, then is served.
    """
    needed, apart = _times("service times", services), np.asarray(delays, np.float64)
    if needed.shape != apart.shape or clients < 1:
        raise InputError(f"{needed.size} requests need as many delays, and a client; got {apart.shape}, {clients}")
    # (when it comes to the server, when it was sent, service time); the earliest comes first.
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
        raise InputError(f"{name} must be at least one finite number from 0, in one dimension")
    return sample
