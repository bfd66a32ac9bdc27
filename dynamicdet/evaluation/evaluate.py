"""COCO average precision of both routes and of any mix of them, from one pass over the images.

The router is compared with two references that send equally many images to detector 2: random routing, and an oracle
that knows which images gain most from it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import BoolArray, FloatArray, Progress, silent
from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.errors import InputError
from dynamicdet.evaluation.precision import MixedPrecision, Precision
from dynamicdet.networks.network import DynamicDetector
from dynamicdet.routing.routes import RouteResults, run_routes
from dynamicdet.thresholds import is_hard, threshold_for_easy_share

DEFAULT_HARD_SHARES = (0.0, 0.1, 0.2, 0.5, 0.9, 1.0)
CURVE_HARD_SHARES = tuple(step / 20 for step in range(21))
LEAST_AP = 1.0
"""percent; below it, a detector is not usable"""
LEAST_GAP = 0.1
"""percent; a smaller gain of detector 2 is none"""
SAME_DIFFICULTY = 1e-6
LEAST_IMAGES = 50
"""fewer cannot show that a gap or a router is none"""


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


@dataclass(frozen=True)
class Seconds:
    """The duration of an evaluation."""

    passes: float
    """running all images through both routes; for cached results, the duration of the original run"""
    losses: float
    """computing the detection losses for the oracle"""
    scoring: float
    """matching, and average precision of every mix, references included"""
    thresholds: int
    """how many thresholds were scored"""

    @property
    def ratio(self) -> float | None:
        """Passes plus scoring, divided by the passes; None if no pass was timed."""
        return (self.passes + self.scoring) / self.passes if self.passes > 0 else None


@dataclass(frozen=True)
class Evaluation:
    """Average precision of both routes and of mixes of them."""

    images: int
    easy: Precision
    hard: Precision
    points: tuple[OperatingPoint, ...]
    """the requested ones"""
    curve: tuple[OperatingPoint, ...]
    """at 21 hard shares from 0 to 1"""
    difficulty_quantiles: Mapping[str, float]
    """difficulties below which 10, 25, 50, 75 and 90 % of the images are"""
    random_draws: int
    random_deviation: float
    """standard deviation over the draws of the mean AP of random routing"""
    difficulty_range: float
    """largest difficulty minus the smallest"""
    seconds: Seconds

    def recovered(self, precision: Precision | None) -> float | None:
        """Share of the gain from all easy to all hard that a precision has.

        None if there is no gain, or so little that the share of it would say nothing (`LEAST_GAP`, `LEAST_AP`).
        """
        gap = self.hard.ap - self.easy.ap
        if precision is None or gap < LEAST_GAP or self.hard.ap < LEAST_AP:
            return None
        return (precision.ap - self.easy.ap) / gap

    def mean_ap(self) -> dict[str, float | None]:
        """AP of `router`, `random` and `oracle`, mean over the curve: one number for the quality of routing."""
        oracles = [point.oracle.ap for point in self.curve if point.oracle is not None]
        return {
            "router": float(np.mean([point.precision.ap for point in self.curve])),
            "random": float(np.mean([point.random.ap for point in self.curve])),
            "oracle": float(np.mean(oracles)) if oracles else None,
        }

    def shortcomings(self) -> list[str]:
        """Why the detectors or the router are not usable, the most important reason first; empty if they are."""
        easy, hard = self.easy.ap, self.hard.ap
        if max(easy, hard) < LEAST_AP:
            return [f"the detectors find next to nothing (AP all easy {easy:.1f}, all hard {hard:.1f})"]
        found = [] if self.images < LEAST_IMAGES and easy != hard else self._measured()
        if not self.difficulty_range > SAME_DIFFICULTY:
            found.append("all images have the same difficulty, so the router decides nothing; train it")
        return found

    def remarks(self) -> list[str]:
        """What would be a shortcoming if more images showed it."""
        if self.images >= LEAST_IMAGES or self.shortcomings():
            return []
        return [f"{one}; {self.images} images are too few to tell" for one in self._measured()]

    def _measured(self) -> list[str]:
        """Shortcomings that a few images can show by chance."""
        easy, hard, mean = self.easy.ap, self.hard.ap, self.mean_ap()
        router, random = (mean[name] or 0.0 for name in ("router", "random"))
        if hard - easy < LEAST_GAP:
            return [
                f"there is no gap: detector 2 is not better than detector 1 (AP all easy {easy:.1f}, all hard "
                f"{hard:.1f}), so routing gains nothing"
            ]
        if self.difficulty_range > SAME_DIFFICULTY and router <= random + self.random_deviation:
            return [
                f"the router is not better than chance on these {self.images} images (mean AP {router:.2f}, random "
                f"routing {random:.2f} +- {self.random_deviation:.2f})"
            ]
        return []

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "images": self.images,
            "ap": {"easy": asdict(self.easy), "hard": asdict(self.hard)},
            "operating_points": [self._point(point) for point in self.points],
            "curve": [self._point(point) for point in self.curve],
            "mean_ap": self.mean_ap(),
            "random_deviation": self.random_deviation,
            "shortcomings": self.shortcomings(),
            "remarks": self.remarks(),
            "difficulty_quantiles": dict(self.difficulty_quantiles),
            "random_draws": self.random_draws,
            "seconds": {**asdict(self.seconds), "ratio": self.seconds.ratio},
        }

    def _point(self, point: OperatingPoint) -> dict[str, Any]:
        choices = {"router": point.precision, "random": point.random, "oracle": point.oracle}
        recovered = {name: self.recovered(precision) for name, precision in choices.items()}
        return {**asdict(point), "gap_recovered": recovered}


def evaluate(
    model: DynamicDetector,
    data: CocoDataset,
    *,
    hard_shares: Sequence[float] = DEFAULT_HARD_SHARES,
    thresholds: Sequence[float] = (),
    batch: int = 16,
    random_draws: int = 10,
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Average precision of a network on a data set read at its input size.

    Every image goes through both routes once; the mixes are built from these results. Raises InputError if classes or
    size of network and data differ, and for shares and thresholds outside 0..1.
    """
    check_points(hard_shares, thresholds)
    results = run_routes(model, data, batch=batch, progress=progress)
    return evaluate_results(
        results, data, hard_shares=hard_shares, thresholds=thresholds, random_draws=random_draws, seed=seed
    )


