"""Judges who chooses which pictures are hard, by the share of detector 2's gain that the choice keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from dynamicdet.aliases import BoolArray, FloatArray, IntArray
from dynamicdet.evaluation.precision import MixedPrecision

HARD_SHARES = (0.2, 0.5)
"""at which choices are compared"""
DRAWS = 40
"""of the bootstrap"""


@dataclass(frozen=True, kw_only=True)
class KeptGain:
    """Share of the gain (all hard minus all easy) that a choice of hard pictures keeps, 1 = all of it."""

    at: Mapping[float, float]
    """by hard share"""
    error: Mapping[float, float] = field(default_factory=dict)
    """standard errors, by bootstrap over the clips; empty if they were not computed"""

    @property
    def mean(self) -> float:
        """Over the hard shares."""
        return float(np.mean(list(self.at.values())))


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Compares orders of the same N pictures; a larger value means that a picture is harder."""

    score: MixedPrecision
    groups: IntArray
    """(N,) number of the clip that a picture belongs to; the bootstrap draws clips"""
    seed: int = 0

    @property
    def gain(self) -> float:
        """AP all hard minus AP all easy."""
        easy, hard = self._ends(None)
        return hard - easy

    def kept(self, difficulties: FloatArray) -> KeptGain:
        """What an order of the pictures keeps, without errors. The gain must not be 0."""
        kept = self._gained(difficulties, None) / self.gain
        return KeptGain(at=dict(zip(HARD_SHARES, kept.tolist(), strict=True)))

    def with_errors(self, orders: Mapping[str, FloatArray]) -> dict[str, KeptGain]:
        """What each order keeps, with standard errors. The gain must not be 0."""
        drawn = self._drawn(list(orders.values()))
        errors = drawn.std(axis=0, ddof=1)
        return {
            name: replace(self.kept(order), error=dict(zip(HARD_SHARES, row.tolist(), strict=True)))
            for (name, order), row in zip(orders.items(), errors, strict=True)
        }

    def compare(self, first: FloatArray, second: FloatArray) -> tuple[KeptGain, KeptGain, float, float]:
        """Kept gain of both with standard errors, and the mean lead of the first with its own."""
        drawn = self._drawn([first, second])
        one, other = (
            replace(self.kept(order), error=dict(zip(HARD_SHARES, row.tolist(), strict=True)))
            for order, row in zip((first, second), drawn.std(axis=0, ddof=1), strict=True)
        )
        error = float((drawn[:, 0] - drawn[:, 1]).mean(axis=1).std(ddof=1))
        return one, other, one.mean - other.mean, error

    def _drawn(self, orders: list[FloatArray]) -> FloatArray:
        """Kept gain of each order in each draw of the bootstrap, (draws, orders, shares)."""
        rng = np.random.default_rng(self.seed)
        clips = int(self.groups.max()) + 1
        drawn: list[list[FloatArray]] = []
        while len(drawn) < DRAWS:
            counts = np.bincount(rng.integers(0, clips, clips), minlength=clips)[self.groups].astype(np.float64)
            if not np.isnan(self._ends(counts)[0]):  # NaN: no object was drawn
                drawn.append([self._gained(order, counts) for order in orders])
        # By the gain of all pictures: where a draw leaves hardly a gain, its share of it would explode.
        return np.array(drawn) / self.gain

    def _gained(self, difficulties: FloatArray, counts: FloatArray | None) -> FloatArray:
        easy, _ = self._ends(counts)
        return np.array([self.score(hardest(difficulties, one), counts=counts).ap - easy for one in HARD_SHARES])

    def _ends(self, counts: FloatArray | None) -> tuple[float, float]:
        none = np.zeros(len(self.groups), np.bool_)
        return self.score(none, counts=counts).ap, self.score(~none, counts=counts).ap


def hardest(difficulties: FloatArray, share: float) -> BoolArray:
    """The pictures (N,) of this share that have the largest values; of equal ones, the first."""
    hard = np.zeros(len(difficulties), np.bool_)
    hard[np.argsort(-difficulties, kind="stable")[: round(share * len(difficulties))]] = True
    return hard
