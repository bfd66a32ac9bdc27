"""Predicts a server's statistics at any easy share: the mixture of its routes, corrected by measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import TargetOutOfReachError, TooNoisyError
from dynamicdet.latency import Mixture
from dynamicdet.thresholds import easy_share_for_target
from dyndet_bench.measuring.measure import Run
from dyndet_bench.measuring.statistic import MEAN, Statistic, pooled
from dyndet_builder.calibration.trial import Trial
from dyndet_builder.targets import Target

_SHARES = np.linspace(0.0, 1.0, 1001)
_SAME = 0.05
"""easy shares this close to each other count as one"""
_RECENT = 5
"""last rounds of both routes that a correction uses: in earlier ones the machine may have had another speed"""
_LEAST_DEVIATION = 0.02
"""of the hard share on other images, however many there are"""
_MOST_LATENCIES = 2000
"""of either route that a valley is computed from"""
_FEWEST_BEYOND = 5
"""requests of a route beyond a percentile; with fewer, chance makes it as steep as a valley does"""
_APART = 0.5
"""of F1 - F2: in a valley, so many more easy than hard requests are faster; in the tail of both routes, fewer are"""
_CANDIDATES = 400
"""latencies that are considered as the sides of a valley"""


@dataclass(frozen=True, kw_only=True)
class Valley:
    """Hard shares between which a percentile changes too fast to be promised; both sides can be promised."""

    shares: tuple[float, float]
    """hard shares at its sides, ascending"""
    values_ms: tuple[float, float]
    """the percentile at its sides"""
    deviation: float
    """standard error of the hard share in the valley on other images; 0.05 is five points"""
    images: int | None
    """held-out images that would make this deviation small enough; None if no number would"""


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

    def check_reachable(self, target: Target, tolerance: float) -> None:
        """See `check_reachable`."""
        check_reachable(target, self._easy, self._hard, tolerance)

    def first_share(self, target: Target, tolerance: float) -> float:
        """See `first_easy_share`."""
        return first_easy_share(target, self._easy, self._hard, tolerance)

    def ends(self, target: Target) -> tuple[float, float]:
        """A target's statistic, all-easy and all-hard."""
        return target.statistic.of(self._easy), target.statistic.of(self._hard)

    def goal(self, target: Target) -> float:
        """A target as a number, given both ends."""
        return target.resolve(*self.ends(target))

    def corrected_share(self, target: Target) -> float:
        """See `corrected_easy_share`."""
        seen = self._seen.get(target.statistic.name, ())
        return corrected_easy_share(target, self._easy[-_RECENT:], self._hard[-_RECENT:], seen)

    def expected_error(self, target: Target, share: float) -> float:
        """Relative difference from a target that the mixture predicts at an easy share."""
        easy, hard = self._easy[-_RECENT:], self._hard[-_RECENT:]
        (expected,) = target.statistic.predicted(easy, hard, [share])
        return float(expected) / target.resolve(target.statistic.of(easy), target.statistic.of(hard)) - 1

    def valley(
        self, target: Target, hard_share: float, *, images: int, tolerance: float, errors: float = 1.0
    ) -> Valley | None:
        """See `valley_of`; None for a statistic that is not a percentile, and for one of too few requests to tell."""
        level = target.statistic.level
        if level is None:
            return None
        mixture = Mixture(pooled(self._easy[-_RECENT:]), pooled(self._hard[-_RECENT:]))
        if min(mixture.easy.size, mixture.hard.size) * min(level, 1 - level) < _FEWEST_BEYOND:
            return None
        return valley_of(mixture, level, hard_share, images=images, tolerance=tolerance, errors=errors)


def deviation_of(hard_shares: npt.ArrayLike, images: int, errors: float = 1.0) -> FloatArray:
    """So many standard errors of hard shares that were counted on so many images, (shares,); at least two points.

    One is sqrt(h (1 - h) / n). At both ends it is 0: thresholds 0 and 1 do not depend on the images.
    """
    shares = np.asarray(hard_shares, np.float64)
    counted: FloatArray = np.maximum(errors * np.sqrt(shares * (1 - shares) / images), _LEAST_DEVIATION)
    counted[(shares <= 0) | (shares >= 1)] = 0.0
    return counted


