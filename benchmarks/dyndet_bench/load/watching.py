"""Watches a server while it is under load: what its metrics say, and how much memory its processes hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import psutil

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import ServerError
from dyndet_bench.measuring.own_metrics import OwnMetrics

THRESHOLD, GEAR, QUEUE = "dyndet_threshold", "dyndet_gear", "dyndet_queue"
PERIOD_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Samples of one run; arrays (samples,). NaN where a metric is not there."""

    at_s: FloatArray
    """seconds from the start of the run"""
    threshold: FloatArray
    gear: FloatArray
    """share of hard images that the server allows"""
    queue: FloatArray
    """requests that wait in the server"""
    memory_mb: FloatArray
    """resident memory of all processes of the server, MiB"""


class Watch:
    """Samples in a thread of its own; a context manager."""

    def __init__(self, metrics: OwnMetrics, *, memory: Callable[[], float] | None = None) -> None:
        """`memory` returns the server's memory in MiB; without it, none is recorded."""
        self._metrics, self._memory = metrics, memory
        self._stop = threading.Event()
        self._samples: list[tuple[float, float, float, float, float]] = []
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def since(self, start: float) -> Watched:
        """The samples, by their time after `start`, a time.monotonic()."""
        samples = np.array(self._samples or np.empty((0, 5)), np.float64)
        at_s, threshold, gear, queue, memory_mb = samples.T.copy()
        return Watched(at_s=at_s - start, threshold=threshold, gear=gear, queue=queue, memory_mb=memory_mb)

    def _watch(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            memory = np.nan if self._memory is None else self._memory()
            with suppress(ServerError):  # a server that is gone is what the requests tell
                found = self._metrics.read_several(THRESHOLD, GEAR, QUEUE)
                values = [next(iter(found[name].values()), np.nan) for name in (THRESHOLD, GEAR, QUEUE)]
                self._samples.append((time.monotonic(), *values, memory))  # type: ignore[arg-type]
            due = max(due + PERIOD_S, time.monotonic())
            self._stop.wait(due - time.monotonic())


def memory_of(pid: int) -> Callable[[], float]:
    """A function that returns the resident memory of a process and its children, MiB; NaN once it is gone."""

    def measure() -> float:
        total = 0
        try:
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += one.memory_info().rss
        except psutil.Error:
            return float("nan")
        return total / 2**20

    return measure
