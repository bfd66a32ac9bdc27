"""The series that Prometheus records, and the alerts: each alert compares a recorded series with a limit.

Some limits come from the calibration. Without one, or if the promise is not a latency, the alerts with these limits are
left out and a note says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dyndet_bench.measuring.statistic import Statistic
from dyndet_builder.bundle.manifest import ALL_STAGES
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.operating_points import OperatingPoint
from dyndet_builder.quoting import go_template, pattern, promql
from dyndet_builder.repository.rendered import Rendered
from dyndet_builder.server.remote.models import stage_name

_WINDOW = "5m"
_SHARE_WINDOW = "30m"
_LEAST_IMAGES = 200
_SLACK = 1.1  # a calibration meets its target within 3 to 8 %
_GPU_MEMORY = 0.95
_FAILED, _REFUSED, _GAVE_UP = "stage_failed|internal|BACKEND|OTHER", "refused|REJECTED", "cancelled|CANCELED"
_BAD = "bad_request"


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


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The rules for Prometheus, and notes about the alerts that were left out."""

    records: tuple[Record, ...]
    alerts: tuple[Alert, ...]
    notes: tuple[str, ...]


def watched(deployed: Rendered, options: DeployOptions, *, job: str) -> Watched:
    """The series and alerts of a deployment; `job` is Prometheus' name for its servers."""
    point = deployed.default_point
    promise, promise_note = _promise(deployed, options, point, job)
    drift, drift_note = _drift(deployed, point, job)
    tail = _tail(point, job)
    alerts = (*promise, *tail, *drift, *_failures(deployed, job), *_resources(deployed, options, job))
    return Watched(
        records=_records(deployed, job),
        alerts=alerts,
        notes=tuple(note for note in (promise_note, drift_note) if note),
    )


def queue_target_ms(deployed: Rendered, options: DeployOptions) -> float:
    """Mean wait above which replicas are added: half the time of a request, as at a server that is half busy."""
    mean = deployed.default_point.mean_ms
    return options.queue_target_ms or (5.0 if mean is None else max(1.0, round(mean / 2, 1)))


def queue_ms(deployed: Rendered, *, where: str, by: str, window: str) -> str:
    """PromQL: how long a request waits for an instance now, milliseconds; 0 without requests.

    By Little's law, from the requests that wait and those that are answered: Triton's own queueing time counts a
    request only when it leaves the queue, so it shows a growing queue too late, and a stuck one never. The stages
    count, too: while their requests wait, their callers wait. Those of a pushed build can be in either of two slots.
    """
    pushed = (stage_name(deployed.model, stage, "b") for stage in _stages(deployed))
    models, model = promql(pattern(*deployed.models, *pushed)), promql(deployed.model)
    waiting = f"sum by ({by}) (avg_over_time(nv_inference_pending_request_count{{{where},model=~{models}}}[{window}]))"
    answered = f"sum by ({by}) (rate(nv_inference_request_success{{{where},model={model}}}[{window}]))"
    return f"1000 * {waiting} / clamp_min({answered}, 0.001)"


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


