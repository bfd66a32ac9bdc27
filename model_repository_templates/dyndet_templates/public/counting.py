"""Makes the calls of Triton's metrics in one thread, and counts failed requests. Needs only Triton's own module.

Rendering puts this file beside every public model.

| metric | kind | labels | counts |
| --- | --- | --- | --- |
| `dyndet_requests_failed_total` | counter | model, reason | requests that got an error from this model |

Reasons: `bad_request`, `stage_failed`, `cancelled` (also: its own time was over), `refused` (a stage is not ready, or
the server stops), `internal`.
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
_LATER_S = 0.003


class CountingThread:
    """Makes calls of Triton's metrics a little later, while the next request is in its graphs.

    Each call is a message to the server and its answer. Only one thread may make them: the server (Triton 2.51)
    crashes if two threads change metrics at the same time. The thread sends nothing before its first job, so nothing
    while Triton still waits for the end of `initialize`.

    The thread never ends, and it holds the metrics: when a model is loaded again in place, the new instance holds
    metrics of the same name and labels before the old instance ends. If the old one gave its metrics back, the new one
    would count in freed memory, and the server would crash.
    """

    def __init__(self, *metrics: Any) -> None:
        self._metrics = metrics
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="metrics", daemon=True).start()

    def later(self, job: Job) -> None:
        """Make the calls of a job soon, after those of earlier jobs."""
        self._jobs.put(job)

    def close(self, *, timeout_s: float = 10) -> None:
        """Wait until everything is counted."""
        counted = threading.Event()
        self._jobs.put(counted.set)
        if not counted.wait(timeout_s):
            pb_utils.Logger.log_warn(f"some metrics were not counted within {timeout_s:g} s")

    def _work(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            time.sleep(_LATER_S)
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            for job in jobs:
                try:
                    job()
                except Exception as error:
                    pb_utils.Logger.log_warn(f"a metric was not counted: {type(error).__name__}: {error}")


class FailedRequests:
    """Counts requests that got an error. Instances of one model share the values.

    Triton itself counts them as successes: to it, a Python model that returns an error has done its work.
    """

    def __init__(self, model: str) -> None:
        family = pb_utils.MetricFamily
        # Triton requires that families outlive their metrics.
        self._family = family("dyndet_requests_failed_total", "Requests that got an error, by reason", family.COUNTER)
        self._by_reason = {reason: self._family.Metric(labels={"model": model, "reason": reason}) for reason in REASONS}

    def count(self, reason: str) -> None:
        """Count a request; for the counting thread."""
        self._by_reason[reason].increment(1)
