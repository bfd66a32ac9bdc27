"""COCO average precision of one list of detections, and of any mix of two at little extra cost.

pycocotools works in two steps: it matches detections to objects, image by image (`evaluate`), then adds up the matches
of all images (`accumulate`). A match depends only on its own image. So pycocotools matches each route once, and the
detections are sorted once; a mix adds up the matches of its own detections. The arithmetic is that of `accumulate`, for
all IoU thresholds at once: the result is the same to the last bit.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from dynamicdet.aliases import BoolArray, FloatArray
from dynamicdet.datasets.dataset import CocoDataset
from dynamicdet.errors import InputError
from dynamicdet.routing.routes import RouteResults
from dynamicdet.suppression import Detections

_Match = Mapping[str, Any] | None
"""pycocotools' result for one image and class; None if there is neither object nor detection"""
_IOUS, _RECALLS = Params(iouType="bbox").iouThrs, Params(iouType="bbox").recThrs


@dataclass(frozen=True)
class Precision:
    """COCO average precision, percent."""

    ap: float
    """mean over IoU 0.50 to 0.95"""
    ap50: float


class MixedPrecision:
    """Average precision of any mix of two routes. Raises InputError for a data set without objects."""

    def __init__(self, results: RouteResults, data: CocoDataset) -> None:
        truth = _truth(data)
        self._order = np.argsort(np.array(data.image_ids), kind="stable")  # pycocotools sorts images by id
        easy, hard = (_matches(truth, found, data) for found in (results.easy, results.hard))
        self._classes = [_sorted(pair) for pair in zip(easy, hard, strict=True)]
        self._known: dict[bytes, Precision] = {}

    def __call__(self, hard: BoolArray) -> Precision:
        """Precision of a mix: `hard` (N,) says which images detector 2 answers. A repeated mix costs nothing."""
        key = np.packbits(hard).tobytes()
        if key not in self._known:
            self._known[key] = _add_up(self._classes, hard[self._order])
        return self._known[key]


def average_precision(detections: Sequence[Detections], data: CocoDataset) -> Precision:
    """COCO average precision of one list of detections per image, boxes in pixels of the original images."""
    classes = [_sorted((one,)) for one in _matches(_truth(data), detections, data)]
    return _add_up(classes, np.zeros(len(data), np.bool_))


@dataclass(frozen=True)
class _ClassMatches:
    """Detections of one class by one or both routes, sorted as `accumulate` sorts them."""

    image: npt.NDArray[np.intp]
    """(D,) position of the image in the sorted ids"""
    by_hard: BoolArray
    """(D,)"""
    hits: BoolArray
    """(IoU thresholds, D): found an object"""
    misses: BoolArray
    """found no object; a detection of an object that need not be found is neither hit nor miss"""
    objects: int


def _truth(data: CocoDataset) -> COCO:
    annotations = data.annotations["annotations"]
    if all(one.get("iscrowd", 0) for one in annotations):
        raise InputError(f"{data.folder} has no objects to find, so there is no average precision")
    # Renumbered, because pycocotools takes a match with object id 0 for no match; areas, crowd flags may be absent.
    filled = [
        {"area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0, **one, "id": number}
        for number, one in enumerate(annotations, 1)
    ]
    return _index({**data.annotations, "annotations": filled})


def _matches(truth: COCO, detections: Sequence[Detections], data: CocoDataset) -> list[list[_Match]]:
    """The matches of pycocotools, by class and image in the order of their ids.

    AP and AP50 are for objects of all sizes and 100 detections; leaving out the single sizes saves 3/4 of the work.
    """
    entries: list[dict[str, Any]] = []
    for image, one in zip(data.image_ids, detections, strict=True):
        for box, score, label in zip(*_as_lists(one), strict=True):
            category, area = data.category_ids[label], box[2] * box[3]
            entry = {"image_id": image, "category_id": category, "bbox": box, "score": score, "area": area}
            entries.append({**entry, "id": len(entries) + 1, "iscrowd": 0})
    found = _index({**truth.dataset, "annotations": entries})
    with _silence():
        run = COCOeval(truth, found, "bbox")
        run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
        run.params.maxDets = [100]
        run.evaluate()
    images = len(run.params.imgIds)
    return [run.evalImgs[first : first + images] for first in range(0, len(run.evalImgs), images)]


def _sorted(routes: Sequence[Sequence[_Match]]) -> _ClassMatches:
    """One class's matches per route and image, as one list from the highest score to the lowest.

    Equal scores are in the order of the images, as in `accumulate`: a mix has one route of each image.
    """
    entries = [
        (image, number == 1, match)
        for image, by_route in enumerate(zip(*routes, strict=True))
        for number, match in enumerate(by_route)
        if match is not None
    ]
    counts = [len(match["dtScores"]) for _, _, match in entries]
    scores = np.concatenate([np.array(match["dtScores"], np.float64) for _, _, match in entries] or [np.empty(0)])
    order = np.argsort(-scores, kind="mergesort")
    none = np.empty((len(_IOUS), 0), np.bool_)
    matched, ignored = (
        np.concatenate([none, *(match[key].astype(np.bool_) for _, _, match in entries)], axis=1)[:, order]
        for key in ("dtMatches", "dtIgnore")
    )
    return _ClassMatches(
        image=np.repeat(np.array([image for image, _, _ in entries], np.intp), counts)[order],
        by_hard=np.repeat(np.array([hard for _, hard, _ in entries], np.bool_), counts)[order],
        hits=matched & ~ignored,
        misses=~matched & ~ignored,
        objects=sum(int(np.count_nonzero(match["gtIgnore"] == 0)) for _, hard, match in entries if not hard),
    )


def _add_up(classes: Sequence[_ClassMatches], hard: BoolArray) -> Precision:
    """Precision of a mix: `hard` (N,), images sorted by id, says which images detector 2 answers."""
    precision = np.stack(
        [_at_recalls(one, hard) for one in classes if one.objects], axis=-1
    )  # (IoUs, recalls, classes)
    return Precision(ap=100 * float(np.mean(precision.ravel())), ap50=100 * float(np.mean(precision[0].ravel())))


def _at_recalls(found: _ClassMatches, hard: BoolArray) -> FloatArray:
    """Precision at each recall, (IoU thresholds, recalls); 0 if the recall is not reached."""
    mixed = np.flatnonzero(found.by_hard == hard[found.image])
    hits = np.cumsum(found.hits[:, mixed], axis=1, dtype=np.float64)  # (IoU thresholds, detections)
    misses = np.cumsum(found.misses[:, mixed], axis=1, dtype=np.float64)
    recall = hits / found.objects
    precision = hits / (misses + hits + np.spacing(1))
    best_from = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    result = np.zeros((len(_IOUS), len(_RECALLS)))
    for row, reached, best in zip(result, recall, best_from, strict=True):
        at = np.searchsorted(reached, _RECALLS, side="left")
        inside = at < len(best)
        row[inside] = best[at[inside]]
    return result


def _index(content: Mapping[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    with _silence():
        coco.createIndex()
    return coco


def _as_lists(found: Detections) -> tuple[list[list[float]], list[float], list[int]]:
    boxes = found.boxes.clone()
    boxes[:, 2:] -= boxes[:, :2]  # x y w h
    return boxes.tolist(), found.scores.tolist(), found.classes.tolist()


def _silence() -> contextlib.redirect_stdout[io.StringIO]:
    return contextlib.redirect_stdout(io.StringIO())
