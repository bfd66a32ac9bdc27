"""The alerts of a deployment: each compares a series with a limit.

Some limits come from the calibration. Without one, or if the promise is not a latency, the alerts with these limits are
left out and a note says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from dyndet_builder.deployment.load_alerts import load_alerts
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.deployment.promise_alerts import drift_alerts, promise_alerts, tail_alerts
from dyndet_builder.deployment.scaling import queue_target_ms
from dyndet_builder.deployment.series import WINDOW, Alert, Record, of_detector, recorded, records, share_alert
from dyndet_builder.quoting import go_template, promql
from dyndet_builder.repository.rendered import Rendered

_GPU_MEMORY = 0.95
_FAILED, _REFUSED, _GAVE_UP = "stage_failed|internal|BACKEND|OTHER", "refused|REJECTED", "cancelled|CANCELED"
_BAD = "bad_request"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The rules for Prometheus, and notes about the alerts that were left out."""

    records: tuple[Record, ...]
    alerts: tuple[Alert, ...]
    notes: tuple[str, ...]


def watched(deployed: Rendered, options: DeployOptions, *, job: str) -> Watched:
    """The series and alerts of a deployment; `job` is Prometheus' name for its servers."""
    point = deployed.default_point
    promise, promise_note = promise_alerts(deployed, options, point, job)
    drift, drift_note = drift_alerts(deployed, point, job)
    alerts = (
        *promise,
        *tail_alerts(deployed, options, point, job),
        *drift,
        *load_alerts(deployed, point, job),
        *_failures(deployed, job),
        *_resources(deployed, options, job),
    )
    return Watched(
        records=records(deployed, job),
        alerts=alerts,
        notes=tuple(note for note in (promise_note, drift_note) if note),
    )


def _failures(deployed: Rendered, job: str) -> tuple[Alert, ...]:
    mine = of_detector(deployed, job)
    return (
        Alert(
            name="DyndetFallback",
            value=recorded("fallback_share:rate5m", job),
            beyond="> 0.01",
            lasts="5m",
            severity="warning",
            summary="images fall back to detector 1",
            description="More than 1 % of the images needed detector 2 but got the objects of detector 1.",
        ),
        Alert(
            name="DyndetStageErrors",
            value=f"sum by (job, stage) (increase(dyndet_stage_errors_total{{{mine}}}[{WINDOW}]))",
            beyond="> 0",
            lasts="2m",
            severity="warning",
            summary="stage {{ $labels.stage }} fails",
            description="The server's log has the reason.",
        ),
        share_alert(
            job,
            "DyndetRequestsFail",
            _FAILED,
            0.01,
            severity="critical",
            summary=f"requests to {go_template(deployed.model)} fail",
            description="of the requests fail inside the server. Its log has the reason.",
        ),
        share_alert(
            job,
            "DyndetRequestsRefused",
            _REFUSED,
            0.01,
            severity="critical",
            summary=f"{go_template(deployed.model)} refuses requests",
            description="of the requests are refused: they waited too long, or the server stops. Add replicas.",
        ),
        share_alert(
            job,
            "DyndetClientsGiveUp",
            _GAVE_UP,
            0.05,
            severity="warning",
            summary="clients give up before they get an answer",
            description="of the requests are cancelled, or their deadline passes. Their time-outs are too short.",
        ),
        share_alert(
            job,
            "DyndetBadRequests",
            _BAD,
            0.05,
            severity="warning",
            summary="clients send requests that cannot be answered",
            description="of the requests are invalid. A client is wrong; its errors say why.",
        ),
    )


def _resources(deployed: Rendered, options: DeployOptions, job: str) -> tuple[Alert, ...]:
    limit, mine = 4 * queue_target_ms(deployed, options), f"job={promql(job)}"
    if (follow := deployed.default_point.followed) is not None:
        limit = max(limit, follow.promise_ms / 2)  # waiting up to the promise is what the threshold allows
    found = [
        Alert(
            name="DyndetQueueing",
            value=recorded("queue_ms:avg5m", job),
            beyond=f"> {limit:.6g}",
            lasts="10m",
            severity="warning",
            summary="requests wait for a free instance",
            description=(
                f'On average a request waits {{{{ $value | printf "%.1f" }}}} ms, more than {limit:.6g} ms. '
                "Autoscaling is at its limit, or off. Add replicas."
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
