"""Fits a router for a pair of detectors, or takes a free rule that it does not beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dynamicdet.aliases import BoolArray, Float32Array, FloatArray, IntArray
from dynamicdet.datasets.clips import clips_of
from dynamicdet.evaluation.evaluate import LEAST_GAP
from dynamicdet.evaluation.precision import MixedPrecision
from dynamicdet.router.features import features
from dynamicdet.router.influence import influence_of
from dynamicdet.router.kept_gain import Judge, KeptGain
from dynamicdet.router.rules import RULES, WEIGHTS
from dynamicdet.router.weighted import Network, weighted_sum
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.router.fitting import fit_network
from dyndet_builder.pairing.truth import Truth, mixed_precision

__all__ = ["FittedRouter", "KeptGain", "clips_of", "fit_router"]

LEAST_PICTURES = 200
"""fewer do not show whether a learned router is better than a rule"""
DEFAULT_RULE = "count-0.2"
"""where the pictures cannot say which rule is best"""
LEARNED = "learned"
_FOLDS = 5


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
    network: Network
    out_of_fold: Float32Array
    """(N,) difficulties of the pictures that it was fitted on, each by a router that had not seen it"""
    learned: KeptGain | None = None
    """of the learned router out of fold, even if a rule is used; None if none was fitted"""
    rules: Mapping[str, KeptGain] = field(default_factory=dict)
    """of every free rule; empty if there is no gain"""

    @property
    def kept_gain(self) -> dict[str, float]:
        """Kept gain of this router by hard share, for the bundle; empty if there is no gain."""
        kept = self.learned if self.kind == LEARNED else self.rules.get(self.kind)
        return {} if kept is None else {f"{share:g}": value for share, value in kept.at.items()}

    def difficulty(self, answers: Answers) -> Float32Array:
        """Difficulties of pictures (N,), 0..1, from what detector 1 found in them."""
        return self.network.difficulty(features(answers, class_count=self.network.class_count))


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

    A detector finds more in the pictures that it was trained on than in others, and is surer. A router that was fitted
    on them takes new pictures for harder than they are, and learns a gain that does not exist.

    Scores must be calibrated already (`scores.py`). `groups` (N,) names the clip of each picture (`clips_of` reads
    them from the file names); pictures of a clip are never on both sides of a cross-validation. `score` is
    `mixed_precision(truth, small, large)` if it is there already. The same input and seed give the same router.

    Raises InputError if the answers and the truth are not of equally many pictures, or there are no objects.
    """
    score = score or mixed_precision(truth, small, large)
    fitted = _Fit(
        inputs=features(small, class_count=len(truth.class_names)),
        class_count=len(truth.class_names),
        groups=np.unique(list(groups), return_inverse=True)[1] if groups else np.arange(len(small)),
        score=score,
        seed=seed,
        measure=truth.measure,
    )
    judge = Judge(score=score, groups=fitted.groups, seed=seed)
    if judge.gain < LEAST_GAP:
        why = f"detector 2 does not have a higher {truth.measure} than detector 1 on these pictures"
        return fitted.as_rule(DEFAULT_RULE, truth, why)
    rules = {name: judge.kept(rule(small)) for name, rule in RULES.items()}
    best = max(rules, key=lambda name: rules[name].mean)
    if len(small) < LEAST_PICTURES:
        why = f"{len(small)} pictures are too few to fit a router; from {LEAST_PICTURES} on one is tried"
        return fitted.as_rule(DEFAULT_RULE, truth, why, rules=rules)
    out_of_fold = fitted.out_of_fold()
    kept, rules[best], lead, error = judge.compare(out_of_fold.astype(np.float64), RULES[best](small))
    numbers = f"{100 * lead:+.1f} points of the gain, standard error {100 * error:.1f}"
    if lead <= error:
        why = f"the learned router does not clearly beat the best free rule ({numbers})"
        return fitted.as_rule(best, truth, why, rules=rules, learned=kept)
    return FittedRouter(
        kind=LEARNED,
        why=f"the learned router beats the best free rule, {best} ({numbers})",
        images=len(small),
        by_labels=truth.by_labels,
        network=fitted.network(np.ones(len(small), np.bool_)),
        out_of_fold=out_of_fold,
        learned=kept,
        rules=rules,
    )


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """What a router is fitted and compared with."""

    inputs: FloatArray
    """(N, F)"""
    class_count: int
    groups: IntArray
    """(N,) number of the clip"""
    score: MixedPrecision
    seed: int
    measure: str

    def network(self, chosen: BoolArray) -> Network:
        """A learned router, fitted on the chosen pictures (N,)."""
        targets = influence_of(self.score, counts=chosen)[chosen]
        inputs = self.inputs[chosen]
        return fit_network(inputs, targets, class_count=self.class_count, seed=self.seed).ranked(inputs)

    def out_of_fold(self) -> Float32Array:
        """Difficulty of each picture by a learned router that has seen no picture of its clip."""
        count = int(self.groups.max()) + 1
        fold = (np.random.default_rng(self.seed).permutation(count) % _FOLDS)[self.groups]
        difficulties = np.zeros(len(self.groups), np.float32)
        for number in np.unique(fold):
            held = fold == number
            difficulties[held] = self.network(~held).difficulty(self.inputs[held])
        return difficulties

    def as_rule(
        self,
        name: str,
        truth: Truth,
        why: str,
        *,
        rules: Mapping[str, KeptGain] | None = None,
        learned: KeptGain | None = None,
    ) -> FittedRouter:
        network = weighted_sum(WEIGHTS[name], class_count=self.class_count).ranked(self.inputs)
        return FittedRouter(
            kind=name,
            why=f"{why}, so the free rule {name} is used",
            images=len(truth),
            by_labels=truth.by_labels,
            network=network,
            out_of_fold=network.difficulty(self.inputs),
            learned=learned,
            rules=rules or {},
        )
