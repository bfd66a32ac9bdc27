"""Fits a router for a pair of detectors, or takes a free rule that it does not beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynamicdet.aliases import Float32Array
from dynamicdet.evaluation.precision import MixedPrecision
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.truth import Truth

LEAST_PICTURES = 200
"""fewer do not show whether a learned router is better than a rule"""
HARD_SHARES = (0.2, 0.5)
"""at which routers are compared"""


@dataclass(frozen=True, kw_only=True)
class KeptGain:
    """Share of the gain (all hard minus all easy) that a choice of hard pictures keeps, 1 = all of it."""

    at: Mapping[float, float]
    """by hard share; of pictures that did not train the router"""
    error: Mapping[float, float]
    """standard errors, by bootstrap over pictures"""


@dataclass(frozen=True, kw_only=True)
class FittedRouter:
    """A router: what detector 1 found in a picture to a difficulty."""

    kind: str
    """`learned`, or the name of the free rule"""
    why: str
    """one sentence: why this kind"""
    images: int
    """that it was fitted on"""
    by_labels: bool
    out_of_fold: Float32Array
    """(N,) difficulties of the pictures that it was fitted on, each by a router that had not seen it"""
    learned: KeptGain | None
    """of the learned router out of fold, even if a rule is used; None below `LEAST_PICTURES` or without gain"""
    rules: Mapping[str, KeptGain]
    """of every free rule; empty without gain"""

    @property
    def kept_gain(self) -> dict[str, float]:
        """Kept gain of this router by hard share, for the bundle; empty if there is no gain."""
        raise NotImplementedError

    def difficulty(self, answers: Answers) -> Float32Array:
        """Difficulties of pictures (N,), 0..1, from what detector 1 found in them."""
        raise NotImplementedError


def fit_router(
    small: Answers,
    large: Answers,
    truth: Truth,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    score: MixedPrecision | None = None,
) -> FittedRouter:
    """Fit a router on pictures that neither detector was trained on; takes seconds.

    Scores must be calibrated already (`scores.py`). `groups` (N,) names the clip of each picture (`clips_of` reads
    them from the file names); pictures of a clip are never on both sides of a cross-validation. `score` is
    `mixed_precision(truth, small, large)` if it is there already. The same input and seed give the same router.
    """
    raise NotImplementedError


def clips_of(names: Sequence[str]) -> list[str]:
    """Clip of each picture by its file name: `street_0001.jpg` and `street_0002.jpg` are of one clip."""
    raise NotImplementedError
