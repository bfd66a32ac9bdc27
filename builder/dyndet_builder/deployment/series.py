"""Recorded series and alerts as data, and the PromQL that alerts, the dashboard and the autoscaler share."""

from __future__ import annotations

from dataclasses import dataclass

from dyndet_builder.bundle.manifest import ALL_STAGES
from dyndet_builder.quoting import pattern, promql
from dyndet_builder.repository.rendered import Rendered
from dyndet_builder.server.remote.models import stage_name

WINDOW = "5m"
"""of rates"""
_SHARE_WINDOW = "30m"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A recorded series."""

    name: str
    expr: str


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Fires when `value` has been beyond its limit for some time."""

    name: str
    value: str
    """PromQL that has data whenever the server serves, except with `needs_gpu`"""
    beyond: str
    """the comparison, such as `> 12`"""
    lasts: str
    severity: str
    summary: str
    """a Go template, as `description`"""
    description: str
    needs_gpu: bool = False

    @property
    def expr(self) -> str:
        """The whole condition."""
        return f"{self.value} {self.beyond}"


def records(deployed: Rendered, job: str) -> tuple[Record, ...]:
    """The series that alerts need."""
    mine = of_detector(deployed, job)
    answered = f"sum by (job) (rate(nv_inference_request_success{{{mine}}}[{WINDOW}]))"
    asked = f"{answered} + sum by (job) (rate(nv_inference_request_failure{{{mine}}}[{WINDOW}]))"
    routed = f"sum by (job) (increase(dyndet_routed_total{{{mine}}}[{_SHARE_WINDOW}]))"
    hard = f'sum by (job) (increase(dyndet_routed_total{{{mine},route!="easy"}}[{_SHARE_WINDOW}]))'
    fallback = f'sum by (job) (rate(dyndet_routed_total{{{mine},route="fallback"}}[{WINDOW}]))'
    images = f"sum by (job) (rate(dyndet_routed_total{{{mine}}}[{WINDOW}]))"
    spent = f"sum by (job) (rate(nv_inference_request_duration_us{{{mine}}}[{WINDOW}]))"
    waits = queue_ms(deployed, where=f"job={promql(job)}", by="job", window=WINDOW)
    return (
        Record(name="dyndet:requests:rate5m", expr=answered),
        Record(name="dyndet:asked:rate5m", expr=asked),
        Record(name="dyndet:failures:rate5m", expr=failures(mine, f"[{WINDOW}]", by="job, reason")),
        Record(name="dyndet:mean_ms:rate5m", expr=larger(f"{spent} / ({answered} > 0) / 1000", mean_ms(mine, WINDOW))),
        Record(name="dyndet:queue_ms:avg5m", expr=waits),
        Record(name="dyndet:inside_p50_ms:rate5m", expr=quantile_ms(0.5, mine, WINDOW)),
        Record(name="dyndet:inside_p99_ms:rate5m", expr=quantile_ms(0.99, mine, WINDOW)),
        Record(name="dyndet:images:increase30m", expr=routed),
        Record(name="dyndet:hard_share:increase30m", expr=f"{hard} / ({routed} > 0)"),
        Record(name="dyndet:fallback_share:rate5m", expr=f"{fallback} / ({images} > 0)"),
        *_under_load(mine, images),
    )


def _under_load(mine: str, images: str) -> tuple[Record, ...]:
    degraded = f'sum by (job) (rate(dyndet_routed_total{{{mine},route="degraded"}}[{WINDOW}]))'
    late, offered = (
        f"sum by (job) (rate(dyndet_{name}_total{{{mine}}}[{WINDOW}]))" for name in ("deadline_missed", "arrivals")
    )
    return (
        Record(name="dyndet:degraded_share:rate5m", expr=f"{degraded} / ({images} > 0)"),
        Record(name="dyndet:late_share:rate5m", expr=f"{late} / ({offered} > 0)"),
        Record(name="dyndet:queue:max5m", expr=f"max by (job) (max_over_time(dyndet_queue{{{mine}}}[{WINDOW}]))"),
        Record(
            name="dyndet:threshold:avg5m", expr=f"avg by (job) (avg_over_time(dyndet_threshold{{{mine}}}[{WINDOW}]))"
        ),
        Record(
            name="dyndet:threshold:max30m",
            expr=f"max by (job) (max_over_time(dyndet_threshold{{{mine}}}[{_SHARE_WINDOW}]))",
        ),
    )


