"""Ranks variants by what they find, and says which of them the pictures cannot tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dynamicdet.aliases import FloatArray
from dynamicdet.evaluation.precision import MixedPrecision
from dynamicdet.suppression import Detections
from dyndet_builder.detectors.probing.variants import FIELDS, Field, Variant

Measure = Literal["AP", "agreement", "scores"]
WORDS: Mapping[Measure, str] = {
    "AP": "AP",
    "agreement": "agreement with the other detector (AP with its objects as labels)",
    "scores": "sum of the scores above 0.25, per picture",
}
SURE_SCORE = 0.25
_DRAWS = 100
_SURE = 0.95
"""share of draws in which the best variant must win"""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is in the pictures, as `MixedPrecision` reads it."""

    folder: Path
    annotations: Mapping[str, Any]
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What one variant reached."""

    variant: Variant
    value: float
    """of the measure"""
    ap50: float | None
    """None without labels"""
    score_sum: float
    """scores above 0.25, per picture"""
    agreement: float | None
    """with the other detector; None without one"""
    behind: float
    """the best variant's value minus this one's"""
    behind_range: tuple[float, float]
    """5 % and 95 % quantile of it over pictures drawn again"""
    beaten: float
    """share of the draws in which the best variant is better"""

    @property
    def is_close(self) -> bool:
        """Whether these pictures cannot tell it from the best one."""
        return self.beaten < _SURE


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Variants from the best to the worst."""

    measure: Measure
    pictures: int
    rows: tuple[Tried, ...]

    @property
    def finds_something(self) -> bool:
        """Whether any variant finds anything."""
        return self.rows[0].value > 0

    @property
    def close(self) -> tuple[Tried, ...]:
        """The best variant, and those that cannot be told from it."""
        return (self.rows[0], *(row for row in self.rows[1:] if row.is_close))

    @property
    def close_variants(self) -> tuple[Variant, ...]:
        """The variants of `close`."""
        return tuple(row.variant for row in self.close)

    @property
    def winner(self) -> Variant | None:
        """The best variant, if no other is close to it."""
        return self.rows[0].variant if self.finds_something and len(self.close) == 1 else None

    @property
    def open_fields(self) -> tuple[Field, ...]:
        """Fields in which variants differ that cannot be told apart."""
        values = {field: {row.variant.value_of(field) for row in self.close} for field in FIELDS}
        return tuple(field for field in FIELDS if len(values[field]) > 1)


def rank(
    found: Mapping[Variant, Sequence[Detections]],
    *,
    labels: Labels | None = None,
    other: Labels | None = None,
    seed: int = 0,
) -> Ranking:
    """Rank variants by what they find in the same pictures, boxes in pixels of the original pictures.

    By average precision where there are `labels`, else by agreement with the `other` detector's objects, else by the
    sum of scores above 0.25. Pictures are drawn again and again, with repetition, to see which order would be chance.
    """
    variants = list(found)
    pictures = len(found[variants[0]])
    draws = _draws(pictures, seed)
    sums = np.array([[_score_sum(one) for one in found[variant]] for variant in variants])  # (variants, pictures)
    measured = {"scores": sums @ draws.T / pictures}
    ap50 = np.zeros(0)
    for name, truth in (("AP", labels), ("agreement", other)):
        if truth is not None:
            measured[name], fifty = _precisions([found[one] for one in variants], truth, draws)
            ap50 = fifty if name == "AP" else ap50
    measure: Measure = "AP" if labels is not None else "agreement" if other is not None else "scores"
    values = measured[measure]  # (variants, 1 + draws); the first draw is the pictures themselves
    order = np.argsort(-values[:, 0], kind="stable")
    best = values[order[0]]
    rows = []
    for number in order:
        behind = best - values[number]
        low, high = np.quantile(behind[1:], (0.05, 0.95))
        rows.append(
            Tried(
                variant=variants[number],
                value=float(values[number, 0]),
                ap50=float(ap50[number]) if len(ap50) else None,
                score_sum=float(measured["scores"][number, 0]),
                agreement=float(measured["agreement"][number, 0]) if "agreement" in measured else None,
                behind=float(behind[0]),
                behind_range=(float(low), float(high)),
                beaten=float(np.mean(behind[1:] > 0)),
            )
        )
    return Ranking(measure=measure, pictures=pictures, rows=tuple(rows))


def _draws(pictures: int, seed: int) -> FloatArray:
    """(1 + draws, pictures): how often each picture counts; in the first row, all count once."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(pictures, np.full(pictures, 1 / pictures), size=_DRAWS)
    return np.concatenate([np.ones((1, pictures)), drawn])


def _score_sum(found: Detections) -> float:
    return float(found.scores[found.scores > SURE_SCORE].sum())


@dataclass(frozen=True)
class _Two:
    """Two variants in the places of two routes, so that each is matched once."""

    easy: Sequence[Detections]
    hard: Sequence[Detections]


def _precisions(
    found: Sequence[Sequence[Detections]], truth: Labels, draws: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """AP of each variant in each draw, (variants, 1 + draws); 0 where no object is drawn. And AP50 of each variant."""
    pictures = draws.shape[1]
    aps, fifties = [], []
    for first in range(0, len(found), 2):
        two = found[first : first + 2]
        score = MixedPrecision(_Two(two[0], two[-1]), truth)
        for number in range(len(two)):
            chosen = np.full(pictures, number == 1)
            results = [score(chosen, counts=counts) for counts in draws]
            aps.append([one.ap for one in results])
            fifties.append(results[0].ap50)
    return np.nan_to_num(np.array(aps)), np.nan_to_num(np.array(fifties))
