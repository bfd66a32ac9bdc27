"""The detector's own metrics, on Triton's metrics port. `counting` has the counter of failed requests and the length of the queue.

| metric | kind | labels | counts |
| --- | --- | --- | --- |
| `dyndet_routed_total` | counter | model, route: easy, hard, fallback, degraded | images by the route that answered them |
| `dyndet_stage_errors_total` | counter | model, stage | calls of a stage that failed |
| `dyndet_stage_seconds_total` | counter | model, stage | topology `fused`: time in a stage's graph |
| `dyndet_difficulty` | histogram | model | difficulties, in twentieths |
| `dyndet_latency_ms` | histogram | model | time from a request's arrival in the detector's own queue to its answer |
| `dyndet_threshold` | gauge | model | threshold in force of requests that set none |
| `dyndet_gear` | gauge | model | share of images that the load leaves to detector 2, 0 to 1 |
| `dyndet_arrivals_total` | counter | model | requests offered |
| `dyndet_deadline_missed_total` | counter | model | requests answered after their deadline |
| `dyndet_waited_ms_total` | counter | model | time that answered requests waited in the detector's queue |
| `dyndet_tenant_routed_total` | counter | model, tenant, route: also refused | images of the tenants of `operating_points.json`, all others as `other` |
| `dyndet_probed_total` | counter | model, route | images of probes (request parameter `dyndet_probe`) |
| `dyndet_due_total` | counter | model | images whose picture for detector 2 comes with another request |

Probes are counted nowhere else. Triton counts them with all other requests. Only pairs whose detectors fit pictures by
different rules have `dyndet_due_total`; the other request is the one that all other metrics count.
"""  # noqa: E501 - a row of a table is one line

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import triton_python_backend_utils as pb_utils
from counting import CountingThread, FailedRequests, QueueLength  # type: ignore[import-not-found]

ROUTES = ("easy", "hard", "fallback", "degraded")
REFUSED = "refused"


@dataclass(frozen=True)
class Showing:
    """What the gauges show."""

    threshold: float
    gear: float
    queue: int


