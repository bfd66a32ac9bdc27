"""Makes the scores of two detectors comparable: one precision-recall curve ranks the detections of both."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dynamicdet.aliases import Float32Array
from dynamicdet.evaluation.precision import MixedPrecision
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.truth import Truth, mixed_precision

MOST_POINTS = 64
"""of a table, so that it costs next to nothing in a graph"""
_SHARES = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
"""shares of pictures answered by the large detector at which calibrated and own scores are compared"""
_DRAWS = 3
_LEAST_SLOPE = 1e-3
"""of a table, so that no two scores become equal"""

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
    raise NotImplementedError


def with_table(answers: Answers, table: Table) -> Answers:
    """The answers with the table's scores."""
    if not table:
        return answers
    return replace(answers, scores=tuple(apply_table(one, table) for one in answers.scores))


def apply_table(scores: Float32Array, table: Table) -> Float32Array:
    """Scores (n,) after the table, in single precision; as is outside of an empty table."""
    raise NotImplementedError
