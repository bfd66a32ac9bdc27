"""Which objects of a picture were found, by the rule of COCO, and what the second of two detectors adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import BoolArray, FloatArray
from dynamicdet.text import counted

Boxes: TypeAlias = npt.NDArray[np.floating[Any]]

LEAST_IOU = 0.5
"""at which a box shows an object"""


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects that a picture has, by its labels."""

    boxes: Boxes
    """(N, 4): x1 y1 x2 y2 in pixels of the picture"""
    names: tuple[str, ...]
    """N class names"""
    crowd: BoolArray
    """(N,) which boxes are around many objects; these need not be found"""

    def __len__(self) -> int:
        return int(np.count_nonzero(~self.crowd))


class Detected(Protocol):
    """What a detector found in the picture; the SDK's `Detections` is one."""

    @property
    def boxes(self) -> Boxes:
        """(M, 4): x1 y1 x2 y2 in pixels of the picture."""

    @property
    def scores(self) -> npt.NDArray[np.floating[Any]]:
        """(M,)."""

    @property
    def names(self) -> tuple[str, ...]:
        """M class names."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Which objects of a picture a detector found, and which of its boxes show one."""

    names: tuple[str, ...]
    """class names of the N objects"""
    to_find: BoolArray
    """(N,) False for crowds"""
    found: BoolArray
    """(N,) False for crowds"""
    right: BoolArray
    """(M,) boxes that show an object"""
    wrong: BoolArray
    """(M,) boxes that show none; a box inside a crowd is neither right nor wrong"""

    @property
    def objects(self) -> int:
        """How many there are to find."""
        return int(self.to_find.sum())

    @property
    def hits(self) -> int:
        """How many were found."""
        return int(self.found.sum())

    @property
    def errors(self) -> int:
        """How many boxes show no object."""
        return int(self.wrong.sum())


def overlaps(boxes: Boxes, others: Boxes) -> FloatArray:
    """Intersection over union of each box (M, 4) with each other one (N, 4), (M, N); 0 where both are empty."""
    shared = _shared(boxes, others)
    union = _area(boxes)[:, None] + _area(others) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def match(truth: Objects, detected: Detected) -> Matches:
    """Match boxes with objects as COCO does at IoU 0.5.

    The boxes choose in the order of their scores: each takes the object of its class that it overlaps most, of those
    that no better box has taken. A box that overlaps no free object by `LEAST_IOU` is wrong, unless at least half of it
    lies inside a crowd of its class.
    """
    same = np.array(detected.names, np.object_)[:, None] == np.array(truth.names, np.object_)
    same = same.reshape(len(detected.names), len(truth.names))
    iou = np.where(same & ~truth.crowd, overlaps(detected.boxes, truth.boxes), 0.0)
    found, right = np.zeros(len(truth.names), np.bool_), np.zeros(len(detected.names), np.bool_)
    for row in np.argsort(-detected.scores.astype(np.float64), kind="stable").tolist():
        free = np.where(found, 0.0, iou[row])
        if len(free) and free.max() >= LEAST_IOU:
            found[free.argmax()] = right[row] = True
    area = _area(detected.boxes)[:, None]
    inside = same & truth.crowd & (_shared(detected.boxes, truth.boxes) >= LEAST_IOU * area) & (area > 0)
    return Matches(
        names=truth.names, to_find=~truth.crowd, found=found, right=right, wrong=~right & ~inside.any(axis=1)
    )


def verdict(first: Matches, second: Matches) -> str:
    """What detector 2 adds in a picture, in a few words, such as `detector 2 finds 3 more`."""
    more, lost = (int((one.found & ~other.found).sum()) for one, other in ((second, first), (first, second)))
    if more:
        return f"detector 2 finds {more} more" + (f", misses {lost}" if lost else "")
    if lost:
        return f"detector 1 finds {lost} more"
    fewer = first.errors - second.errors
    if fewer > 0:
        return f"detector 2 draws {counted(fewer, 'fewer wrong box', 'fewer wrong boxes')}"
    if not first.objects:
        return "nothing to find"
    if not first.hits:
        return "both find nothing"
    return "both find all" if first.hits == first.objects else "detector 1 is enough"


def added(first: Matches, second: Matches) -> tuple[str, ...]:
    """Class names of the objects that detector 2 found and detector 1 missed."""
    new = second.found & ~first.found
    return tuple(name for name, is_new in zip(first.names, new, strict=True) if is_new)


def tally(names: Iterable[str]) -> str:
    """Names with how often each occurs, the most frequent first: `3 bird, 1 fish`; empty without names."""
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common())


def _shared(boxes: Boxes, others: Boxes) -> FloatArray:
    """Area that each box (M, 4) shares with each other one (N, 4), (M, N)."""
    one, other = (np.asarray(each, np.float64).reshape(-1, 4) for each in (boxes, others))
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared: FloatArray = (high - low).clip(0).prod(axis=-1)
    return shared


def _area(boxes: Boxes) -> FloatArray:
    sides = np.asarray(boxes, np.float64).reshape(-1, 4)
    area: FloatArray = (sides[:, 2:] - sides[:, :2]).clip(0).prod(axis=1)
    return area
