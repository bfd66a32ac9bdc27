"""What sending one picture to detector 2 does to the average precision of all: the target of a router.

The average precision of a data set is not a sum over pictures, but near an operating mix it changes almost linearly. So
each detection has a value: the change of AP if it were added to the mix at its score, as a hit or as a miss. The
influence of a picture is the value of what detector 2 finds in it minus that of what detector 1 finds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import BoolArray, FloatArray
from dynamicdet.evaluation.precision import ClassMatches, MixedPrecision

OPERATING_MIX = 0.5
"""share of pictures that detector 2 answers, where nothing else is given"""


def influence_of(
    score: MixedPrecision, *, mix: npt.ArrayLike = OPERATING_MIX, counts: npt.ArrayLike | None = None
) -> FloatArray:
    """Change of AP (percent, mean over IoU .50 to .95 and classes) if detector 2 answers a picture, (N,).

    `mix` (a number or (N,)) is the share of the time that detector 2 answers each picture of the operating mix;
    `counts` (N,) says how often each picture is in the mix.
    """
    pictures = len(score.classes[0].objects)
    share = np.broadcast_to(np.asarray(mix, np.float64), pictures)
    weight = np.ones(pictures) if counts is None else np.asarray(counts, np.float64)
    present = [one for one in score.classes if weight @ one.objects]
    total = np.zeros(pictures)
    for found in present:
        value = _values(
            found,
            np.where(found.by_hard, share[found.image], 1 - share[found.image]) * weight[found.image],
            objects=float(weight @ found.objects),
        )
        total += np.bincount(found.image, np.where(found.by_hard, value, -value), minlength=pictures)
    return 100 * total / max(len(present), 1)


def _values(found: ClassMatches, weight: FloatArray, *, objects: float) -> FloatArray:
    """Value of each detection of a class, mean over the IoU thresholds, (D,); `weight` (D,) is its part in the mix."""
    # Detections of one score have one value, that of the last of them: their order means nothing.
    last = np.searchsorted(-found.scores, -found.scores, side="right") - 1
    rows = [_values_at(hit, miss, weight, objects, last) for hit, miss in zip(found.hits, found.misses, strict=True)]
    return np.mean(rows, axis=0) if rows else np.zeros(len(weight))


def _values_at(
    hit: BoolArray, miss: BoolArray, weight: FloatArray, objects: float, last: npt.NDArray[np.intp]
) -> FloatArray:
    """Values at one IoU threshold.

    AP is the mean over the objects of the best precision from their place on (none if they are not found). The best
    precision of a place is that of a later place, its peak; peaks do not move under small changes. An added hit is
    found itself, and raises the precision P = hits / n of all peaks behind it by (1 - P) / n; an added miss lowers it
    by P / n.
    """
    hits = np.cumsum(weight * hit)
    judged = np.cumsum(weight * (hit | miss))
    precision = hits / np.maximum(judged, 1e-9)
    best, peak = _peaks(precision)
    # What one more unit before a peak does to its precision, summed over all objects whose peak it is.
    gained = weight * hit / objects
    rise = np.bincount(peak, gained * (1 - best) / (judged[peak] + 1), minlength=len(weight))
    fall = np.bincount(peak, gained * best / (judged[peak] + 1), minlength=len(weight))
    behind_rise, behind_fall = (np.cumsum(one[::-1])[::-1] for one in (rise, fall))
    found = np.maximum(best, (hits + 1) / (judged + 1)) / objects
    values: FloatArray = np.where(hit, (found + behind_rise)[last], np.where(miss, -behind_fall[last], 0.0))
    return values


def _peaks(precision: FloatArray) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """The best precision from each place on, and where it is."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    own = np.where(precision == best, np.arange(len(precision)), len(precision))
    return best, np.minimum.accumulate(own[::-1])[::-1]
