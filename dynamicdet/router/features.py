"""What detector 1 found in a picture, as numbers: what free rules and the routers of pairs read.

Nothing here jumps where a score or box changes a little, but for the counts that the free rules need: the graph
computes in single precision on another machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import BoolArray, Float32Array, FloatArray, IntArray
from dynamicdet.letterbox import Fit

TOP = 25
"""best scores that are features of their own"""
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
"""of the soft counts; each is blurred by a quarter of itself"""
COUNTS = (0.2, 0.5)
"""of the counts that free rules use"""
SIDES = (-6.0, -5.25, -4.5, -3.75, -3.0, -2.25, -1.5, -0.75)
"""centres of the size bins: base-2 logarithm of the square root of a box's share of the picture"""
SIDE_STEP = 0.75
SMALL_SIDE = 0.2
"""side from which on an object is not small, as a share of the picture's side"""
RULES_ONLY = ("count 0.2", "count 0.5", "uncertain", "mean", "small", "least side")
"""what a learned router does not read: it keeps no more of the gain with them, and each costs time"""
MOST_CLASSES = 100
"""with more, the counts per class are left out: each would be seen too rarely"""
_CHUNK = 256


class Answered(Protocol):
    """What detector 1 found in each of N pictures, the best object first."""

    @property
    def fit(self) -> Fit:
        """How the pictures were fitted."""

    @property
    def boxes(self) -> Sequence[Float32Array]:
        """(n, 4) x1 y1 x2 y2 of each picture, in pixels of the fitted picture."""

    @property
    def scores(self) -> Sequence[Float32Array]:
        """(n,) of each picture."""

    @property
    def classes(self) -> Sequence[npt.NDArray[np.int64]]:
        """(n,) of each picture."""

    @property
    def looks(self) -> Float32Array:
        """(N, 2) mean and standard deviation of the fitted picture, 0..1; see `looks_of`."""


def looks_of(image: Any) -> tuple[float, float]:
    """Mean and standard deviation of every 16th pixel of a fitted picture (H, W, 3), as in the graph of a pair."""
    sample = np.asarray(image)[::16, ::16].astype(np.float32) / 255
    grey = sample.mean(axis=-1)
    return float(grey.mean()), float(grey.std())


@dataclass(frozen=True)
class Found:
    """Some pictures' answers in one array each; unused rows are zero, as in a graph's output."""

    scores: FloatArray
    """(B, K) best first"""
    boxes: FloatArray
    """(B, K, 4) x1 y1 x2 y2, 0..1 of the fitted picture"""
    classes: IntArray
    """(B, K)"""
    looks: FloatArray
    """(B, 2)"""


def feature_names(class_count: int) -> tuple[str, ...]:
    """Names of the features, in their order."""
    counted = range(class_count if class_count <= MOST_CLASSES else 0)
    return (
        *(f"top {rank}" for rank in range(1, TOP + 1)),
        *(f"about {threshold}" for threshold in THRESHOLDS),
        *(f"side {side}" for side in SIDES),
        *(f"count {threshold}" for threshold in COUNTS),
        "sum",
        "uncertain",
        "mean",
        "small",
        "least side",
        "brightness",
        "contrast",
        *(f"class {number}" for number in counted),
    )


def features(answers: Answered, *, class_count: int) -> FloatArray:
    """Features of each picture, (N, features)."""
    parts = [_features(found, class_count) for found in _found(answers)]
    return np.concatenate(parts) if parts else np.empty((0, len(feature_names(class_count))))


def _found(answers: Answered) -> Iterator[Found]:
    """The answers in chunks, so that many pictures need little memory."""
    rows = max([TOP, *(len(one) for one in answers.scores)])
    width, height = answers.fit.width, answers.fit.height
    for first in range(0, len(answers.looks), _CHUNK):
        chunk = range(first, min(first + _CHUNK, len(answers.looks)))
        scores, boxes = np.zeros((len(chunk), rows)), np.zeros((len(chunk), rows, 4))
        classes = np.zeros((len(chunk), rows), np.int64)
        for place, row in enumerate(chunk):
            used = slice(0, len(answers.scores[row]))
            scores[place, used], classes[place, used] = answers.scores[row], answers.classes[row]
            boxes[place, used] = answers.boxes[row] / np.array([width, height, width, height], np.float64)
        yield Found(scores, boxes, classes, answers.looks[chunk.start : chunk.stop].astype(np.float64))


def _features(found: Found, class_count: int) -> FloatArray:
    scores, used = found.scores, found.scores > 0
    side = np.sqrt(_areas(found.boxes))
    total = scores.sum(axis=1)
    columns = [
        scores[:, :TOP],
        *(_soft_count(scores, used, threshold) for threshold in THRESHOLDS),
        *(_near(scores, side, centre) for centre in SIDES),
        *((scores > threshold).sum(axis=1) for threshold in COUNTS),
        total,
        (scores * (1 - scores)).sum(axis=1),
        total / np.maximum(used.sum(axis=1), 1),
        (scores * np.maximum(1 - side / SMALL_SIDE, 0)).sum(axis=1),
        np.where(scores > COUNTS[0], side, 1.0).min(axis=1),
        found.looks,
    ]
    if class_count <= MOST_CLASSES:
        columns += [(scores * (found.classes == number)).sum(axis=1) for number in range(class_count)]
    return np.concatenate([np.atleast_2d(one.T).T for one in columns], axis=1)


def _areas(boxes: FloatArray) -> FloatArray:
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    areas: FloatArray = sides[..., 0] * sides[..., 1]
    return areas


def _soft_count(scores: FloatArray, used: BoolArray, threshold: float) -> FloatArray:
    count: FloatArray = (used / (1 + np.exp((threshold - scores) / (threshold / 4)))).sum(axis=1)
    return count


def _near(scores: FloatArray, side: FloatArray, centre: float) -> FloatArray:
    """Scores of the boxes of about a size: a box belongs to the two nearest bins, in proportion."""
    place = np.clip(np.log2(np.maximum(side, 1e-4)), SIDES[0], SIDES[-1])
    mass: FloatArray = (scores * np.maximum(1 - np.abs(place - centre) / SIDE_STEP, 0)).sum(axis=1)
    return mass
