"""Average precision of many mixes of two detectors, each for many weightings of the pictures at once.

A bootstrap draws pictures with replacement, so a picture counts as often as it was drawn; a stream makes some pictures
count more than others. Both are weights. A match depends only on its own picture, so the matches are made and sorted
once, and a weighted precision-recall curve is a few cumulative sums. Only hits can raise the precision, and recall
changes only there. So the curve is computed at the hits alone, which are few beside the detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import BoolArray, Float32Array, FloatArray
from dynamicdet.evaluation.precision import ClassMatches

_RECALLS = 100
"""steps of recall at which COCO looks at a precision, beside 0"""
_ROUNDING = 1e-6
"""of a recall in 32-bit floats: 3 of 10 objects are recall 0.30"""
_MOST_NUMBERS = 8_000_000
"""of one array"""


class Mixes:
    """Mean average precision, percent, of mixes of two detectors on N pictures."""

    def __init__(self, classes: Sequence[ClassMatches], *, pictures: int) -> None:
        self.pictures = pictures
        self._classes = tuple(one for one in classes if one.objects.any())

    def ap(self, hard: BoolArray, weights: FloatArray | None = None) -> float:
        """AP of a mix: `hard` (N,) says which pictures detector 2 answers; `weights` (N,), None: each picture 1."""
        rows = np.ones((1, self.pictures)) if weights is None else weights[np.newaxis]
        return float(self._ap(hard, rows)[0])

    def each_ap(self, hard: BoolArray, weights: Float32Array) -> FloatArray:
        """AP of a mix for each row of weights (R, N), as (R,)."""
        longest = max((len(one.image) for one in self._classes), default=1)
        rows = max(1, _MOST_NUMBERS // max(1, longest))
        parts = [self._ap(hard, weights[first : first + rows]) for first in range(0, len(weights), rows)]
        return np.concatenate(parts)

    def _ap(self, hard: BoolArray, weights: npt.NDArray[np.floating[Any]]) -> FloatArray:
        if not self._classes:
            return np.full(len(weights), np.nan)
        found = np.stack([_class_ap(one, hard, weights) for one in self._classes])  # (classes, R)
        known = ~np.isnan(found)
        sums = np.where(known, found, 0.0).sum(axis=0)
        mean: FloatArray = 100 * sums / np.maximum(known.sum(axis=0), 1)
        return np.where(known.any(axis=0), mean, np.nan)


def _class_ap(one: ClassMatches, hard: BoolArray, weights: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """AP of one class, 0..1, mean over the IoU thresholds, (R,); NaN where no picture that counts has an object."""
    objects = weights @ one.objects.astype(weights.dtype)  # (R,)
    used = np.flatnonzero(one.by_hard == hard[one.image])
    hits = one.hits[:, used]
    last = np.flatnonzero(hits.any(axis=0))
    used = used[: last[-1] + 1 if last.size else 0]  # a miss after the last hit changes nothing
    hits, counted = hits[:, : used.size], (one.hits | one.misses)[:, used]
    each = weights[:, one.image[used]]  # (R, D)
    everywhere = np.cumsum(each, axis=1) if counted.all() else None
    total = np.zeros(len(weights))
    for hit, count in zip(hits, counted, strict=True):
        at = np.flatnonzero(hit)
        if at.size:
            seen = everywhere if everywhere is not None else np.cumsum(np.where(count, each, 0), axis=1)
            total += _interpolated(np.cumsum(each[:, at], axis=1), seen[:, at], objects)
    return np.where(objects > 0, total / len(one.hits), np.nan)


def _interpolated(
    hits: npt.NDArray[np.floating[Any]], seen: npt.NDArray[np.floating[Any]], objects: npt.NDArray[np.floating[Any]]
) -> FloatArray:
    """COCO's mean precision over 101 recalls, from the sums of hits and detections at each hit, (R, hits), as (R,)."""
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    best_from = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = np.divide(hits, objects[:, np.newaxis], out=np.zeros_like(hits), where=objects[:, np.newaxis] > 0)
    reached = np.floor(_RECALLS * recall + _RECALLS * _ROUNDING) + 1  # steps of recall up to each hit, 0 among them
    steps = np.diff(reached, axis=1, prepend=0)
    mean: FloatArray = (steps * best_from).sum(axis=1, dtype=np.float64) / (_RECALLS + 1)
    return mean


def bootstrap_weights(pictures: int, *, resamples: int, seed: int, weights: FloatArray | None = None) -> Float32Array:
    """How often each picture is drawn in each resample, (R, N), times its own weight."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(pictures, np.full(pictures, 1 / pictures), size=resamples).astype(np.float32)
    return drawn if weights is None else drawn * weights.astype(np.float32)