def check_points(hard_shares: Sequence[float], thresholds: Sequence[float]) -> None:
    """Raise InputError for a share or threshold outside 0..1; for a check before the images are run."""
    for what, values in (("a share of hard images", hard_shares), ("a threshold", thresholds)):
        for value in values:
            if not 0 <= value <= 1:  # also refuses NaN
                raise InputError(f"{what} must be from 0 to 1, got {value}")


def evaluate_results(
    results: RouteResults,
    data: CocoDataset,
    *,
    hard_shares: Sequence[float] = DEFAULT_HARD_SHARES,
    thresholds: Sequence[float] = (),
    random_draws: int = 10,
    seed: int = 0,
) -> Evaluation:
    """Average precision of both routes, of the router at each hard share and threshold, and of the references."""
    check_points(hard_shares, thresholds)
    if random_draws < 1:
        raise InputError(f"random routing needs at least one draw, got {random_draws}")
    start = time.perf_counter()
    score = MixedPrecision(results, data)
    rank = _Ranks.of(results, draws=random_draws, seed=seed)
    asked = [_threshold(results.difficulties, share) for share in hard_shares] + list(thresholds)
    points = tuple(_point(score, results.difficulties, threshold, rank) for threshold in asked)
    curve = tuple(
        _point(score, results.difficulties, _threshold(results.difficulties, share), rank)
        for share in CURVE_HARD_SHARES
    )
    none, every = np.zeros(len(data), np.bool_), np.ones(len(data), np.bool_)
    levels = (10, 25, 50, 75, 90)
    quantiles = np.nanpercentile(results.difficulties, levels)
    return Evaluation(
        images=len(data),
        easy=score(none),
        hard=score(every),
        points=points,
        curve=curve,
        difficulty_quantiles={f"{level}%": float(value) for level, value in zip(levels, quantiles, strict=True)},
        random_draws=random_draws,
        random_deviation=_deviation(score, curve, rank),
        difficulty_range=float(np.ptp(results.difficulties)),
        seconds=Seconds(
            passes=results.pass_s,
            losses=results.loss_s,
            scoring=time.perf_counter() - start,
            thresholds=len(points) + len(curve),
        ),
    )


@dataclass(frozen=True)
class _Ranks:
    """Orders (N,) in which images go to detector 2."""

    random: tuple[npt.NDArray[np.int64], ...]
    oracle: npt.NDArray[np.int64] | None

    @classmethod
    def of(cls, results: RouteResults, *, draws: int, seed: int) -> _Ranks:
        rng = np.random.default_rng(seed)
        gains = results.loss_gains
        return cls(
            random=tuple(rng.permutation(len(results.difficulties)) for _ in range(draws)),
            oracle=None if gains is None else np.argsort(-gains, kind="stable"),
        )


def _threshold(difficulties: FloatArray, hard_share: float) -> float:
    return threshold_for_easy_share(difficulties, 1 - hard_share)


def _point(score: MixedPrecision, difficulties: FloatArray, threshold: float, ranks: _Ranks) -> OperatingPoint:
    routed = is_hard(difficulties, threshold)
    count = int(routed.sum())
    return OperatingPoint(
        hard_share=count / len(routed),
        threshold=threshold,
        precision=score(routed),
        random=_mean([score(_first(order, count)) for order in ranks.random]),
        oracle=None if ranks.oracle is None else score(_first(ranks.oracle, count)),
    )


def _deviation(score: MixedPrecision, curve: Sequence[OperatingPoint], ranks: _Ranks) -> float:
    counts = [round(point.hard_share * len(ranks.random[0])) for point in curve]
    means = [np.mean([score(_first(order, count)).ap for count in counts]) for order in ranks.random]
    return float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def _first(order: npt.NDArray[np.int64], count: int) -> BoolArray:
    chosen = np.zeros(len(order), np.bool_)
    chosen[order[:count]] = True
    return chosen


def _mean(values: Sequence[Precision]) -> Precision:
    return Precision(float(np.mean([one.ap for one in values])), float(np.mean([one.ap50 for one in values])))