def valley_of(
    mixture: Mixture, level: float, hard_share: float, *, images: int, tolerance: float, errors: float = 1.0
) -> Valley | None:
    """The valley between the two routes that a percentile falls into at a hard share, or None.

    Let q(h) be the `level`-quantile of the mixture at the hard share h, and d one standard error of h, or as many as
    `errors`, on so many other images (see `deviation_of`). The percentile is ill-conditioned at h if q(h + d) or
    q(h - d) differs from q(h) by more than the relative `tolerance`, and if F1 - F2 reaches 0.5 between q(h - d) and
    q(h + d). Otherwise the routes overlap there, and the percentile is steep because of the noise in their tails. The
    sides of the valley are the nearest measured latencies, at hard shares at least d away, that are not ill-conditioned
    as targets.
    """
    mixture = Mixture(_thinned(mixture.easy), _thinned(mixture.hard))
    here = np.array([hard_share])
    deviation = deviation_of(here, images, errors)
    if not _ill_conditioned(mixture, level, here, deviation, tolerance)[0]:
        return None
    smaller = np.linspace(float(deviation[0]), _LEAST_DEVIATION, 100)
    enough = ~_ill_conditioned(mixture, level, np.full_like(smaller, hard_share), smaller, tolerance)
    needed = math.ceil(hard_share * (1 - hard_share) * (errors / smaller[enough][0]) ** 2) if enough.any() else None
    shares, values = _as_targets(mixture, level)
    safe = ~_ill_conditioned(mixture, level, shares, deviation_of(shares, images, errors), tolerance)
    low = int(np.flatnonzero(safe & (shares <= max(hard_share - deviation[0], 0)))[-1])
    high = int(np.flatnonzero(safe & (shares >= min(hard_share + deviation[0], 1)))[0])
    return Valley(
        shares=(float(shares[low]), float(shares[high])),
        values_ms=(float(values[low]), float(values[high])),
        deviation=float(deviation[0]),
        images=needed,
    )


def _ill_conditioned(
    mixture: Mixture, level: float, hard_shares: FloatArray, deviations: FloatArray, tolerance: float
) -> npt.NDArray[np.bool_]:
    """Whether each hard share, (shares,), is ill-conditioned with its deviation, (shares,)."""
    around = [np.clip(hard_shares + sign * deviations, 0, 1) for sign in (-1, 0, 1)]
    below, here, above = (mixture.quantiles(level, 1 - shares) for shares in around)
    ill: npt.NDArray[np.bool_] = (below < here * (1 - tolerance)) | (above > here * (1 + tolerance))
    values = np.unique(np.concatenate([mixture.easy, mixture.hard]))
    hard, easy = mixture.share_within(values, [0.0, 1.0])
    for place in np.flatnonzero(ill):
        between = slice(*np.searchsorted(values, [below[place], above[place]]))
        ill[place] = np.max(easy[between] - hard[between]) >= _APART
    return ill


def _as_targets(mixture: Mixture, level: float) -> tuple[FloatArray, FloatArray]:
    """Hard shares, ascending from 0 to 1, and the latencies that lead to them as targets, (latencies,) each."""
    low, high = mixture.quantile(level, 1.0), mixture.quantile(level, 0.0)
    values = np.unique(np.concatenate([mixture.easy, mixture.hard]))
    values = values[(values > low) & (values < high)]
    if values.size > _CANDIDATES:
        values = values[np.linspace(0, values.size - 1, _CANDIDATES).astype(int)]
    hard, easy = mixture.share_within(values, [0.0, 1.0])
    shares = np.clip((easy - level) / (easy - hard), 0, 1)
    return np.array([0.0, *shares, 1.0]), np.array([low, *values, high])


def _thinned(latencies: FloatArray) -> FloatArray:
    """Evenly spaced order statistics of sorted latencies, if there are many."""
    if latencies.size <= _MOST_LATENCIES:
        return latencies
    thinned: FloatArray = latencies[np.linspace(0, latencies.size - 1, _MOST_LATENCIES).astype(int)]
    return thinned


