"""Makes the scores of two detectors comparable: one precision-recall curve ranks the detections of both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dynamicdet.aliases import Float32Array, FloatArray
from dynamicdet.evaluation.precision import MixedPrecision
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.truth import Truth, mixed_precision

MOST_POINTS = 64
"""of a table, so that it costs next to nothing in a graph"""
_SHARES = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
"""shares of pictures answered by the large detector at which calibrated and own scores are compared"""
_DRAWS = 3
_LEAST_SLOPE = 0.02
"""of a table, so that no two scores become equal in single precision"""

Table = tuple[tuple[float, float], ...]
"""scores, ascending, and what is given instead, linear between; empty: as is"""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Score tables of both detectors, and what they do to the precision of mixes."""

    small: Table
    large: Table
    own: float
    """AP (or agreement), percent, mean over random mixes with the detectors' own scores"""
    calibrated: float
    """the same mixes with the tables' scores"""

    @property
    def used(self) -> bool:
        """Whether the tables are used: only if they do not hurt."""
        return self.calibrated >= self.own

    @property
    def tables(self) -> tuple[Table, Table]:
        """Those of the small and the large detector to be put into their graphs; empty if they are not used."""
        return (self.small, self.large) if self.used else ((), ())


def calibrate_scores(
    small: Answers, large: Answers, truth: Truth, *, seed: int = 0, score: MixedPrecision | None = None
) -> Calibration:
    """Fit a table for each detector: score to the share of such detections that find an object.

    That share is the mean over IoU 0.50 to 0.95. `score` is `mixed_precision(truth, small, large)` if it is there
    already. The tables increase strictly, so that the precision of each detector alone does not change.
    """
    score = score or mixed_precision(truth, small, large)
    tables = tuple(_fit_table(score, by_large=by_large) for by_large in (False, True))
    changed = mixed_precision(truth, with_table(small, tables[0]), with_table(large, tables[1]))
    rng = np.random.default_rng(seed)
    mixes = [rng.random(len(small)) < share for share in _SHARES for _ in range(_DRAWS)]
    own, calibrated = (float(np.mean([one(mix).ap for mix in mixes])) for one in (score, changed))
    return Calibration(small=tables[0], large=tables[1], own=own, calibrated=calibrated)


def with_table(answers: Answers, table: Table) -> Answers:
    """The answers with the table's scores."""
    if not table:
        return answers
    return replace(answers, scores=tuple(apply_table(one, table) for one in answers.scores))


def apply_table(scores: Float32Array, table: Table) -> Float32Array:
    """Scores (n,) after the table, in single precision; as is outside of an empty table."""
    if not table:
        return scores
    given, instead = np.array(table, np.float64).T
    changed: Float32Array = np.interp(scores, given, instead).astype(np.float32)
    return changed


def _fit_table(score: MixedPrecision, *, by_large: bool) -> Table:
    """Precision over score of one detector's detections, increasing strictly, from score 0 to 1."""
    chosen = [(one, one.by_hard == by_large) for one in score.classes]
    scores = np.concatenate([one.scores[rows] for one, rows in chosen] or [np.empty(0)])
    found = np.concatenate([one.hits[:, rows].mean(axis=0) for one, rows in chosen] or [np.empty(0)])
    judged = np.concatenate([(one.hits | one.misses)[:, rows].all(axis=0) for one, rows in chosen] or [np.empty(0)])
    scores, found = scores[judged > 0], found[judged > 0]
    if len(scores) == 0:
        return ()
    order = np.argsort(scores, kind="stable")
    x, y = _as_bins(scores[order], found[order])
    level = np.interp(x, x, _increasing(y))
    x, level = np.array([0.0, *x, 1.0]), np.array([0.0, *level, level[-1]])
    level = (1 - _LEAST_SLOPE) * level.clip(0, 1) + _LEAST_SLOPE * x
    return tuple(zip(x.tolist(), level.tolist(), strict=True))


def _as_bins(scores: FloatArray, found: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean score and mean precision of bins with equally many hits: most detections have a score near 0 and hit none.

    Bins whose scores are the same are one.
    """
    mass = np.cumsum(found + 1e-3)
    number = np.minimum((mass / mass[-1] * (MOST_POINTS - 2)).astype(np.int64), MOST_POINTS - 3)
    first = np.flatnonzero(np.diff(number, prepend=-1))
    count = np.diff(first, append=len(scores))
    x = (np.add.reduceat(scores, first) / count).clip(1e-6, 1 - 1e-6)
    y = np.add.reduceat(found, first) / count
    apart = np.diff(x, prepend=-1.0) > 1e-6
    return x[apart], y[apart]


def _increasing(values: FloatArray) -> FloatArray:
    """The nearest values that never decrease (isotonic regression, pooling neighbours that do)."""
    means: list[float] = []
    sizes: list[int] = []
    for value in values.tolist():
        means.append(value)
        sizes.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            mean, size = means.pop(), sizes.pop()
            means[-1] = (means[-1] * sizes[-1] + mean * size) / (sizes[-1] + size)
            sizes[-1] += size
    return np.repeat(means, sizes)
