"""COCO average precision of one list of detections, and of any mix of two at little extra cost: of boxes, or of masks.

pycocotools works in two steps: it matches detections to objects, image by image (`evaluate`), then adds up the matches
of all images (`accumulate`). A match depends only on its own image. So pycocotools matches each route once, and the
detections are sorted once; a mix adds up the matches of its own detections. The arithmetic is that of `accumulate`, but
only where an object is found, since the best precision from any recall on is at such a place: the result is the same to
the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pycocotools.cocoeval import Params

from dynamicdet.aliases import BoolArray, FloatArray, IntArray
from dynamicdet.evaluation.matching import Kind, Labelled, Match, matches_of, objects_of, order_of
from dynamicdet.suppression import Detections

_IOUS, _RECALLS = Params(iouType="bbox").iouThrs, Params(iouType="bbox").recThrs


@dataclass(frozen=True)
class Precision:
    """COCO average precision, percent."""

    ap: float
    """mean over IoU 0.50 to 0.95"""
    ap50: float


class BothRoutes(Protocol):
    """What each route finds in every image, boxes in pixels of the original images; `RouteResults` is one."""

    @property
    def easy(self) -> Sequence[Detections]:
        """By detector 1."""

    @property
    def hard(self) -> Sequence[Detections]:
        """By detector 2."""


class MixedPrecision:
    """Average precision of any mix of two routes, of boxes or of masks.

    Raises InputError for a data set without objects; for masks, also if detections or objects have none.
    """

    def __init__(self, results: BothRoutes, data: Labelled, kind: Kind = "boxes") -> None:
        objects, order = objects_of(data, kind), order_of(data)
        easy, hard = (matches_of(objects, found, data, kind) for found in (results.easy, results.hard))
        self.classes = tuple(_sorted(pair, order) for pair in zip(easy, hard, strict=True))
        self._known: dict[bytes, Precision] = {}

    def __call__(self, hard: BoolArray, *, counts: npt.ArrayLike | None = None) -> Precision:
        """Precision of a mix: `hard` (N,) says which images detector 2 answers. A repeated mix costs nothing.

        `counts` (N,) says how often each image counts: 0 leaves it out, and counts drawn at random make a bootstrap.
        NaN if no object is left.
        """
        if counts is not None:
            return _add_up(self.classes, hard, np.asarray(counts, np.float64))
        key = np.packbits(hard).tobytes()
        if key not in self._known:
            self._known[key] = _add_up(self.classes, hard, np.ones(len(hard)))
        return self._known[key]


def average_precision(detections: Sequence[Detections], data: Labelled, kind: Kind = "boxes") -> Precision:
    """COCO average precision of one list of detections per image, boxes in pixels of the original images.

    Raises InputError as `MixedPrecision` does.
    """
    order = order_of(data)
    classes = [_sorted((one,), order) for one in matches_of(objects_of(data, kind), detections, data, kind)]
    return _add_up(classes, np.zeros(len(order), np.bool_), np.ones(len(order)))


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class by one or both routes, sorted as `accumulate` sorts them."""

    image: npt.NDArray[np.intp]
    """(D,) number of the image"""
    by_hard: BoolArray
    """(D,)"""
    scores: FloatArray
    """(D,) descending"""
    hits: BoolArray
    """(IoU thresholds, D): found an object"""
    misses: BoolArray
    """found no object; a detection of an object that need not be found is neither hit nor miss"""
    objects: IntArray
    """(N,) to be found in each image"""

    @cached_property
    def places(self) -> tuple[npt.NDArray[np.intp], ...]:
        """Places of the hits at each IoU threshold."""
        return tuple(np.flatnonzero(hits) for hits in self.hits)

    @cached_property
    def judged(self) -> tuple[BoolArray | None, ...]:
        """Detections that are hits or misses at each IoU threshold; None if all are, as nearly always."""
        either = self.hits | self.misses
        return tuple(None if row.all() else row for row in either)


def _sorted(routes: Sequence[Sequence[Match]], order: npt.NDArray[np.intp]) -> ClassMatches:
    """One class's matches per route and image, as one list from the highest score to the lowest.

    Equal scores are in the order of the images' ids, as in `accumulate`: a mix has one route of each image.
    """
    entries = [
        (image, number == 1, match)
        for image, by_route in zip(order, zip(*routes, strict=True), strict=True)
        for number, match in enumerate(by_route)
        if match is not None
    ]
    counts = [len(match["dtScores"]) for _, _, match in entries]
    scores = np.concatenate([np.array(match["dtScores"], np.float64) for _, _, match in entries] or [np.empty(0)])
    best = np.argsort(-scores, kind="mergesort")
    none = np.empty((len(_IOUS), 0), np.bool_)
    matched, ignored = (
        np.concatenate([none, *(match[key].astype(np.bool_) for _, _, match in entries)], axis=1)[:, best]
        for key in ("dtMatches", "dtIgnore")
    )
    objects = np.zeros(len(order), np.int64)
    for image, _, match in entries:
        objects[image] = np.count_nonzero(match["gtIgnore"] == 0)
    return ClassMatches(
        image=np.repeat(np.array([image for image, _, _ in entries], np.intp), counts)[best],
        by_hard=np.repeat(np.array([hard for _, hard, _ in entries], np.bool_), counts)[best],
        scores=scores[best],
        hits=matched & ~ignored,
        misses=~matched & ~ignored,
        objects=objects,
    )


def _add_up(classes: Sequence[ClassMatches], hard: BoolArray, counts: FloatArray) -> Precision:
    """Precision of a mix: `hard` (N,) says which images detector 2 answers, `counts` (N,) how often each counts."""
    found = [_at_recalls(one, hard, counts) for one in classes if counts @ one.objects]
    if not found:
        return Precision(ap=float("nan"), ap50=float("nan"))
    precision = np.stack(found, axis=-1)  # (IoUs, recalls, classes)
    return Precision(ap=100 * float(np.mean(precision.ravel())), ap50=100 * float(np.mean(precision[0].ravel())))


def _at_recalls(found: ClassMatches, hard: BoolArray, counts: FloatArray) -> FloatArray:
    """Precision at each recall, (IoU thresholds, recalls); 0 if the recall is not reached."""
    weight = np.where(found.by_hard == hard[found.image], counts[found.image], 0.0)
    given, objects = np.cumsum(weight), counts @ found.objects
    result = np.zeros((len(_IOUS), len(_RECALLS)))
    for row, places, judged in zip(result, found.places, found.judged, strict=True):
        hits = np.cumsum(weight[places])
        shown = given if judged is None else np.cumsum(weight * judged)
        precision = hits / (shown[places] + np.spacing(1))
        best_from = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(hits / objects, _RECALLS, side="left")
        inside = at < len(places)
        row[inside] = best_from[at[inside]]
    return result
