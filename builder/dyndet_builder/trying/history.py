"""What a page remembers of the pictures that it asked about, and what any threshold would have made of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dynamicdet.thresholds import is_hard
from dyndet_client.detections import Detections

BINS = 25
"""of the histogram of difficulties, from 0 to 1"""
_SAME = 0.5
"""overlap (IoU) above which two boxes of one class are the same object"""


Matches: TypeAlias = tuple[tuple[float, float], ...]
"""of each object of detector 2: its score, and the score of the same object by detector 1, 0 where that lacks it"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is remembered of one picture. Times are in milliseconds."""

    difficulty: float
    """NaN if the router gave none"""
    easy_ms: float
    hard_ms: float
    matches: Matches = ()

    def __post_init__(self) -> None:
        if not (self.easy_ms >= 0 and self.hard_ms >= 0):  # false for NaN as well
            raise ValueError(f"times must be at least 0 ms, not {self.easy_ms} and {self.hard_ms}")

    def is_hard(self, threshold: float) -> bool:
        """Whether the picture goes to detector 2 at a threshold."""
        return bool(is_hard([self.difficulty], threshold)[0])

    def taken_ms(self, threshold: float) -> float:
        """The time of the route that the picture takes at a threshold."""
        return self.hard_ms if self.is_hard(threshold) else self.easy_ms

    def more(self, min_score: float) -> tuple[int, ...]:
        """Rows of detector 2 with at least this score, for which detector 1 shows nothing of at least this score."""
        return tuple(row for row, (score, other) in enumerate(self.matches) if other < min_score <= score)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The pictures so far, as one threshold would route them. Latencies are in milliseconds."""

    pictures: int
    hard_share: float
    latencies_ms: tuple[float, ...]
    """of the routes taken, ascending"""
    all_easy_ms: float
    """mean, if detector 1 had answered all"""
    all_hard_ms: float
    gained: int
    """objects that only detector 2 shows, in hard pictures"""
    missed: int
    """the same, in easy pictures"""

    @property
    def mean_ms(self) -> float:
        """The mean of the routes taken."""
        return float(np.mean(self.latencies_ms))

    def statistic(self, name: str) -> float | None:
        """The latency by its name in a promise, `mean` or such as `p95`; None for what single pictures cannot show."""
        if name == "mean":
            return self.mean_ms
        if name.startswith("p") and name[1:].replace(".", "", 1).isdigit() and float(name[1:]) <= 100:
            return float(np.percentile(self.latencies_ms, float(name[1:])))
        return None


def numbers(seen: Sequence[Seen], threshold: float, *, min_score: float) -> Numbers | None:
    """What a threshold makes of the pictures so far, without asking a server again; None if there are none."""
    if not seen:
        return None
    hard = is_hard([one.difficulty for one in seen], threshold)
    easy_ms = np.array([one.easy_ms for one in seen])
    hard_ms = np.array([one.hard_ms for one in seen])
    more = np.array([len(one.more(min_score)) for one in seen])
    return Numbers(
        pictures=len(seen),
        hard_share=float(hard.mean()),
        latencies_ms=tuple(np.sort(np.where(hard, hard_ms, easy_ms)).tolist()),
        all_easy_ms=float(easy_ms.mean()),
        all_hard_ms=float(hard_ms.mean()),
        gained=int(more[hard].sum()),
        missed=int(more[~hard].sum()),
    )


def counted(difficulties: Sequence[float]) -> tuple[int, ...]:
    """How many of the difficulties fall into each of `BINS` equal bins from 0 to 1; NaN falls into none."""
    known = [one for one in difficulties if not math.isnan(one)]
    counts, _ = np.histogram(known, bins=BINS, range=(0.0, 1.0))
    return tuple(counts.tolist())


def match(first: Detections, second: Detections) -> Matches:
    """For each object of the second answer, its score and that of the same object in the first, 0 where it lacks it.

    Two boxes of one class that overlap by half (IoU) are the same object. The surest objects choose first, and each
    object of the first answer is chosen once at most.
    """
    free = set(range(len(first)))
    matches = []
    for row in range(len(second)):
        same = [other for other in free if first.classes[other] == second.classes[row]]
        overlaps = [(_overlap(first.boxes[other].tolist(), second.boxes[row].tolist()), other) for other in same]
        best, other = max(overlaps, default=(0.0, -1))
        if best >= _SAME:
            free.discard(other)
        matches.append((float(second.scores[row]), float(first.scores[other]) if best >= _SAME else 0.0))
    return tuple(matches)


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def surest(found: Detections, min_score: float) -> Iterator[int]:
    """Rows of the objects with at least this score, best first."""
    return (row for row in range(len(found)) if found.scores[row] >= min_score)
