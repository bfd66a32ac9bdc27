"""What a pair would give for a target, before anything is deployed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError, TargetOutOfReachError
from dynamicdet.latency import Mixture
from dynamicdet.text import distinct, printable
from dyndet_bench.measuring.statistic import THROUGHPUT
from dyndet_bench.report.text import percent
from dyndet_builder.pairing.payoff.frontier import HARD_SHARES, Chooser, Pair, Point
from dyndet_builder.targets import Target

_TOLERANCE = 0.01
_STEPS = 12
"""halvings of a hard share: 0.05 becomes less than one of 10,000 pictures"""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A target, and the point that meets it."""

    target: str
    reason: str
    """why it cannot be met; empty if it can"""
    point: Point | None
    """None if there is none"""

    @property
    def met(self) -> bool:
        """Whether the pair can keep it."""
        return not self.reason

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "target": self.target,
            "met": self.met,
            "reason": self.reason,
            "point": None if self.point is None else self.point.as_json(),
        }


@dataclass(frozen=True)
class AccuracyTarget:
    """An accuracy to reach: percent, or a share of the gain from the small to the large detector."""

    text: str
    value: float
    of_gain: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Latencies of single pictures, milliseconds; one value each if only means are known."""

    small: FloatArray
    large: FloatArray

    @property
    def hard(self) -> FloatArray:
        """Of hard pictures: both detectors, the n-th fastest of each together."""
        levels = np.linspace(0, 1, max(self.small.size, self.large.size))
        both: FloatArray = np.quantile(self.small, levels) + np.quantile(self.large, levels)
        return both


def parse_accuracy(text: str) -> AccuracyTarget:
    """Read `49.5` (AP, percent) or `80%` (of the gain). Raises InputError for anything else.

    >>> parse_accuracy("80%")
    AccuracyTarget(text='80%', value=0.8, of_gain=True)
    """
    compact = "".join(text.split())
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)(%|AP)?", compact)
    value = float(match[1]) if match else float("nan")
    if match is None or not 0 <= value <= 100:
        raise InputError(
            f"{printable(repr(text), limit=60)} is not an accuracy; give an AP such as 49.5, or a share of the gain "
            "from the small to the large detector such as 80%"
        )
    of_gain = match[2] == "%"
    return AccuracyTarget(text=compact, value=value / 100 if of_gain else value, of_gain=of_gain)


def check_latency_target(target: Target) -> None:
    """Raise InputError for a target that only a server can show."""
    if target.statistic == THROUGHPUT:
        raise InputError(
            f"the target {target.text} is a throughput, which depends on instances and batching; serve the pair and "
            "measure it with `dyndet calibrate`, or give a latency here"
        )


def latency_promise(target: Target, pair: Pair, router: Chooser, samples: Samples) -> Promise:
    """What the pair gives at a mean latency or a percentile, if requests do not wait for each other."""
    level = target.statistic.level
    if level is None:
        return _mean_promise(target, pair, router)
    goal = target.resolve(_quantile(samples.small, level), _quantile(samples.hard, level))
    hard_from = _quantile(samples.hard, 0.0)
    if goal < hard_from:
        return _between_routes(target, goal, level, pair, router, samples)
    try:
        mixture = Mixture(samples.small, samples.hard)
        easy = mixture.easy_share_for_quantile(level, goal, tolerance=_TOLERANCE)
    except TargetOutOfReachError as error:
        if goal > _quantile(samples.hard, level):
            return Promise(target=target.text, reason="", point=pair.at(router, 1.0))
        return Promise(target=target.text, reason=str(error), point=None)
    return Promise(target=target.text, reason="", point=pair.at(router, 1 - easy))


def _mean_promise(target: Target, pair: Pair, router: Chooser) -> Promise:
    low, high = pair.small_ms, pair.small_ms + pair.large_ms
    goal = target.resolve(low, high)
    if goal < low:
        asked, least = distinct(goal, low)
        reason = f"{asked} ms is less than the small detector alone takes ({least} ms)"
        return Promise(target=target.text, reason=reason, point=None)
    return Promise(target=target.text, reason="", point=pair.at(router, min(1.0, (goal - low) / pair.large_ms)))


def _between_routes(
    target: Target, goal: float, level: float, pair: Pair, router: Chooser, samples: Samples
) -> Promise:
    """A percentile that no hard picture keeps: it holds while fewer pictures are hard than may be slower."""
    small, hard = _quantile(samples.small, level), _quantile(samples.hard, 0.0)
    asked, least, alone = distinct(goal, hard, small)
    if goal < small:
        reason = f"{target.statistic.name} of the small detector alone is {alone} ms already"
        return Promise(target=target.text, reason=reason, point=None)
    share = percent(1 - level)
    reason = (
        f"{target.statistic.name} of {asked} ms is below what any hard picture takes (s + L, from {least} ms): it "
        f"holds only while at most {share} of the pictures are hard, and one more breaks it; ask for a mean, or for a "
        "percentile above s + L"
    )
    return Promise(target=target.text, reason=reason, point=pair.at(router, 1 - level))


def accuracy_promise(target: AccuracyTarget, pair: Pair, router: Chooser, *, measure: str) -> Promise:
    """The fastest point of the pair that reaches an accuracy."""
    small, large = pair.small.value, pair.large.value
    goal = small + target.value * (large - small) if target.of_gain else target.value
    known = [pair.at(router, share, resample=False) for share in HARD_SHARES]
    reached = next((number for number, point in enumerate(known) if point.accuracy.value >= goal), None)
    if reached is None:
        best = max(known, key=lambda one: one.accuracy.value)
        reason = (
            f"{measure} {goal:.1f} is above what the pair reaches: {best.accuracy.value:.1f}, with "
            f"{percent(best.hard_share)} of the pictures hard"
        )
        return Promise(target=target.text, reason=reason, point=None)
    low, high = HARD_SHARES[max(0, reached - 1)], HARD_SHARES[reached]
    for _ in range(_STEPS if reached else 0):
        middle = (low + high) / 2
        if pair.at(router, middle, resample=False).accuracy.value >= goal:
            high = middle
        else:
            low = middle
    return Promise(target=target.text, reason="", point=pair.at(router, high))


def _quantile(values: FloatArray, level: float) -> float:
    return float(np.quantile(values, level, method="inverted_cdf"))
