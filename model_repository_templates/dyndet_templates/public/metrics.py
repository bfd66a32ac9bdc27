"""The detector's own metrics, on Triton's metrics port. `counting` has the counter of failed requests.

| metric | kind | labels | counts |
| --- | --- | --- | --- |
| `dyndet_routed_total` | counter | model, route: easy, hard, fallback | images by the route that answered them |
| `dyndet_stage_errors_total` | counter | model, stage | calls of a stage that failed |
| `dyndet_stage_seconds_total` | counter | model, stage | topology `fused`: time in a stage's graph |
| `dyndet_difficulty` | histogram | model | difficulties, in twentieths |
| `dyndet_latency_ms` | histogram | model | time from the start of a request to its answer, without the queue before |
| `dyndet_threshold` | gauge | model | threshold of requests that set none |
| `dyndet_requests_failed_total` | counter | model, reason | requests that got an error from this model |
| `dyndet_probed_total` | counter | model, route | images of probes (request parameter `dyndet_probe`) |
| `dyndet_due_total` | counter | model | images whose picture for detector 2 comes with another request |

Probes are counted nowhere else. Triton counts them with all other requests. Only pairs whose detectors fit pictures by
different rules have `dyndet_due_total`; the other request is the one that all other metrics count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils
from counting import CountingThread, FailedRequests  # type: ignore[import-not-found]

ROUTES = ("easy", "hard", "fallback")


class Metrics:
    """Counts the work of the detector. Instances of one model share the values."""

    def __init__(
        self,
        model: str,
        stages: Sequence[str],
        *,
        latency_buckets_ms: Sequence[float],
        threshold: float,
        has_due: bool = False,
    ) -> None:
        family, kind = pb_utils.MetricFamily, pb_utils.MetricFamily
        labels = {"model": model}
        # Triton requires that families outlive their metrics.
        self._families = {
            "routed": family("dyndet_routed_total", "Images by the route that answered them", kind.COUNTER),
            "probed": family("dyndet_probed_total", "Images of probes, by route", kind.COUNTER),
            "errors": family("dyndet_stage_errors_total", "Calls of a stage that failed", kind.COUNTER),
            "seconds": family("dyndet_stage_seconds_total", "Time in a stage's graph", kind.COUNTER),
            "threshold": family("dyndet_threshold", "Threshold of requests that set none", kind.GAUGE),
            "difficulty": family("dyndet_difficulty", "Difficulty of the images", kind.HISTOGRAM),
            "latency": family("dyndet_latency_ms", "Time inside the detector, without its queue", kind.HISTOGRAM),
        }
        self._routed = {route: self._families["routed"].Metric(labels={**labels, "route": route}) for route in ROUTES}
        self._probed = {route: self._families["probed"].Metric(labels={**labels, "route": route}) for route in ROUTES}
        self._errors = {stage: self._families["errors"].Metric(labels={**labels, "stage": stage}) for stage in stages}
        self._seconds = {stage: self._families["seconds"].Metric(labels={**labels, "stage": stage}) for stage in stages}
        if has_due:
            due = family("dyndet_due_total", "Images that come again for detector 2", kind.COUNTER)
            self._families["due"], self._due = due, due.Metric(labels=labels)
        self._threshold = self._families["threshold"].Metric(labels=labels)
        self._difficulty = self._families["difficulty"].Metric(
            labels=labels, buckets=[step / 20 for step in range(1, 21)]
        )
        self._latency = self._families["latency"].Metric(labels=labels, buckets=list(latency_buckets_ms))
        self._failed = FailedRequests(model)
        self._threshold.set(threshold)  # in this thread: see CountingThread
        self._thread = CountingThread(self)

    def answered(self, routed: Sequence[tuple[str, float]], latency_ms: float, failed_stages: Sequence[str]) -> None:
        """Count an answered request: route and difficulty of its images, its latency, and failed stages."""

        def job() -> None:
            self._count_stage_errors(failed_stages)
            for _, difficulty in routed:
                if 0 <= difficulty <= 1:  # not NaN; a caller may have sent any number
                    self._difficulty.observe(difficulty)
            self._latency.observe(latency_ms)
            for route in ROUTES:  # last: a request that is counted here is counted everywhere
                images = sum(name == route for name, _ in routed)
                if images:
                    self._routed[route].increment(images)

        self._thread.later(job)

    def probed(self, routes: Sequence[str]) -> None:
        """Count the images of a probe by their routes."""

        def job() -> None:
            for route in routes:
                self._probed[route].increment(1)

        self._thread.later(job)

    def due(self, images: int) -> None:
        """Count images whose picture for detector 2 is still to come."""
        if images:
            self._thread.later(lambda: self._due.increment(images))

    def failed(self, reason: str, failed_stages: Sequence[str]) -> None:
        """Count a request that got an error."""

        def job() -> None:
            self._count_stage_errors(failed_stages)
            self._failed.count(reason)

        self._thread.later(job)

    def spent(self, seconds: Mapping[str, float]) -> None:
        """Add to the time spent in the stages' graphs."""

        def job() -> None:
            for stage, time_s in seconds.items():
                self._seconds[stage].increment(time_s)

        self._thread.later(job)

    def threshold_is(self, threshold: float) -> None:
        """Show the threshold in force."""
        self._thread.later(lambda: self._threshold.set(threshold))

    def close(self) -> None:
        """Wait until everything is counted."""
        self._thread.close()

    def _count_stage_errors(self, stages: Sequence[str]) -> None:
        for stage in stages:
            self._errors[stage].increment(1)
