"""Predicts a server's statistics at any easy share: the mixture of its routes, corrected by measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import TargetOutOfReachError
from dynamicdet.latency import Mixture
from dynamicdet.thresholds import easy_share_for_target
from dyndet_bench.measuring.measure import Run
from dyndet_bench.measuring.statistic import MEAN, pooled
from dyndet_builder.calibration.trial import Trial
from dyndet_builder.targets import Target

_SHARES = np.linspace(0.0, 1.0, 1001)
_SAME = 0.05
"""easy shares this close to each other count as one"""
_RECENT = 5
"""last rounds of both routes that a correction uses: in earlier ones the machine may have had another speed"""


class RouteModel:
    """Predictions for any easy share: the mixture of the runs of both routes, corrected by the trials of a search."""

    def __init__(self) -> None:
        self._easy: list[Run] = []
        self._hard: list[Run] = []
        self._seen: dict[str, list[tuple[float, float]]] = {}
        """of each statistic: counted easy shares, and how far above the mixture it was there"""

    def add(self, easy: Run, hard: Run) -> None:
        """Add a round of both routes."""
        self._easy.append(easy)
        self._hard.append(hard)

    def learn(self, trial: Trial) -> None:
        """Store how far a statistic is from the mixture, unless that may be noise, which corrections would follow."""
        if len(trial.rounds) > 1 and abs(trial.above_mixture - 1) <= trial.half_width:
            return
        self._seen.setdefault(trial.target.statistic.name, []).append((trial.easy_share, trial.above_mixture))

    def first_share(self, target: Target, tolerance: float) -> float:
        """See `first_easy_share`."""
        return first_easy_share(target, self._easy, self._hard, tolerance)

    def corrected_share(self, target: Target) -> float:
        """See `corrected_easy_share`."""
        seen = self._seen.get(target.statistic.name, ())
        return corrected_easy_share(target, self._easy[-_RECENT:], self._hard[-_RECENT:], seen)


def first_easy_share(target: Target, easy: Sequence[Run], hard: Sequence[Run], tolerance: float) -> float:
    """Easy share that would meet a target if requests never queued; a target close to an end takes the end.

    For a mean it uses the paper's rule, for a percentile the mixture of both routes' latencies, for a throughput the
    time per image. Raises TargetOutOfReachError with the reachable range.
    """
    statistic = target.statistic
    at_easy, at_hard = statistic.of(easy), statistic.of(hard)
    goal = target.resolve(at_easy, at_hard)
    _check_range(target, goal, at_easy, at_hard, tolerance)
    inside = min(max(goal, min(at_easy, at_hard)), max(at_easy, at_hard))
    if statistic.level is not None:
        return Mixture(pooled(easy), pooled(hard)).easy_share_for_quantile(statistic.level, inside, tolerance=tolerance)
    if statistic == MEAN:
        return easy_share_for_target(at_easy, at_hard, inside)
    return easy_share_for_target(1e3 / at_easy, 1e3 / at_hard, 1e3 / inside)


def corrected_easy_share(
    target: Target, easy: Sequence[Run], hard: Sequence[Run], seen: Sequence[tuple[float, float]]
) -> float:
    """Smallest easy share that is expected to meet a target, given what was measured.

    `seen` holds easy shares, each with the factor by which the statistic exceeded the mixture's. Between these shares
    the factor is interpolated. At both ends it is 1, because there the mixture is right by definition.
    """
    statistic = target.statistic
    expected = statistic.predicted(easy, hard, [float(share) for share in _SHARES]) * np.interp(_SHARES, *_merged(seen))
    goal = target.resolve(statistic.of(easy), statistic.of(hard))
    meeting = np.flatnonzero(expected >= goal if statistic.unit == "/s" else expected <= goal)
    return float(_SHARES[meeting[0]]) if meeting.size else 1.0


def _merged(seen: Sequence[tuple[float, float]]) -> tuple[FloatArray, FloatArray]:
    places: list[list[tuple[float, float]]] = []
    for place in sorted(seen):
        if places and place[0] - places[-1][0][0] <= _SAME:
            places[-1].append(place)
        else:
            places.append([place])
    means = [tuple(float(np.mean(column)) for column in zip(*group, strict=True)) for group in places]
    shares, factors = zip(*[(0.0, 1.0), *(mean for mean in means if 0 < mean[0] < 1), (1.0, 1.0)], strict=True)
    return np.array(shares), np.array(factors)


def _check_range(target: Target, goal: float, easy: float, hard: float, tolerance: float) -> None:
    statistic = target.statistic
    unit = f" {statistic.unit}" if statistic.unit == "ms" else statistic.unit
    what = "latency" if statistic == MEAN else statistic.name
    slower = hard < easy if statistic.unit == "/s" else hard > easy
    if not slower:
        raise TargetOutOfReachError(
            f"no threshold changes the {what} here: all-hard ({hard:.4g}{unit}) is not slower than all-easy "
            f"({easy:.4g}{unit}); measure again on a quieter machine"
        )
    low, high = sorted((easy, hard))
    if not low * (1 - tolerance) <= goal <= high * (1 + tolerance):
        name = "all-easy" if (goal < low) == (easy < hard) else "all-hard"
        side, end = ("below", low) if goal < low else ("above", high)
        raise TargetOutOfReachError(
            f"{target.text} is out of reach: {goal:.4g}{unit} is {side} this server's {name} {what} ({end:.4g}{unit}); "
            f"ask for {low:.4g} to {high:.4g}{unit}"
        )
