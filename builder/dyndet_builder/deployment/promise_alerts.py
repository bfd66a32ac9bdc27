"""Alerts on what was promised and calibrated. What was not calibrated is not watched, and a note says so."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dyndet_bench.measuring.statistic import Statistic
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.deployment.scaling import queue_target_ms
from dyndet_builder.deployment.series import WINDOW, Alert, larger, of_detector, quantile_ms, recorded
from dyndet_builder.operating_points import OperatingPoint
from dyndet_builder.quoting import go_template
from dyndet_builder.repository.rendered import Rendered

_LEAST_IMAGES = 200
_STEADY = 0.001  # how far a threshold may be from the calibrated one, to be that
_SLACK = 1.1  # a calibration meets its target within 3 to 8 %


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A promised latency."""

    statistic: str
    goal_ms: float
    text: str
    """as it was given, such as p99:20ms"""


def promise_of(deployed: Rendered, options: DeployOptions) -> Promise | None:
    """The promise to watch: the one in the options, or that of the default operating point; None: not a latency.

    A point that follows the load promises what it keeps under load, which can differ from what it was calibrated for.
    """
    given, point = options.promised(), deployed.default_point
    if given is not None:
        return Promise(statistic=given.statistic.name, goal_ms=given.value, text=given.text)
    if (follow := point.followed) is not None:
        return Promise(statistic=follow.statistic, goal_ms=follow.promise_ms, text=follow.promise)
    if point.goal is None or point.unit != "ms" or point.statistic is None:
        return None
    return Promise(statistic=point.statistic, goal_ms=point.goal, text=point.target or f"{point.goal:g}ms")


def promise_alerts(
    deployed: Rendered, options: DeployOptions, point: OperatingPoint, job: str
) -> tuple[tuple[Alert, ...], str | None]:
    """An alert on the promise, or a note why there is none."""
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
        value = recorded("mean_ms:rate5m", job)
    else:
        mine = f'{of_detector(deployed, job)},quantile="{level:.6g}"'
        summary = f"max by (job) (nv_inference_request_summary_us{{{mine}}}) / 1000"
        value = larger(summary, quantile_ms(level, of_detector(deployed, job), WINDOW))
    alert = Alert(
        name="DyndetPromiseBroken",
        value=value,
        beyond=f"> {goal * _SLACK:.6g}",
        lasts="5m",
        severity="critical",
        summary=f"{statistic} latency of {go_template(deployed.model)} is above its promise, {go_template(text)}",
        description=(
            f'Inside the server, with its queue, requests take {{{{ $value | printf "%.1f" }}}} ms ({statistic}); '
            f"the promise is {goal:g} ms. {_way_out(point)}"
        ),
    )
    return (alert,), None


def _way_out(point: OperatingPoint) -> str:
    if point.followed is not None:
        return "The threshold follows the load, so other work slows the server, or clients set their own thresholds."
    return "If requests queue, add replicas. If they do not, lower the hard share."


def tail_alerts(deployed: Rendered, options: DeployOptions, point: OperatingPoint, job: str) -> tuple[Alert, ...]:
    """An alert on slow answers while requests hardly wait."""
    measured = (point.percentiles_ms or {}).get("p99")
    hardly_wait = f"{recorded('queue_ms:avg5m', job)} < {queue_target_ms(deployed, options):.6g}"
    if measured is None:
        return ()
    return (
        Alert(
            name="DyndetTailSlow",
            value=recorded("inside_p99_ms:rate5m", job),
            beyond=f"> {2 * measured:.6g} and {hardly_wait}",
            lasts="10m",
            severity="warning",
            summary="p99 latency is more than twice what the calibration measured, though requests hardly wait",
            description=(
                'p99 is {{ $value | printf "%.1f" }} ms; the calibration measured '
                f"{measured:.4g} ms. Other work runs on this machine, or it is slower than the calibrated one."
            ),
        ),
    )


def drift_alerts(deployed: Rendered, point: OperatingPoint, job: str) -> tuple[tuple[Alert, ...], str | None]:
    """An alert on the share of hard images, or a note why there is none.

    A threshold that the load has raised makes fewer images hard, which is no drift.
    """
    evidence = deployed.points.evidence
    if point.easy_share is None or evidence is None:
        return (), "the repository is uncalibrated, so no alert watches the share of hard images"
    hard, steady = 1 - point.easy_share, ""
    if point.followed is not None and point.floor != point.threshold:
        return (), "the threshold follows the load from another floor than it was calibrated at, so no alert watches it"
    if point.followed is not None:
        steady = f" and {recorded('threshold:max30m', job)} < {point.threshold + _STEADY:.6g}"
    # Three standard errors of the share on the held-out images, but at least 10 percentage points.
    room = max(0.1, 3 * math.sqrt(hard * (1 - hard) / max(1, evidence.held_out_images)))
    alert = Alert(
        name="DyndetHardShareDrift",
        value=f"abs({recorded('hard_share:increase30m', job)} - {hard:.4g})",
        beyond=f"> {room:.4g} and {recorded('images:increase30m', job)} > {_LEAST_IMAGES}{steady}",
        lasts="15m",
        severity="warning",
        summary="the share of hard images differs from the calibrated share",
        description=(
            f'The calibrated share is {hard:.0%}; the last half hour differs by {{{{ $value | printf "%.2f" }}}}. '
            "The images have changed, or clients choose their own thresholds. Calibrate again with recent images."
        ),
    )
    return (alert,), None
