"""The operating points of a detector, in the words of a page: a threshold, what it promises, what to expect of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dyndet_builder.trying.history import BINS
from dyndet_client.results.operating_points import OperatingPoint, default_of


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One operating point."""

    threshold: float
    statistic: str | None = None
    """`mean`, such as `p95`, or `throughput`; None without a promise"""
    goal: float | None = None
    """in ms, or pictures per second"""
    unit: str = "ms"

    @property
    def text(self) -> str:
        """What it promises, such as `mean of 9.1 ms`; empty if it promises nothing."""
        if self.statistic is None or self.goal is None:
            return ""
        if self.unit == "/s":
            return f"{self.goal:.4g} pictures per second"
        return f"{self.statistic} of {self.goal:.4g} ms"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a calibration measured: latencies of both routes, and difficulties of its pictures."""

    easy_ms: float
    hard_ms: float
    difficulty_quantiles: tuple[float, ...]
    """at equal steps from 0 % to 100 %"""

    def hard_share(self, threshold: float) -> float:
        """Share of the calibration's pictures that are hard at a threshold."""
        if threshold <= 0:
            return 1.0
        return 1.0 - self._share_up_to(threshold)

    def mean_ms(self, threshold: float) -> float:
        """The mean latency to expect of such pictures at a threshold."""
        return self.easy_ms + self.hard_share(threshold) * (self.hard_ms - self.easy_ms)

    def shares(self) -> tuple[float, ...]:
        """Share of the calibration's pictures in each of `BINS` equal bins of difficulty."""
        ends = [self._share_up_to(end) for end in np.linspace(0, 1, BINS + 1)[1:]]
        return tuple(np.diff([0.0, *ends]).tolist())

    def _share_up_to(self, difficulty: float) -> float:
        """Share of pictures with at most this difficulty: quantiles do not decrease, but several can be equal."""
        levels = np.asarray(self.difficulty_quantiles)
        steps = np.linspace(0, 1, levels.size)
        if difficulty >= levels[-1]:
            return 1.0
        if difficulty < levels[0]:
            return 0.0
        after = int(np.searchsorted(levels, difficulty, side="right"))
        low, high = levels[after - 1], levels[after]
        return float(steps[after - 1] + (difficulty - low) / (high - low) * (steps[after] - steps[after - 1]))


@dataclass(frozen=True, kw_only=True)
class Points:
    """The operating points of a detector."""

    default: str | None = None
    """name of the one in force when nothing else is asked for; None if nothing was calibrated"""
    first_threshold: float = 0.5
    """the threshold in force when nothing else is asked for"""
    promises: Mapping[str, Promise] = field(default_factory=dict)


def points_of(served: Mapping[str, OperatingPoint]) -> Points:
    """The operating points as a server gives them; thresholds that were never measured are no promises."""
    promises = {
        name: Promise(threshold=point.threshold, statistic=point.statistic, goal=point.goal, unit=point.unit or "ms")
        for name, point in served.items()
        if point.is_calibrated
    }
    default = default_of(served)
    return Points(
        default=default.name if default.name in promises else None,
        first_threshold=default.threshold,
        promises=promises,
    )