def first_easy_share(target: Target, easy: Sequence[Run], hard: Sequence[Run], tolerance: float) -> float:
    """Easy share that would meet a target if requests never queued; a target close to an end takes the end.

    For a mean it uses the paper's rule, for a percentile the mixture of both routes' latencies, for a throughput the
    time per image. Raises TargetOutOfReachError with the reachable range, and TooNoisyError if noise hides which route
    is slower.
    """
    statistic = target.statistic
    at_easy, at_hard = statistic.of(easy), statistic.of(hard)
    goal = target.resolve(at_easy, at_hard)
    check_reachable(target, easy, hard, tolerance)
    inside = min(max(goal, min(at_easy, at_hard)), max(at_easy, at_hard))
    if statistic.level is not None:
        return Mixture(pooled(easy), pooled(hard)).easy_share_for_quantile(statistic.level, inside, tolerance=tolerance)
    if statistic == MEAN:
        return easy_share_for_target(at_easy, at_hard, inside)
    return easy_share_for_target(1e3 / at_easy, 1e3 / at_hard, 1e3 / inside)


def check_reachable(target: Target, easy: Sequence[Run], hard: Sequence[Run], tolerance: float) -> None:
    """Raise TargetOutOfReachError for a target outside the range of both routes or if detector 2 costs no time.

    Raises TooNoisyError if noise hides which route is slower.
    """
    _check_slower(target.statistic, easy, hard, tolerance)
    at_easy, at_hard = target.statistic.of(easy), target.statistic.of(hard)
    _check_range(target, target.resolve(at_easy, at_hard), at_easy, at_hard, tolerance)


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


def _check_slower(statistic: Statistic, easy: Sequence[Run], hard: Sequence[Run], tolerance: float) -> None:
    """Raise an error if detector 2 costs no time, by what the rounds say about it."""
    ends = statistic.of(easy), statistic.of(hard)
    if ends[1] < ends[0] if statistic.unit == "/s" else ends[1] > ends[0]:
        return
    what = _what(statistic)
    compared = f"all-hard ({_number(statistic, ends[1])}) is not slower than all-easy ({_number(statistic, ends[0])})"
    changes = [statistic.of([one]) / statistic.of([other]) - 1 for one, other in zip(hard, easy, strict=True)]
    if len(changes) > 1 and max(changes) - min(changes) > 2 * tolerance:
        raise TooNoisyError(
            f"this machine is too noisy to say whether detector 2 changes the {what}: {compared}, but in single rounds "
            f"they differ by {min(changes):+.1%} to {max(changes):+.1%}; stop other work on it, or measure more "
            "(--requests)"
        )
    seen = f"in {len(changes)} rounds, so"
    if len(changes) == 1:
        seen = "in the only round; if more rounds (--rounds 3) show the same,"
    raise TargetOutOfReachError(
        f"no threshold changes the {what} here: {compared} {seen} detector 2 costs no time at this load; send every "
        "image to it (threshold 0), or measure another load"
    )


def _check_range(target: Target, goal: float, easy: float, hard: float, tolerance: float) -> None:
    statistic = target.statistic
    low, high = sorted((easy, hard))
    if not low * (1 - tolerance) <= goal <= high * (1 + tolerance):
        name = "all-easy" if (goal < low) == (easy < hard) else "all-hard"
        side, end = ("below", low) if goal < low else ("above", high)
        unit, share = statistic.unit, ""
        if unit == "ms":
            named = "" if statistic == MEAN else f"{statistic.name}:"
            unit, share = " ms", f", or for a share of the way between them, such as {named}50%"
        raise TargetOutOfReachError(
            f"{target.text} is out of reach: {_number(statistic, goal)} is {side} this server's {name} "
            f"{_what(statistic)} ({_number(statistic, end)}); ask for {low:.4g} to {high:.4g}{unit}{share}"
        )


def _what(statistic: Statistic) -> str:
    return "latency" if statistic == MEAN else statistic.name


def _number(statistic: Statistic, value: float) -> str:
    return f"{value:.4g} ms" if statistic.unit == "ms" else f"{value:.4g}{statistic.unit}"
