"""COCO average precision of both routes and of any mix of them, from one pass over the images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.errors import InputError
from dynamicdet.evaluation.points import (
    CURVE_HARD_SHARES,
    LEAST_AP,
    LEAST_GAP,
    OperatingPoint,
    Orders,
    RoutePrecision,
    measure,
    threshold_of,
)
from dynamicdet.evaluation.precision import MixedPrecision
from dynamicdet.networks.network import RoutedNetwork
from dynamicdet.routing.routes import RouteResults, run_routes

__all__ = [
    "CURVE_HARD_SHARES",
    "DEFAULT_HARD_SHARES",
    "LEAST_AP",
    "LEAST_GAP",
    "Evaluation",
    "OperatingPoint",
    "RoutePrecision",
    "Seconds",
    "check_points",
    "evaluate",
    "evaluate_results",
]

DEFAULT_HARD_SHARES = (0.0, 0.1, 0.2, 0.5, 0.9, 1.0)
SAME_DIFFICULTY = 1e-6
LEAST_IMAGES = 50
"""fewer cannot show that a gap or a router is none"""


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
class Evaluation(RoutePrecision):
    """Average precision of both routes and of mixes of them: of the boxes, and of the masks if there are any."""

    images: int
    masks: RoutePrecision | None
    """at the same thresholds, with the same images sent to detector 2; None without masks or segmentations"""
    difficulty_quantiles: Mapping[str, float]
    """difficulties below which 10, 25, 50, 75 and 90 % of the images are"""
    random_draws: int
    difficulty_range: float
    """largest difficulty minus the smallest"""
    seconds: Seconds

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
        """What would be a shortcoming if more images showed it, and masks that gain nothing."""
        found = []
        if self.images < LEAST_IMAGES and not self.shortcomings():
            found = [f"{one}; {self.images} images are too few to tell" for one in self._measured()]
        if self.masks is not None and self.masks.gap < LEAST_GAP <= self.gap:
            found.append(
                f"detector 2 finds boxes better than detector 1, but its masks are not better (mask AP all easy "
                f"{self.masks.easy.ap:.1f}, all hard {self.masks.hard.ap:.1f})"
            )
        return found

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
        """Plain data. What is about the masks has names that begin with `mask_`."""
        masks = self.masks
        of_masks: dict[str, Any] = {}
        if masks is not None:
            of_masks = {
                "mask_ap": {"easy": asdict(masks.easy), "hard": asdict(masks.hard)},
                "mask_mean_ap": masks.mean_ap(),
                "mask_random_deviation": masks.random_deviation,
            }
        return {
            "images": self.images,
            "ap": {"easy": asdict(self.easy), "hard": asdict(self.hard)},
            "operating_points": self._all(self.points, None if masks is None else masks.points),
            "curve": self._all(self.curve, None if masks is None else masks.curve),
            "mean_ap": self.mean_ap(),
            "random_deviation": self.random_deviation,
            **of_masks,
            "shortcomings": self.shortcomings(),
            "remarks": self.remarks(),
            "difficulty_quantiles": dict(self.difficulty_quantiles),
            "random_draws": self.random_draws,
            "seconds": {**asdict(self.seconds), "ratio": self.seconds.ratio},
        }

    def _all(self, points: Sequence[OperatingPoint], masks: Sequence[OperatingPoint] | None) -> list[dict[str, Any]]:
        found = [self.as_point(point) for point in points]
        for entry, point in zip(found, masks or (), strict=masks is not None):
            assert self.masks is not None
            values = self.masks.as_point(point)
            entry |= {f"mask_{name}": values[name] for name in ("precision", "random", "oracle", "gap_recovered")}
        return found


def evaluate(
    model: RoutedNetwork,
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
    """Average precision of both routes, of the router at each hard share and threshold, and of the references.

    That of masks as well, if results and data set have masks. Raises InputError for shares and
    thresholds outside 0..1, and for data without objects.
    """
    check_points(hard_shares, thresholds)
    if random_draws < 1:
        raise InputError(f"random routing needs at least one draw, got {random_draws}")
    start = time.perf_counter()
    difficulties = results.difficulties
    orders = Orders.of(results, draws=random_draws, seed=seed)
    asked = [*(threshold_of(difficulties, share) for share in hard_shares), *thresholds]
    boxes = measure(MixedPrecision(results, data), difficulties, orders, thresholds=asked)
    masks = None
    if results.has_masks and data.has_masks:
        masks = measure(MixedPrecision(results, data, "masks"), difficulties, orders, thresholds=asked)
    levels = (10, 25, 50, 75, 90)
    quantiles = np.nanpercentile(difficulties, levels)
    return Evaluation(
        easy=boxes.easy,
        hard=boxes.hard,
        points=boxes.points,
        curve=boxes.curve,
        random_deviation=boxes.random_deviation,
        images=len(data),
        masks=masks,
        difficulty_quantiles={f"{level}%": float(value) for level, value in zip(levels, quantiles, strict=True)},
        random_draws=random_draws,
        difficulty_range=float(np.ptp(difficulties)),
        seconds=Seconds(
            passes=results.pass_s,
            losses=results.loss_s,
            scoring=time.perf_counter() - start,
            thresholds=len(boxes.points) + len(boxes.curve),
        ),
    )