class Metrics:
    """Counts the work of the detector. Instances of one model share the values."""

    def __init__(
        self,
        model: str,
        stages: Sequence[str],
        *,
        latency_buckets_ms: Sequence[float],
        showing: Callable[[], Showing],
        has_due: bool = False,
    ) -> None:
        """`showing` says what the gauges show now."""
        kind = pb_utils.MetricFamily
        # Triton requires that families outlive their metrics.
        self._families: list[Any] = []

        def family(name: str, text: str, of: Any = kind.COUNTER) -> Any:
            self._families.append(pb_utils.MetricFamily(name, text, of))
            return self._families[-1]

        def by(name: str, text: str, label: str, values: Sequence[str]) -> dict[str, Any]:
            found = family(name, text)
            return {value: found.Metric(labels={**labels, label: value}) for value in values}

        self._labels = labels = {"model": model}
        self._routed = by("dyndet_routed_total", "Images by the route that answered them", "route", ROUTES)
        self._probed = by("dyndet_probed_total", "Images of probes, by route", "route", ROUTES)
        self._errors = by("dyndet_stage_errors_total", "Calls of a stage that failed", "stage", stages)
        self._seconds = by("dyndet_stage_seconds_total", "Time in a stage's graph", "stage", stages)
        self._arrivals = family("dyndet_arrivals_total", "Requests offered").Metric(labels=labels)
        self._missed = family("dyndet_deadline_missed_total", "Requests answered too late").Metric(labels=labels)
        self._waited = family("dyndet_waited_ms_total", "Time of answered requests in the queue").Metric(labels=labels)
        self._tenants = family("dyndet_tenant_routed_total", "Images of tenants, by route")
        self._by_tenant: dict[tuple[str, str], Any] = {}
        if has_due:
            self._due = family("dyndet_due_total", "Images that come again for detector 2").Metric(labels=labels)
        self._difficulty = family("dyndet_difficulty", "Difficulty of the images", kind.HISTOGRAM).Metric(
            labels=labels, buckets=[step / 20 for step in range(1, 21)]
        )
        self._latency = family("dyndet_latency_ms", "Time inside the detector, with its queue", kind.HISTOGRAM).Metric(
            labels=labels, buckets=list(latency_buckets_ms)
        )
        self._failed = FailedRequests(model)
        self._gauges = _Gauges(
            threshold=family("dyndet_threshold", "Threshold in force of requests that set none", kind.GAUGE).Metric(
                labels=labels
            ),
            gear=family("dyndet_gear", "Share of images that the load leaves to detector 2", kind.GAUGE).Metric(
                labels=labels
            ),
            queue=QueueLength(model, lambda: showing().queue),
            showing=showing,
        )
        self._gauges.show()  # in this thread: see CountingThread
        self._thread = CountingThread(self, watch=self._gauges.show)

    def answered(
        self,
        routed: Sequence[tuple[str, float]],
        latency_ms: float,
        failed_stages: Sequence[str],
        *,
        tenant: str | None = None,
        late: bool = False,
        waited_ms: float = 0.0,
    ) -> None:
        """Count an answered request: route and difficulty of its images, its latency, failed stages and lateness.

        `waited_ms` is the part of the latency that it waited in the queue.

        `tenant` is the label under which its images are counted; None: they are counted under none.
        """

        def job() -> None:
            self._count_stage_errors(failed_stages)
            self._thread.add(self._arrivals)
            if late:
                self._thread.add(self._missed)
            if waited_ms:
                self._thread.add(self._waited, waited_ms)
            for _, difficulty in routed:
                if 0 <= difficulty <= 1:  # not NaN; a caller may have sent any number
                    self._difficulty.observe(difficulty)
            self._latency.observe(latency_ms)
            images = Counter(name for name, _ in routed)
            for route, count in images.items() if tenant is not None else ():
                self._count_tenant(str(tenant), route, count)
            for route, count in images.items():  # last: a request that is counted here is counted everywhere
                self._thread.add(self._routed[route], count)

        self._thread.later(job)

    def probed(self, routes: Sequence[str]) -> None:
        """Count the images of a probe by their routes."""

        def job() -> None:
            for route in routes:
                self._thread.add(self._probed[route])

        self._thread.later(job)

    def due(self, images: int) -> None:
        """Count images whose picture for detector 2 is still to come."""
        if images:
            self._thread.later(lambda: self._thread.add(self._due, images))

    def failed(self, reason: str, failed_stages: Sequence[str], *, tenant: str | None = None, images: int = 0) -> None:
        """Count a request that got an error; `tenant` as in `answered`, for one that was refused to save time."""

        def job() -> None:
            self._count_stage_errors(failed_stages)
            self._thread.add(self._arrivals)
            if tenant is not None:
                self._count_tenant(tenant, REFUSED, images)
            self._thread.add(self._failed.counter(reason))

        self._thread.later(job)

    def spent(self, seconds: Mapping[str, float]) -> None:
        """Add to the time spent in the stages' graphs."""

        def job() -> None:
            for stage, time_s in seconds.items():
                self._thread.add(self._seconds[stage], time_s)

        self._thread.later(job)

    def show(self) -> None:
        """Let the gauges show soon what has changed."""
        self._thread.show()

    def close(self) -> None:
        """Wait until everything is counted."""
        self._thread.later(self._gauges.leave)
        self._thread.close()

    def _count_tenant(self, tenant: str, route: str, images: int) -> None:
        counter = self._by_tenant.get((tenant, route))
        if counter is None:
            counter = self._tenants.Metric(labels={**self._labels, "tenant": tenant, "route": route})
            self._by_tenant[tenant, route] = counter
        self._thread.add(counter, images)

    def _count_stage_errors(self, stages: Sequence[str]) -> None:
        for stage in stages:
            self._thread.add(self._errors[stage])


class _Gauges:
    """Values that are shown, not counted; each call costs a message to the server, so only what changed is shown."""

    def __init__(self, *, threshold: Any, gear: Any, queue: QueueLength, showing: Callable[[], Showing]) -> None:
        self._threshold, self._gear, self._queue = threshold, gear, queue
        self._showing = showing
        self._shown: dict[Any, float] = {}

    def show(self) -> None:
        """Show what has changed."""
        now = self._showing()
        for gauge, value in ((self._threshold, now.threshold), (self._gear, now.gear)):
            if self._shown.get(gauge) != value:
                gauge.set(value)
                self._shown[gauge] = value
        self._queue.show()

    def leave(self) -> None:
        """Take away what this instance has added to sums of all instances."""
        self._queue.leave()