def queue_ms(deployed: Rendered, *, where: str, by: str, window: str) -> str:
    """PromQL: how long a request waits for an instance now, milliseconds; 0 without requests.

    By Little's law, from the requests that wait, in Triton's queues and in the detector's own, and those that are
    answered: Triton's own queueing time counts a request only when it leaves the queue, so it shows a growing queue too
    late, and a stuck one never. The stages count, too: while their requests wait, their callers wait. Those of a pushed
    build can be in either of two slots.
    """
    pushed = (stage_name(deployed.model, stage, "b") for stage in _stages(deployed))
    models, model = promql(pattern(*deployed.models, *pushed)), promql(deployed.model)
    waiting = f"sum by ({by}) (avg_over_time(nv_inference_pending_request_count{{{where},model=~{models}}}[{window}]))"
    answered = f"sum by ({by}) (rate(nv_inference_request_success{{{where},model={model}}}[{window}]))"
    own = f"sum by ({by}) (avg_over_time(dyndet_queue{{{where},model={model}}}[{window}]))"
    return f"1000 * ({waiting} + ({own} or 0 * {waiting})) / clamp_min({answered}, 0.001)"


def mean_ms(mine: str, window: str) -> str:
    """PromQL: mean time from the arrival of a request at the detector, with its queue, to its answer."""
    spent, count = (f"sum by (job) (rate(dyndet_latency_ms_{what}{{{mine}}}[{window}]))" for what in ("sum", "count"))
    return f"{spent} / ({count} > 0)"


def quantile_ms(level: float, mine: str, window: str) -> str:
    """PromQL: a percentile of the same time."""
    buckets = f"sum by (job, le) (rate(dyndet_latency_ms_bucket{{{mine}}}[{window}]))"
    return f"histogram_quantile({level:.6g}, {buckets})"


def larger(one: str, other: str) -> str:
    """PromQL: the larger of two values of the same labels.

    Triton's own latencies end when the detector takes a request into its queue, and the detector's begin there.
    """
    return f"(({one}) > ({other}) or ({other}))"


def _stages(deployed: Rendered) -> tuple[str, ...]:
    """The stages that are models of their own."""
    return tuple(stage for stage in ALL_STAGES if f"{deployed.model}_{stage}" in deployed.models)


def failures(mine: str, window: str, *, by: str) -> str:
    """PromQL: failed requests a second by reason.

    The detector's own reasons are small letters. Triton counts the errors of a Python model as answers, so its own
    reasons, in capitals, are those of requests that never reached the detector, or whose process died.
    """
    own = f"sum by ({by}) (rate(dyndet_requests_failed_total{{{mine}}}{window}))"
    return f"({own} or sum by ({by}) (rate(nv_inference_request_failure{{{mine}}}{window})))"


def of_detector(deployed: Rendered, job: str) -> str:
    """The labels of the detector's series."""
    return f"job={promql(job)},model={promql(deployed.model)}"


def recorded(name: str, job: str) -> str:
    """A recorded series of this deployment; another one of the same Prometheus has its own."""
    return f"dyndet:{name}{{job={promql(job)}}}"


def share_alert(
    job: str, name: str, reasons: str, most: float, *, severity: str, summary: str, description: str
) -> Alert:
    """An alert on the share of all requests that fail for certain reasons."""
    some = f'sum by (job) (dyndet:failures:rate5m{{job={promql(job)},reason=~"{reasons}"}})'
    asked = recorded("asked:rate5m", job)
    return Alert(
        name=name,
        value=f"({some} or 0 * {asked}) / ({asked} > 0)",
        beyond=f"> {most:g}",
        lasts="5m",
        severity=severity,
        summary=summary,
        description=f"{{{{ $value | humanizePercentage }}}} {description}",
    )
