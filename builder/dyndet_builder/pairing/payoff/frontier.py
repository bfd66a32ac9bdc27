"""Accuracy over mean latency: every way to choose the hard pictures of a pair, and every detector alone.

A cascade of two detectors that share nothing takes s + h L on average: every picture takes the small detector, the
share h also takes the large one. Accuracy is always the real average precision of the mixed answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from dynamicdet.aliases import BoolArray, FloatArray, Progress, silent
from dynamicdet.errors import InputError
from dynamicdet.evaluation.evaluate import LEAST_GAP
from dynamicdet.thresholds import is_hard, threshold_for_easy_share
from dyndet_builder.pairing.payoff.mixes import Mixes, bootstrap_weights
from dyndet_builder.pairing.payoff.stream import Stream

HARD_SHARES = tuple(step / 20 for step in range(21))
RESAMPLES = 200
RANDOM_DRAWS = 5
LEVEL = 0.95
"""of every interval"""
STEP = "measure mixes"
Kind = Literal["router", "rule", "random", "oracle"]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Average precision or agreement, percent, with a bootstrap interval over the pictures."""

    value: float
    low: float
    high: float
    draws: FloatArray = field(repr=False, compare=False)
    """(R,) of each resample, the same resamples for everything that is measured on the same pictures"""

    @classmethod
    def of(cls, value: float, draws: FloatArray) -> Accuracy:
        """With the interval of the draws, moved to the value: a resample repeats pictures, which shifts its AP."""
        low, high = interval_around(value, draws)
        return cls(value=value, low=low, high=high, draws=draws)

    def minus(self, other: Accuracy) -> Accuracy:
        """The difference, with the interval of the difference on the same pictures."""
        return Accuracy.of(self.value - other.value, self.draws - other.draws)

    def as_json(self) -> dict[str, float]:
        """Plain data."""
        return {"value": self.value, "low": self.low, "high": self.high}


def interval_around(value: float, draws: FloatArray) -> tuple[float, float]:
    """The interval that holds the draws, moved so that their mean is at the value; the value where there are none."""
    known = draws[np.isfinite(draws)]
    if known.size < 2:
        return value, value
    low, high = np.quantile(known - known.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return value + min(0.0, float(low)), value + max(0.0, float(high))  # rounding, where all draws are equal


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """A way to choose which pictures are hard."""

    name: str
    kind: Kind
    difficulties: FloatArray
    """(N,) of the pictures with a truth; the router's are those of models that have not seen the picture"""
    on_stream: FloatArray | None = None
    """(M,) of the stream's pictures; None: they are not known, and the weights stand for them"""


@dataclass(frozen=True, kw_only=True)
class Single:
    """One detector that answers every picture."""

    name: str
    accuracy: Accuracy
    latency_ms: float

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "accuracy": self.accuracy.as_json(), "latency_ms": self.latency_ms}


@dataclass(frozen=True, kw_only=True)
class Point:
    """The cascade at one threshold."""

    threshold: float | None
    """None for references, whose thresholds nobody can set"""
    hard_share: float
    latency_ms: float
    """mean"""
    accuracy: Accuracy
    kept: Accuracy | None
    """share of the gain from small to large that is kept; None if there is no gain"""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "threshold": self.threshold,
            "hard_share": self.hard_share,
            "latency_ms": self.latency_ms,
            "accuracy": self.accuracy.as_json(),
            "kept_gain": None if self.kept is None else self.kept.as_json(),
        }


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One way to choose, at every hard share."""

    name: str
    kind: Kind
    points: tuple[Point, ...]

    def kept_at(self, hard_share: float) -> float | None:
        """Share of the gain that is kept at a hard share, between the measured ones; None if there is no gain."""
        known = [(point.hard_share, point.kept.value) for point in self.points if point.kept is not None]
        if not known:
            return None
        shares, kept = zip(*sorted(known), strict=True)
        return float(np.interp(hard_share, shares, kept))

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "kind": self.kind, "points": [point.as_json() for point in self.points]}


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Everything that is drawn and compared."""

    small: Single
    large: Single
    others: tuple[Single, ...]
    """further detectors, for comparison"""
    curves: tuple[Curve, ...]
    """the router's first"""

    @property
    def router(self) -> Curve:
        """The curve of what would be served."""
        return self.curves[0]

    @property
    def singles(self) -> tuple[Single, ...]:
        """Every detector alone."""
        return (self.small, *self.others, self.large)

    @property
    def gain(self) -> Accuracy:
        """What the large detector has more than the small one."""
        return self.large.accuracy.minus(self.small.accuracy)

    def cascade_at(self, latency_ms: float) -> Point | None:
        """The cascade at a mean latency, between the measured points; None where it cannot have this latency."""
        points = sorted(self.router.points, key=lambda one: one.latency_ms)
        above = next((number for number, one in enumerate(points) if one.latency_ms >= latency_ms), None)
        if above is None or (above == 0 and points[0].latency_ms > latency_ms):
            return None
        upper, lower = points[above], points[max(0, above - 1)]
        span = upper.latency_ms - lower.latency_ms
        return _between(lower, upper, (latency_ms - lower.latency_ms) / span if span else 1.0)

    def coin_at(self, latency_ms: float) -> Accuracy | None:
        """A coin between the two detectors at a mean latency: nearly the straight line; None where there is none."""
        small, large = self.small, self.large
        if not small.latency_ms < latency_ms < large.latency_ms:
            return None
        return _mixed(
            small.accuracy,
            large.accuracy,
            (latency_ms - small.latency_ms) / (large.latency_ms - small.latency_ms),
        )

    @property
    def best_rule(self) -> Curve | None:
        """The free rule with the highest mean accuracy."""
        rules = [curve for curve in self.curves if curve.kind == "rule"]
        return max(rules, key=lambda one: float(np.mean([p.accuracy.value for p in one.points])), default=None)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "singles": [one.as_json() for one in self.singles],
            "curves": [curve.as_json() for curve in self.curves],
        }


