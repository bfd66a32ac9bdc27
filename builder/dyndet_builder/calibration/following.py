"""What a calibrated detector promises under load, and what a new calibration keeps of an earlier one."""

from __future__ import annotations

from collections.abc import Mapping

from dyndet_builder.operating_points import (
    UNCALIBRATED,
    Evidence,
    FollowLoad,
    OperatingPoint,
    OperatingPoints,
    tenants_among,
)

MEANS_IN_PROMISE = 10
"""promised p95 of a point that was calibrated for a mean, in mean times of the easy route"""


def promised_under_load(point: OperatingPoint, evidence: Evidence) -> FollowLoad | None:
    """The promise that a calibrated point can keep under load; None if it was calibrated for a throughput.

    A percentile is promised as it was calibrated. A mean says nothing about a single request, so its point promises
    that 95 % of the requests take at most ten times as long as an easy one.
    """
    if point.unit != "ms" or point.goal is None or point.statistic is None:
        return None
    if point.statistic.startswith("p"):
        return FollowLoad(promise_ms=point.goal, statistic=point.statistic)
    mean_ms = evidence.easy.mean_ms
    return FollowLoad(promise_ms=MEANS_IN_PROMISE * mean_ms) if mean_ms > 0 else None


def _following(
    point: OperatingPoint, evidence: Evidence, *, earlier: OperatingPoint | None, switched: bool | None
) -> OperatingPoint:
    """A newly calibrated point with its promise under load.

    What a user set for the `earlier` point of the same name stays. `switched` turns following on or off; None leaves it
    as it was, and on for a new point.
    """
    promised, known = promised_under_load(point, evidence), None if earlier is None else earlier.follow_load
    if promised is None or (known is None and switched is False):
        return point
    if known is not None:
        kept = known.model_dump(include={"enabled", "floor", "ceiling"})
        if known.promised_by == "user":
            kept |= known.model_dump(include={"promise_ms", "statistic", "promised_by"})
        promised = promised.model_copy(update=kept)
        lowest = point.threshold if promised.floor is None else promised.floor
        promised = promised.model_copy(update={"ceiling": max(promised.ceiling, lowest)})
    if switched is not None:
        promised = promised.model_copy(update={"enabled": switched})
    return point.model_copy(update={"follow_load": promised})


def recalibrated(
    earlier: OperatingPoints | None,
    points: Mapping[str, OperatingPoint],
    evidence: Evidence,
    *,
    switched: bool | None = None,
    rendered: bool | None = None,
) -> OperatingPoints:
    """The file after a calibration: new points, the first of them the default, beside the earlier ones and tenants.

    `switched` turns following on or off for the new points. Without it, what was set for a point of the same name
    stays, and another point follows the load unless `rendered`, the choice of the rendering, is False.
    """
    known = {} if earlier is None else {key: one for key, one in earlier.points.items() if key != UNCALIBRATED}
    followed = {
        name: _following(
            point,
            evidence,
            earlier=known.get(name),
            switched=rendered if switched is None and name not in known else switched,
        )
        for name, point in points.items()
    }
    merged = known | followed
    return OperatingPoints(
        default=next(iter(points)),
        points=merged,
        evidence=evidence,
        tenants=None if earlier is None else tenants_among(earlier.tenants, merged),
    )
