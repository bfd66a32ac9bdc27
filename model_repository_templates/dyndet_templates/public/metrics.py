"""The detector's own metrics, on Triton's metrics port.

| metric | kind | labels | counts |
| --- | --- | --- | --- |
| `dyndet_routed_total` | counter | model, route: easy, hard, fallback | images by the route that answered them |
| `dyndet_stage_errors_total` | counter | model, stage | calls of a stage that failed |
| `dyndet_stage_seconds_total` | counter | model, stage | topology `fused`: time in a stage's graph |
| `dyndet_difficulty` | histogram | model | difficulties, in twentieths |
| `dyndet_latency_ms` | histogram | model | time from the start of a request to its answer, without the queue before |
| `dyndet_threshold` | gauge | model | threshold of requests that set none |

Each call of Triton's metrics is a message to the server and its answer. So a thread makes the calls a little later,
while the next request is in its graphs.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import triton_python_backend_utils as pb_utils

ROUTES = ("easy", "hard", "fallback")
_LATER_S = 0.003


class Metrics:
    """Counts the work of the detector. Instances of one model share the values."""

    def __init__(self, model: str, stages: Sequence[str], latency_buckets_ms: Sequence[float]) -> None:
        family, kind = pb_utils.MetricFamily, pb_utils.MetricFamily
        labels = {"model": model}
        # Triton requires that families outlive their metrics.
        self._families = {
            "routed": family("dyndet_routed_total", "Images by the route that answered them", kind.COUNTER),
            "errors": family("dyndet_stage_errors_total", "Calls of a stage that failed", kind.COUNTER),
            "seconds": family("dyndet_stage_seconds_total", "Time in a stage's graph", kind.COUNTER),
            "threshold": family("dyndet_threshold", "Threshold of requests that set none", kind.GAUGE),
            "difficulty": family("dyndet_difficulty", "Difficulty of the images", kind.HISTOGRAM),
            "latency": family("dyndet_latency_ms", "Time inside the detector, without its queue", kind.HISTOGRAM),
        }
        self._routed = {route: self._families["routed"].Metric(labels={**labels, "route": route}) for route in ROUTES}
        self._errors = {stage: self._families["errors"].Metric(labels={**labels, "stage": stage}) for stage in stages}
        self._seconds = {stage: self._families["seconds"].Metric(labels={**labels, "stage": stage}) for stage in stages}
        self._threshold = self._families["threshold"].Metric(labels=labels)
        self._difficulty = self._families["difficulty"].Metric(
            labels=labels, buckets=[step / 20 for step in range(1, 21)]
        )
        self._latency = self._families["latency"].Metric(labels=labels, buckets=list(latency_buckets_ms))
        # Only one thread: the server crashes if two threads change metrics at the same time (Triton 2.51).
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._thread.start()

    def count(
        self, routed: Sequence[tuple[str, float]], latency_ms: float | None, failed_stages: Sequence[str]
    ) -> None:
        """Count a request: route and difficulty of its images, its latency if it was answered, and failed stages."""

        def job() -> None:
            for stage in failed_stages:
                self._errors[stage].increment(1)
            for _, difficulty in routed:
                if not math.isnan(difficulty):
                    self._difficulty.observe(difficulty)
            if latency_ms is not None:
                self._latency.observe(latency_ms)
            for route in ROUTES:  # last: a request that is counted here is counted everywhere
                images = sum(name == route for name, _ in routed)
                if images:
                    self._routed[route].increment(images)

        self._jobs.put(job)

    def spent(self, seconds: Mapping[str, float]) -> None:
        """Add to the time spent in the stages' graphs."""

        def job() -> None:
            for stage, time_s in seconds.items():
                self._seconds[stage].increment(time_s)

        self._jobs.put(job)

    def threshold_is(self, threshold: float) -> None:
        """Show the threshold in force."""
        self._jobs.put(lambda: self._threshold.set(threshold))

    def close(self) -> None:
        """Release the metrics before their families, after everything is counted."""
        self._jobs.put(None)
        self._thread.join()
        self._routed.clear()
        self._errors.clear()
        self._seconds.clear()
        del self._threshold, self._difficulty, self._latency
        self._families.clear()

    def _work(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            time.sleep(_LATER_S)
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            for job in jobs:
                if job is None:  # the last one
                    return
                try:
                    job()
                except Exception as error:
                    pb_utils.Logger.log_warn(f"a metric was not counted: {type(error).__name__}: {error}")