def _mixed(one: Accuracy, other: Accuracy, share: float) -> Accuracy:
    """`share` of the other, the rest of the one."""
    return Accuracy.of((1 - share) * one.value + share * other.value, (1 - share) * one.draws + share * other.draws)


def _between(lower: Point, upper: Point, share: float) -> Point:
    kept = None
    if lower.kept is not None and upper.kept is not None:
        kept = _mixed(lower.kept, upper.kept, share)
    return Point(
        threshold=None,
        hard_share=(1 - share) * lower.hard_share + share * upper.hard_share,
        latency_ms=(1 - share) * lower.latency_ms + share * upper.latency_ms,
        accuracy=_mixed(lower.accuracy, upper.accuracy, share),
        kept=kept,
    )


class Pair:
    """Measures a pair of detectors on N pictures. Raises InputError for latencies that are not positive."""

    def __init__(
        self,
        mixes: Mixes,
        *,
        small_ms: float,
        large_ms: float,
        stream: Stream | None = None,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        for name, value in (("small", small_ms), ("large", large_ms)):
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"the latency of the {name} detector must be above 0 ms, not {value}")
        self.small_ms, self.large_ms = small_ms, large_ms
        self._mixes, self._seed = mixes, seed
        self._weights = None if stream is None else stream.weights
        self._resampled = bootstrap_weights(mixes.pictures, resamples=resamples, seed=seed, weights=self._weights)
        none = np.zeros(mixes.pictures, np.bool_)
        self.small, self.large = self._accuracy(mixes, none), self._accuracy(mixes, ~none)

    def single(self, name: str, mixes: Mixes, latency_ms: float) -> Single:
        """Another detector on the same pictures: the one that answers the easy pictures of `mixes`."""
        accuracy = self._accuracy(mixes, np.zeros(mixes.pictures, np.bool_))
        return Single(name=name, accuracy=accuracy, latency_ms=latency_ms)

    def frontier(
        self,
        choosers: Sequence[Chooser],
        *,
        names: tuple[str, str],
        others: Sequence[Single] = (),
        progress: Progress = silent,
    ) -> Frontier:
        """Every chooser at every hard share; the first one is what would be served. `names`: small, large."""
        curves = []
        for number, chooser in enumerate(choosers, 1):
            curves.append(self.curve(chooser))
            progress(STEP, number, len(choosers) + 1)
        curves.append(self.random())
        progress(STEP, len(choosers) + 1, len(choosers) + 1)
        small, large = names
        return Frontier(
            small=Single(name=small, accuracy=self.small, latency_ms=self.small_ms),
            large=Single(name=large, accuracy=self.large, latency_ms=self.large_ms),
            others=tuple(others),
            curves=tuple(curves),
        )

    def curve(self, chooser: Chooser) -> Curve:
        """One chooser at every hard share; only the router gets intervals, which take most of the time."""
        points = (self.at(chooser, share, resample=chooser.kind == "router") for share in HARD_SHARES)
        return Curve(name=chooser.name, kind=chooser.kind, points=tuple(points))

    def random(self) -> Curve:
        """A coin instead of a router, mean over a few draws; it sends hard pictures straight to the large detector."""
        rng = np.random.default_rng(self._seed)
        draws = [Chooser(name="random", kind="random", difficulties=one) for one in rng.random((RANDOM_DRAWS, self._n))]
        points = []
        for share in HARD_SHARES:
            found = [self.at(draw, share, resample=False).accuracy.value for draw in draws]
            point = self._point(None, share, Accuracy.of(float(np.mean(found)), np.empty(0)))
            points.append(replace(point, latency_ms=(1 - share) * self.small_ms + share * self.large_ms))
        return Curve(name="random", kind="random", points=tuple(points))

    def at(self, chooser: Chooser, hard_share: float, *, resample: bool = True) -> Point:
        """The point nearest to a hard share: pictures of equal difficulty take the same way."""
        if chooser.on_stream is None and self._weights is not None:
            threshold, (hard, share) = None, _heaviest(chooser.difficulties, self._weights, hard_share)
        else:
            seen = chooser.difficulties if chooser.on_stream is None else chooser.on_stream
            threshold = threshold_for_easy_share(seen, 1 - hard_share)
            hard, share = is_hard(chooser.difficulties, threshold), float(is_hard(seen, threshold).mean())
        accuracy = self._accuracy(self._mixes, hard, resample=resample)
        return self._point(threshold if chooser.kind == "router" else None, share, accuracy)

    @property
    def _n(self) -> int:
        return self._mixes.pictures

    def _point(self, threshold: float | None, share: float, accuracy: Accuracy) -> Point:
        latency = self.small_ms + share * self.large_ms
        kept = self._kept(accuracy)
        return Point(threshold=threshold, hard_share=share, latency_ms=latency, accuracy=accuracy, kept=kept)

    def _kept(self, accuracy: Accuracy) -> Accuracy | None:
        gain = self.large.minus(self.small)
        if gain.value < LEAST_GAP:
            return None
        draws = np.empty(0)
        if accuracy.draws.size:
            with np.errstate(divide="ignore", invalid="ignore"):
                draws = np.where(gain.draws >= LEAST_GAP, (accuracy.draws - self.small.draws) / gain.draws, np.nan)
        return Accuracy.of((accuracy.value - self.small.value) / gain.value, draws)

    def _accuracy(self, mixes: Mixes, hard: BoolArray, *, resample: bool = True) -> Accuracy:
        draws = mixes.each_ap(hard, self._resampled) if resample else np.empty(0)
        return Accuracy.of(mixes.ap(hard, self._weights), draws)


