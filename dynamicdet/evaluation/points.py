"""Operating points: average precision of the router and of two references that send equally many images to detector 2.

The references are random routing, and an oracle that knows which images gain most from detector 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import BoolArray, FloatArray
from dynamicdet.evaluation.precision import MixedPrecision, Precision
from dynamicdet.routing.routes import RouteResults
from dynamicdet.thresholds import is_hard, threshold_for_easy_share

CURVE_HARD_SHARES = tuple(step / 20 for step in range(21))
LEAST_AP = 1.0
"""percent; below it, a detector is not usable"""
LEAST_GAP = 0.1
"""percent; a smaller gain of detector 2 is none"""


@dataclass(frozen=True)
class OperatingPoint:
    """The results of one threshold, and of the two references with the same number of hard images."""

    hard_share: float
    """the real share at this threshold on these images"""
    threshold: float
    precision: Precision
    random: Precision
    """mean over draws of equally many random images"""
    oracle: Precision | None
    """with the images where detector 2 lowers the detection loss most; None if the losses are unknown"""

    def choices(self) -> dict[str, Precision | None]:
        """By who chooses the hard images: `router`, `random`, `oracle`."""
        return {"router": self.precision, "random": self.random, "oracle": self.oracle}


@dataclass(frozen=True)
class RoutePrecision:
    """Average precision of both routes and of mixes of them, by the boxes or by the masks."""

    easy: Precision
    hard: Precision
    points: tuple[OperatingPoint, ...]
    """the requested ones"""
    curve: tuple[OperatingPoint, ...]
    """at 21 hard shares from 0 to 1"""
    random_deviation: float
    """standard deviation over the draws of the mean AP of random routing"""

    @property
    def gap(self) -> float:
        """AP all hard minus AP all easy, percent."""
        return self.hard.ap - self.easy.ap

    def recovered(self, precision: Precision | None) -> float | None:
        """Share of the gain from all easy to all hard that a precision has.

        None if there is no gain, or so little that the share of it would say nothing (`LEAST_GAP`, `LEAST_AP`).
        """
        if precision is None or self.gap < LEAST_GAP or self.hard.ap < LEAST_AP:
            return None
        return (precision.ap - self.easy.ap) / self.gap

    def mean_ap(self) -> dict[str, float | None]:
        """AP of `router`, `random` and `oracle`, mean over the curve: one number for the quality of routing."""
        oracles = [point.oracle.ap for point in self.curve if point.oracle is not None]
        return {
            "router": float(np.mean([point.precision.ap for point in self.curve])),
            "random": float(np.mean([point.random.ap for point in self.curve])),
            "oracle": float(np.mean(oracles)) if oracles else None,
        }

    def as_point(self, point: OperatingPoint) -> dict[str, Any]:
        """One of the points as plain data, with the shares of the gain that it recovers."""
        recovered = {name: self.recovered(precision) for name, precision in point.choices().items()}
        return {**asdict(point), "gap_recovered": recovered}


@dataclass(frozen=True)
class Orders:
    """Orders (N,) in which images go to detector 2."""

    random: tuple[npt.NDArray[np.int64], ...]
    oracle: npt.NDArray[np.int64] | None

    @classmethod
    def of(cls, results: RouteResults, *, draws: int, seed: int) -> Orders:
        """Random ones, and that of the losses if they are known."""
        rng = np.random.default_rng(seed)
        gains = results.loss_gains
        return cls(
            random=tuple(rng.permutation(len(results.difficulties)) for _ in range(draws)),
            oracle=None if gains is None else np.argsort(-gains, kind="stable"),
        )


def measure(
    score: MixedPrecision, difficulties: FloatArray, orders: Orders, *, thresholds: Sequence[float]
) -> RoutePrecision:
    """Score both routes, and the router and the references at each threshold and along the curve."""
    curve = tuple(_point(score, difficulties, threshold_of(difficulties, share), orders) for share in CURVE_HARD_SHARES)
    every = np.ones(len(difficulties), np.bool_)
    return RoutePrecision(
        easy=score(~every),
        hard=score(every),
        points=tuple(_point(score, difficulties, threshold, orders) for threshold in thresholds),
        curve=curve,
        random_deviation=_deviation(score, curve, orders),
    )


def threshold_of(difficulties: FloatArray, hard_share: float) -> float:
    """The threshold that sends this share of the images to detector 2."""
    return threshold_for_easy_share(difficulties, 1 - hard_share)


def _point(score: MixedPrecision, difficulties: FloatArray, threshold: float, orders: Orders) -> OperatingPoint:
    routed = is_hard(difficulties, threshold)
    count = int(routed.sum())
    return OperatingPoint(
        hard_share=count / len(routed),
        threshold=threshold,
        precision=score(routed),
        random=_mean([score(_first(order, count)) for order in orders.random]),
        oracle=None if orders.oracle is None else score(_first(orders.oracle, count)),
    )


def _deviation(score: MixedPrecision, curve: Sequence[OperatingPoint], orders: Orders) -> float:
    counts = [round(point.hard_share * len(orders.random[0])) for point in curve]
    means = [np.mean([score(_first(order, count)).ap for count in counts]) for order in orders.random]
    return float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def _first(order: npt.NDArray[np.int64], count: int) -> BoolArray:
    chosen = np.zeros(len(order), np.bool_)
    chosen[order[:count]] = True
    return chosen


def _mean(values: Sequence[Precision]) -> Precision:
    return Precision(float(np.mean([one.ap for one in values])), float(np.mean([one.ap50 for one in values])))
