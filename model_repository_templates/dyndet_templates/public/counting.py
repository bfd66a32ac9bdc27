"""Makes the calls of Triton's metrics in one thread; counts what failed and what waits. Needs only Triton's own module.

Rendering puts this file beside every public model.

| metric | kind | labels | counts |
| --- | --- | --- | --- |
| `dyndet_requests_failed_total` | counter | model, reason | requests that got an error from this model |
| `dyndet_queue` | gauge | model | requests that wait in the model's own queues |

Reasons: `bad_request`, `stage_failed`, `cancelled` (also: its own time was over), `refused` (a stage is not ready, or
the server stops), `overloaded` (it could not be answered in time, or too many wait), `internal`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils
from refusals import REASONS  # type: ignore[import-not-found]

Job = Callable[[], None]
_QUIET_S, _LONGEST_S = 0.05, 0.5
"""the work of requests is counted once no more has come for so long, or after the longer time"""
_WATCH_S = 1.0


class CountingThread:
    """Makes calls of Triton's metrics later, when no request comes, or for many requests together.

    Each call is a message to the server and its answer, and wakes two threads that take the cores from the graphs. What
    is added to one counter in half a second is one call. Only one thread may make them: the server (Triton 2.51)
    crashes if two threads change metrics at the same time. The thread sends nothing before its first job, so nothing
    while Triton still waits for the end of `initialize`.

    The thread never ends, and it holds the metrics: when a model is loaded again in place, the new instance holds
    metrics of the same name and labels before the old instance ends. If the old one gave its metrics back, the new one
    would count in freed memory, and the server would crash.
    """

    def __init__(self, *metrics: Any, watch: Job | None = None) -> None:
        """`watch` shows values that change by themselves; once there is work, it is called every second."""
        self._metrics = metrics
        self._watch = watch
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._sums: dict[Any, float] = {}
        self._closing = threading.Event()
        threading.Thread(target=self._work, name="metrics", daemon=True).start()

    def later(self, job: Job) -> None:
        """Make the calls of a job within about half a second, after those of earlier jobs."""
        self._jobs.put(job)

    def show(self) -> None:
        """Show within about half a second what has changed by itself."""
        self._jobs.put(_nothing)

    def add(self, counter: Any, amount: float = 1) -> None:
        """Add to a counter; only for jobs. What jobs that are made together add to it is one call."""
        self._sums[counter] = self._sums.pop(counter, 0) + amount

    def close(self, *, timeout_s: float = 10) -> None:
        """Wait until everything is counted."""
        counted = threading.Event()

        def last() -> None:
            self._watch = None  # its values are now those of another instance
            self._count()
            counted.set()

        self._jobs.put(last)
        self._closing.set()
        if not counted.wait(timeout_s):
            pb_utils.Logger.log_warn(f"some metrics were not counted within {timeout_s:g} s")

    def _work(self) -> None:
        jobs = [self._jobs.get()]
        while True:
            self._wait_for_more(jobs)
            for job in (*jobs, self._count, self._show):
                try:
                    job()
                except Exception as error:
                    pb_utils.Logger.log_warn(f"a metric was not counted: {type(error).__name__}: {error}")
            try:
                jobs = [self._jobs.get(timeout=None if self._watch is None else _WATCH_S)]
            except queue.Empty:
                jobs = []

    def _wait_for_more(self, jobs: list[Job]) -> None:
        """Collect jobs until none comes for a while."""
        end = time.monotonic() + _LONGEST_S
        known = 0
        while known < len(jobs) and time.monotonic() < end:
            known = len(jobs)
            self._closing.wait(_QUIET_S)
            while not self._jobs.empty():
                jobs.append(self._jobs.get())

    def _count(self) -> None:
        for counter in list(self._sums):
            counter.increment(self._sums.pop(counter))

    def _show(self) -> None:
        if self._watch is not None:
            self._watch()


def _nothing() -> None:
    pass


class QueueLength:
    """Shows how many requests wait, in all instances of one model."""

    def __init__(self, model: str, waiting: Callable[[], int]) -> None:
        family = pb_utils.MetricFamily
        # Triton requires that families outlive their metrics.
        self._family = family("dyndet_queue", "Requests that wait in the model's own queues", family.GAUGE)
        self._gauge = self._family.Metric(labels={"model": model})
        self._waiting = waiting
        self._shown = 0

    def show(self) -> None:
        """Show what waits now; for the counting thread. A call costs a message to the server, so only a change is."""
        self._is(self._waiting())

    def leave(self) -> None:
        """Take away this instance's part; for the counting thread."""
        self._is(0)

    def _is(self, waiting: int) -> None:
        if waiting != self._shown:
            self._gauge.increment(waiting - self._shown)
            self._shown = waiting


class FailedRequests:
    """Counts requests that got an error. Instances of one model share the values.

    Triton itself counts them as successes: to it, a Python model that returns an error has done its work.
    """

    def __init__(self, model: str) -> None:
        family = pb_utils.MetricFamily
        # Triton requires that families outlive their metrics.
        self._family = family("dyndet_requests_failed_total", "Requests that got an error, by reason", family.COUNTER)
        self._by_reason = {reason: self._family.Metric(labels={"model": model, "reason": reason}) for reason in REASONS}

    def counter(self, reason: str) -> Any:
        """The counter of a reason; for the counting thread."""
        return self._by_reason[reason]
