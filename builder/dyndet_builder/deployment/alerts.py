"""The series that Prometheus records, and the alerts: each alert compares a recorded series with a limit.

Some limits come from the calibration. Without one, or if the promise is not a latency, the alerts with these limits are
left out and a note says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.operating_points import OperatingPoint
from dyndet_builder.repository.rendered import Rendered

_WINDOW = "5m"
_SHARE_WINDOW = "30m"
_LEAST_IMAGES = 200
_SLACK = 1.1  # a calibration meets its target within 3 to 8 %
_GPU_MEMORY = 0.95


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


def _records(deployed: Rendered, job: str) -> tuple[Record, ...]:
    mine = _mine(deployed, job)
    models = "|".join(name.replace(".", "[.]") for name in deployed.models)
    answered = f"sum by (job) (rate(nv_inference_request_success{{{mine}}}[{_WINDOW}]))"
    routed = f"sum by (job) (increase(dyndet_routed_total{{{mine}}}[{_SHARE_WINDOW}]))"
    hard = f'sum by (job) (increase(dyndet_routed_total{{{mine},route!="easy"}}[{_SHARE_WINDOW}]))'
    fallback = f'sum by (job) (rate(dyndet_routed_total{{{mine},route="fallback"}}[{_WINDOW}]))'
    images = f"sum by (job) (rate(dyndet_routed_total{{{mine}}}[{_WINDOW}]))"
    spent = f"sum by (job) (rate(nv_inference_request_duration_us{{{mine}}}[{_WINDOW}]))"
    # The stages count, too: while their requests wait, their callers wait.
    waited = f'sum by (job) (rate(nv_inference_queue_duration_us{{job="{job}",model=~"{models}"}}[{_WINDOW}]))'
    buckets = f"sum by (job, le) (rate(dyndet_latency_ms_bucket{{{mine}}}[{_WINDOW}]))"
    return (
        Record(name="dyndet:requests:rate5m", expr=answered),
        Record(name="dyndet:mean_ms:rate5m", expr=f"{spent} / ({answered} > 0) / 1000"),
        Record(name="dyndet:queue_ms:rate5m", expr=f"{waited} / ({answered} > 0) / 1000"),
        Record(name="dyndet:inside_p50_ms:rate5m", expr=f"histogram_quantile(0.5, {buckets})"),
        Record(name="dyndet:inside_p99_ms:rate5m", expr=f"histogram_quantile(0.99, {buckets})"),
        Record(name="dyndet:images:increase30m", expr=routed),
        Record(name="dyndet:hard_share:increase30m", expr=f"{hard} / ({routed} > 0)"),
        Record(name="dyndet:fallback_share:rate5m", expr=f"{fallback} / ({images} > 0)"),
    )


def _promise(
    deployed: Rendered, options: DeployOptions, point: OperatingPoint, job: str
) -> tuple[tuple[Alert, ...], str | None]:
    given = options.promised()
    if given is not None:
        statistic, goal, text = given.statistic.name, given.value, given.text
    elif point.goal is not None and point.unit == "ms" and point.statistic is not None:
        statistic, goal, text = point.statistic, point.goal, point.target or f"{point.goal:g}ms"
    elif point.goal is not None:
        return (), (
            f"the operating point {deployed.points.default!r} promises a throughput, which a server without load "
            "cannot show, so no alert watches it; give a latency to watch with --promise"
        )
    else:
        return (), (
            "the repository is uncalibrated, so no alert watches a promise; run `dyndet calibrate` and render the "
            "deployment again, or give --promise"
        )
    if statistic == "mean":
        value = _recorded("mean_ms:rate5m", job)
    else:
        quantile = f"{float(statistic[1:]) / 100:.6g}"
        value = f'max by (job) (nv_inference_request_summary_us{{{_mine(deployed, job)},quantile="{quantile}"}}) / 1000'
    alert = Alert(
        name="DyndetPromiseBroken",
        value=value,
        beyond=f"> {goal * _SLACK:.6g}",
        lasts="5m",
        severity="critical",
        summary=f"{statistic} latency of {deployed.model} is above its promise, {text}",
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
    failed = f'nv_inference_request_failure{{{mine},reason=~"BACKEND|OTHER|REJECTED"}}'
    failing = f"sum by (job) (rate({failed}[{_WINDOW}]))"
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
        Alert(
            name="DyndetRequestsFail",
            value=failing,
            beyond=f"> 0.01 * ({_recorded('requests:rate5m', job)} + {failing})",
            lasts="5m",
            severity="critical",
            summary=f"requests to {deployed.model} fail",
            description="More than 1 % of the requests get an error; invalid requests count, too.",
        ),
    )


def _resources(deployed: Rendered, options: DeployOptions, job: str) -> tuple[Alert, ...]:
    limit = 4 * queue_target_ms(deployed, options)
    found = [
        Alert(
            name="DyndetQueueing",
            value=_recorded("queue_ms:rate5m", job),
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
            value=f'(sum(up{{job="{job}"}}) or vector(0))',
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
                value=f'nv_gpu_memory_used_bytes{{job="{job}"}} / (nv_gpu_memory_total_bytes{{job="{job}"}} > 0)',
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
    return f'job="{job}",model="{deployed.model}"'


def _recorded(name: str, job: str) -> str:
    """A recorded series of this deployment; another one of the same Prometheus has its own."""
    return f'dyndet:{name}{{job="{job}"}}'
