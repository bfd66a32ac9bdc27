"""Alerts on what gives way under load: accuracy first, then requests."""

from __future__ import annotations

import numpy as np

from dyndet_builder.deployment.series import Alert, recorded, share_alert
from dyndet_builder.operating_points import OperatingPoint
from dyndet_builder.quoting import go_template
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.rendered import Rendered

_OVERLOADED = "overloaded"
_MOST_REFUSED, _MOST_LATE, _MOST_DEGRADED = 0.01, 0.05, 0.05
_NEARLY_FULL = 0.8
_LOST = 0.2
"""share of the hard images; a threshold that loses more is raised for long"""


def load_alerts(deployed: Rendered, point: OperatingPoint, job: str) -> tuple[Alert, ...]:
    """Refused and late requests and a full queue concern every detector; a raised threshold, those that follow."""
    bound = _queue_bound(deployed)
    return (
        *_raised(deployed, point, job),
        Alert(
            name="DyndetDegraded",
            value=recorded("degraded_share:rate5m", job),
            beyond=f"> {_MOST_DEGRADED:g}",
            lasts="10m",
            severity="warning",
            summary="hard images get the answers of detector 1",
            description=(
                "{{ $value | humanizePercentage }} of the images needed detector 2, but their deadline or the budget "
                "of their tenant did not allow it. Add replicas, or allow more time."
            ),
        ),
        share_alert(
            job,
            "DyndetOverloaded",
            _OVERLOADED,
            _MOST_REFUSED,
            severity="critical",
            summary=f"{go_template(deployed.model)} cannot answer all requests in time",
            description="of the requests are refused: even detector 1 cannot answer them in time. Add replicas.",
        ),
        Alert(
            name="DyndetDeadlinesMissed",
            value=recorded("late_share:rate5m", job),
            beyond=f"> {_MOST_LATE:g}",
            lasts="5m",
            severity="critical",
            summary="accepted requests are answered too late",
            description=(
                "{{ $value | humanizePercentage }} of the requests are answered after their deadline. Other work slows "
                "the server, or it is slower than the calibrated one."
            ),
        ),
        Alert(
            name="DyndetQueueNearlyFull",
            value=recorded("queue:max5m", job),
            beyond=f"> {_NEARLY_FULL * bound:.6g}",
            lasts="5m",
            severity="warning",
            summary="the queue of the detector is nearly full",
            description=(
                f"{{{{ $value }}}} requests wait in a server; it refuses those beyond {bound}. Add replicas, or "
                "promise a latency, so that requests are refused before they wait too long."
            ),
        ),
    )


def _raised(deployed: Rendered, point: OperatingPoint, job: str) -> tuple[Alert, ...]:
    """Where difficulties are known, the limit is the threshold that leaves a fifth fewer images to detector 2."""
    evidence = deployed.points.evidence
    if point.followed is None or point.easy_share is None or evidence is None:
        return ()
    quantiles, hard = evidence.difficulty_quantiles, 1 - point.easy_share
    limit = point.floor
    if len(quantiles) > 1:
        level = 1 - (1 - _LOST) * hard
        limit = max(limit, float(np.interp(level, np.linspace(0, 1, len(quantiles)), quantiles)))
    return (
        Alert(
            name="DyndetThresholdRaised",
            value=recorded("threshold:avg5m", job),
            beyond=f"> {limit + 0.001:.4g}",
            lasts="15m",
            severity="warning",
            summary="the load has raised the threshold for long, which costs accuracy",
            description=(
                f'The threshold is {{{{ $value | printf "%.3f" }}}}, calibrated {point.threshold:.3g}: at least '
                f"{_LOST:.0%} of the hard images get detector 1. Autoscaling is at its limit, or off. Add replicas."
            ),
        ),
    )


def _queue_bound(deployed: Rendered) -> int:
    """Requests that wait in a server at most; an older rendering, which does not say it, has the default."""
    written = deployed.written_options.get("queue_size")
    (public,) = (config for config in deployed.configs if config.name == deployed.model)
    instances: int = sum(max(1, group.count) * max(1, len(group.gpus)) for group in public.instance_group)
    return max(1, instances) * (written if type(written) is int else RenderOptions.queue_size)
