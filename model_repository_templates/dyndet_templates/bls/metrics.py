"""The detector's own metrics, on Triton's metrics port.

| metric | kind | labels | counts |
| --- | --- | --- | --- |
| `dyndet_routed_total` | counter | model, route: easy, hard, fallback | images by the route that answered them |
| `dyndet_stage_errors_total` | counter | model, stage | calls of a stage that failed |
| `dyndet_difficulty` | histogram | model | difficulties, in twentieths |
| `dyndet_latency_ms` | histogram | model | time from taking up a request to its answer, without the queue before it |
| `dyndet_threshold` | gauge | model | threshold of requests that ask for none |
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import triton_python_backend_utils as pb_utils

ROUTES = ("easy", "hard", "fallback")


class Metrics:
    """Counts what the detector did. Instances of one model share the values."""

    def __init__(self, model: str, stages: Sequence[str], latency_buckets_ms: Sequence[float]) -> None:
        family, kind = pb_utils.MetricFamily, pb_utils.MetricFamily
        labels = {"model": model}
        # Triton asks that families outlive their metrics.
        self._families = {
            "routed": family("dyndet_routed_total", "Images by the route that answered them", kind.COUNTER),
            "errors": family("dyndet_stage_errors_total", "Calls of a stage that failed", kind.COUNTER),
            "threshold": family("dyndet_threshold", "Threshold of requests that ask for none", kind.GAUGE),
            "difficulty": family("dyndet_difficulty", "Difficulty of the images", kind.HISTOGRAM),
            "latency": family("dyndet_latency_ms", "Time inside the detector, without its queue", kind.HISTOGRAM),
        }
        self._routed = {route: self._families["routed"].Metric(labels={**labels, "route": route}) for route in ROUTES}
        self._errors = {stage: self._families["errors"].Metric(labels={**labels, "stage": stage}) for stage in stages}
        self._threshold = self._families["threshold"].Metric(labels=labels)
        self._difficulty = self._families["difficulty"].Metric(
            labels=labels, buckets=[step / 20 for step in range(1, 21)]
        )
        self._latency = self._families["latency"].Metric(labels=labels, buckets=list(latency_buckets_ms))

    def routed(self, route: str, difficulty: float) -> None:
        """Count an answered image."""
        self._routed[route].increment(1)
        if not math.isnan(difficulty):
            self._difficulty.observe(difficulty)

    def stage_failed(self, stage: str) -> None:
        """Count a failed call of a stage."""
        self._errors[stage].increment(1)

    def answered(self, latency_ms: float) -> None:
        """Note how long a request took."""
        self._latency.observe(latency_ms)

    def threshold_is(self, threshold: float) -> None:
        """Show the threshold in force."""
        self._threshold.set(threshold)

    def close(self) -> None:
        """Give the metrics back before their families."""
        self._routed.clear()
        self._errors.clear()
        del self._threshold, self._difficulty, self._latency
        self._families.clear()