def _records(deployed: Rendered, job: str) -> tuple[Record, ...]:
    mine = _mine(deployed, job)
    answered = f"sum by (job) (rate(nv_inference_request_success{{{mine}}}[{_WINDOW}]))"
    asked = f"{answered} + sum by (job) (rate(nv_inference_request_failure{{{mine}}}[{_WINDOW}]))"
    routed = f"sum by (job) (increase(dyndet_routed_total{{{mine}}}[{_SHARE_WINDOW}]))"
    hard = f'sum by (job) (increase(dyndet_routed_total{{{mine},route!="easy"}}[{_SHARE_WINDOW}]))'
    fallback = f'sum by (job) (rate(dyndet_routed_total{{{mine},route="fallback"}}[{_WINDOW}]))'
    images = f"sum by (job) (rate(dyndet_routed_total{{{mine}}}[{_WINDOW}]))"
    spent = f"sum by (job) (rate(nv_inference_request_duration_us{{{mine}}}[{_WINDOW}]))"
    waits = queue_ms(deployed, where=f"job={promql(job)}", by="job", window=_WINDOW)
    buckets = f"sum by (job, le) (rate(dyndet_latency_ms_bucket{{{mine}}}[{_WINDOW}]))"
    return (
        Record(name="dyndet:requests:rate5m", expr=answered),
        Record(name="dyndet:asked:rate5m", expr=asked),
        Record(name="dyndet:failures:rate5m", expr=failures(mine, f"[{_WINDOW}]", by="job, reason")),
        Record(name="dyndet:mean_ms:rate5m", expr=f"{spent} / ({answered} > 0) / 1000"),
        Record(name="dyndet:queue_ms:avg5m", expr=waits),
        Record(name="dyndet:inside_p50_ms:rate5m", expr=f"histogram_quantile(0.5, {buckets})"),
        Record(name="dyndet:inside_p99_ms:rate5m", expr=f"histogram_quantile(0.99, {buckets})"),
        Record(name="dyndet:images:increase30m", expr=routed),
        Record(name="dyndet:hard_share:increase30m", expr=f"{hard} / ({routed} > 0)"),
        Record(name="dyndet:fallback_share:rate5m", expr=f"{fallback} / ({images} > 0)"),
    )


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A promised latency."""

    statistic: str
    goal_ms: float
    text: str
    """as it was given, such as p99:20ms"""


def promise_of(deployed: Rendered, options: DeployOptions) -> Promise | None:
    """The promise to watch: the one in the options, or that of the default operating point; None: not a latency."""
    given, point = options.promised(), deployed.default_point
    if given is not None:
        return Promise(statistic=given.statistic.name, goal_ms=given.value, text=given.text)
    if point.goal is None or point.unit != "ms" or point.statistic is None:
        return None
    return Promise(statistic=point.statistic, goal_ms=point.goal, text=point.target or f"{point.goal:g}ms")


def _promise(
    deployed: Rendered, options: DeployOptions, point: OperatingPoint, job: str
) -> tuple[tuple[Alert, ...], str | None]:
    promise = promise_of(deployed, options)
    if promise is None and point.goal is not None:
        return (), (
            f"the operating point {deployed.points.default!r} promises a throughput, which a server without load "
            "cannot show, so no alert watches it; give a latency to watch with --promise"
        )
    if promise is None:
        return (), (
            "the repository is uncalibrated, so no alert watches a promise; run `dyndet calibrate` and render the "
            "deployment again, or give --promise"
        )
    statistic, goal, text = promise.statistic, promise.goal_ms, promise.text
    level = Statistic(statistic).level
    if level is None:
        value = _recorded("mean_ms:rate5m", job)
    else:
        quantile = f"{level:.6g}"
        value = f'max by (job) (nv_inference_request_summary_us{{{_mine(deployed, job)},quantile="{quantile}"}}) / 1000'
    alert = Alert(
        name="DyndetPromiseBroken",
        value=value,
        beyond=f"> {goal * _SLACK:.6g}",
        lasts="5m",
        severity="critical",
        summary=f"{statistic} latency of {go_template(deployed.model)} is above its promise, {go_template(text)}",
        description=(
            f'Inside the server, with its queue, requests take {{{{ $value | printf "%.1f" }}}} ms ({statistic}); '
            f"the promise is {goal:g} ms. If requests queue, add replicas. If they do not, lower the hard share."
        ),
    )
    return (alert,), None


def _tail(point: OperatingPoint, job: str) -> tuple[Alert, ...]:
    measured = (point.percentiles_ms or {}).get("p99")
    if measured is None:
        return ()
    return (
        Alert(
            name="DyndetTailSlow",
            value=_recorded("inside_p99_ms:rate5m", job),
            beyond=f"> {2 * measured:.6g}",
            lasts="10m",
            severity="warning",
            summary="p99 latency is more than twice what the calibration measured",
            description=(
                'p99 without the queue is {{ $value | printf "%.1f" }} ms; the calibration measured '
                f"{measured:.4g} ms. Other work runs on this machine, or it is slower than the calibrated one."
            ),
        ),
    )


def _drift(deployed: Rendered, point: OperatingPoint, job: str) -> tuple[tuple[Alert, ...], str | None]:
    evidence = deployed.points.evidence
    if point.easy_share is None or evidence is None:
        return (), "the repository is uncalibrated, so no alert watches the share of hard images"
    hard = 1 - point.easy_share
    # Three standard errors of the share on the held-out images, but at least 10 percentage points.
    room = max(0.1, 3 * math.sqrt(hard * (1 - hard) / max(1, evidence.held_out_images)))
    alert = Alert(
        name="DyndetHardShareDrift",
        value=f"abs({_recorded('hard_share:increase30m', job)} - {hard:.4g})",
        beyond=f"> {room:.4g} and {_recorded('images:increase30m', job)} > {_LEAST_IMAGES}",
        lasts="15m",
        severity="warning",
        summary="the share of hard images differs from the calibrated share",
        description=(
            f'The calibrated share is {hard:.0%}; the last half hour differs by {{{{ $value | printf "%.2f" }}}}. '
            "The images have changed, or clients choose their own thresholds. Calibrate again with recent images."
        ),
    )
    return (alert,), None


def _failures(deployed: Rendered, job: str) -> tuple[Alert, ...]:
    mine = _mine(deployed, job)
    return (
        Alert(
            name="DyndetFallback",
            value=_recorded("fallback_share:rate5m", job),
            beyond="> 0.01",
            lasts="5m",
            severity="warning",
            summary="images fall back to detector 1",
            description="More than 1 % of the images needed detector 2 but got the objects of detector 1.",
        ),
        Alert(
            name="DyndetStageErrors",
            value=f"sum by (job, stage) (increase(dyndet_stage_errors_total{{{mine}}}[{_WINDOW}]))",
            beyond="> 0",
            lasts="2m",
            severity="warning",
            summary="stage {{ $labels.stage }} fails",
            description="The server's log has the reason.",
        ),
        _share(
            job,
            "DyndetRequestsFail",
            _FAILED,
            0.01,
            severity="critical",
            summary=f"requests to {go_template(deployed.model)} fail",
            description="of the requests fail inside the server. Its log has the reason.",
        ),
        _share(
            job,
            "DyndetRequestsRefused",
            _REFUSED,
            0.01,
            severity="critical",
            summary=f"{go_template(deployed.model)} refuses requests",
            description="of the requests are refused: they waited too long, or the server stops. Add replicas.",
        ),
        _share(
            job,
            "DyndetClientsGiveUp",
            _GAVE_UP,
            0.05,
            severity="warning",
            summary="clients give up before they get an answer",
            description="of the requests are cancelled, or their deadline passes. Their time-outs are too short.",
        ),
        _share(
            job,
            "DyndetBadRequests",
            _BAD,
            0.05,
            severity="warning",
            summary="clients send requests that cannot be answered",
            description="of the requests are invalid. A client is wrong; its errors say why.",
        ),
    )


def _share(job: str, name: str, reasons: str, most: float, *, severity: str, summary: str, description: str) -> Alert:
    """An alert on the share of all requests that fail for certain reasons."""
    some = f'sum by (job) (dyndet:failures:rate5m{{job={promql(job)},reason=~"{reasons}"}})'
    asked = _recorded("asked:rate5m", job)
    return Alert(
        name=name,
        value=f"({some} or 0 * {asked}) / ({asked} > 0)",
        beyond=f"> {most:g}",
        lasts="5m",
        severity=severity,
        summary=summary,
        description=f"{{{{ $value | humanizePercentage }}}} {description}",
    )


def _resources(deployed: Rendered, options: DeployOptions, job: str) -> tuple[Alert, ...]:
    limit, mine = 4 * queue_target_ms(deployed, options), f"job={promql(job)}"
    found = [
        Alert(
            name="DyndetQueueing",
            value=_recorded("queue_ms:avg5m", job),
            beyond=f"> {limit:.6g}",
            lasts="10m",
            severity="warning",
            summary="requests wait for a free instance",
            description=(
                'On average a request waits {{ $value | printf "%.1f" }} ms, more than four times the target of '
                "autoscaling. Autoscaling is at its limit, or off. Add replicas."
            ),
        ),
        Alert(
            name="DyndetNoScrape",
            value=f"(sum(up{{job={promql(job)}}}) or vector(0))",
            beyond="== 0",
            lasts="3m",
            severity="critical",
            summary="no server answers a scrape",
            description="Every server is down, or the scrape configuration is wrong.",
        ),
    ]
    if deployed.gpus:
        found.append(
            Alert(
                name="DyndetGpuMemory",
                value=f"nv_gpu_memory_used_bytes{{{mine}}} / (nv_gpu_memory_total_bytes{{{mine}}} > 0)",
                beyond=f"> {_GPU_MEMORY}",
                lasts="10m",
                severity="warning",
                summary="GPU memory of {{ $labels.instance }} is nearly used up",
                description="Fewer instances, smaller batches or half precision need less.",
                needs_gpu=True,
            )
        )
    return tuple(found)


def _mine(deployed: Rendered, job: str) -> str:
    return f"job={promql(job)},model={promql(deployed.model)}"


def _recorded(name: str, job: str) -> str:
    """A recorded series of this deployment; another one of the same Prometheus has its own."""
    return f"dyndet:{name}{{job={promql(job)}}}"