def _heaviest(difficulties: FloatArray, weights: FloatArray, hard_share: float) -> tuple[BoolArray, float]:
    """The most difficult pictures whose weights come nearest to a share of all, and that share."""
    order = np.argsort(-difficulties, kind="stable")
    shares = np.concatenate([[0.0], np.cumsum(weights[order]) / weights.sum()])
    count = int(np.argmin(np.abs(shares - hard_share)))
    hard = np.zeros(len(order), np.bool_)
    hard[order[:count]] = True
    return hard, float(shares[count])


def choosers_of(
    router: tuple[str, FloatArray],
    rules: Mapping[str, FloatArray],
    oracle: FloatArray,
    *,
    router_on_stream: FloatArray | None = None,
    rules_on_stream: Mapping[str, FloatArray] | None = None,
) -> tuple[Chooser, ...]:
    """The router, the free rules and the oracle. Values of any range become difficulties in the same order."""
    name, difficulties = router
    found = [Chooser(name=name, kind="router", difficulties=difficulties, on_stream=router_on_stream)]
    for rule, values in rules.items():
        streamed = None if rules_on_stream is None else rules_on_stream[rule]
        inside, outside = _as_difficulties(values, streamed)
        found.append(Chooser(name=rule, kind="rule", difficulties=inside, on_stream=outside))
    found.append(Chooser(name="oracle", kind="oracle", difficulties=_as_difficulties(oracle, None)[0]))
    return tuple(found)


def _as_difficulties(values: FloatArray, streamed: FloatArray | None) -> tuple[FloatArray, FloatArray | None]:
    """Ranks of both sets together, 0..1; equal values stay equal."""
    both = np.asarray(values, np.float64) if streamed is None else np.concatenate([values, streamed]).astype(np.float64)
    levels, place = np.unique(both, return_inverse=True)
    ranks = (place + 1) / (levels.size + 1)
    return ranks[: len(values)], None if streamed is None else ranks[len(values) :]
