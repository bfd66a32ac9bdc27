"""COCO average precision of both routes and of any mix of them, from one pass over the images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynamicdet.dataset import CocoDataset
from dynamicdet.errors import InputError
from dynamicdet.network import DynamicDetector
from dynamicdet.suppression import Detections, Suppression, suppress_rows
from dynamicdet.thresholds import is_hard, threshold_for_easy_share

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

DEFAULT_HARD_SHARES = (0.0, 0.1, 0.2, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class RouteResults:
    """Detections of every image by each route, in pixels of the original images, and the images' difficulties."""

    easy: tuple[Detections, ...]
    hard: tuple[Detections, ...]
    difficulties: FloatArray
    """(N,), 0..1"""

    def mixed(self, hard: BoolArray) -> list[Detections]:
        """Each image's detections by the route that `hard` (N,) sends it to."""
        return [two if choice else one for one, two, choice in zip(self.easy, self.hard, hard, strict=True)]


@dataclass(frozen=True)
class Precision:
    """COCO average precision, percent."""

    ap: float
    """mean over IoU 0.50 to 0.95"""
    ap50: float


@dataclass(frozen=True)
class OperatingPoint:
    """What routing this share of the images to detector 2 gives."""

    hard_share: float
    """what the threshold really gives on these images"""
    threshold: float
    precision: Precision
    random: Precision
    """mean over draws of as many hard images at random"""


@dataclass(frozen=True)
class Evaluation:
    """Average precision of both routes and of mixes of them."""

    images: int
    easy: Precision
    hard: Precision
    points: tuple[OperatingPoint, ...]
    difficulty_quantiles: Mapping[str, float]
    """difficulty below which 10, 25, 50, 75 and 90 % of the images lie"""

    def recovered(self, point: OperatingPoint) -> float | None:
        """Share of the gain from all easy to all hard that a point keeps; None where there is no gain."""
        gap = self.hard.ap - self.easy.ap
        return (point.precision.ap - self.easy.ap) / gap if gap > 0 else None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        points = [{**asdict(point), "gap_recovered": self.recovered(point)} for point in self.points]
        return {
            "images": self.images,
            "ap": {"easy": asdict(self.easy), "hard": asdict(self.hard)},
            "operating_points": points,
            "difficulty_quantiles": dict(self.difficulty_quantiles),
        }


def evaluate(
    model: DynamicDetector,
    data: CocoDataset,
    *,
    hard_shares: Sequence[float] = DEFAULT_HARD_SHARES,
    batch: int = 16,
    random_draws: int = 3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Average precision of a network on a data set read at its input size.

    Every image goes through both routes once; the mixes are put together from what was kept. Raises InputError where
    classes or size of network and data differ.
    """
    results = run_routes(model, data, batch=batch, progress=progress)
    return evaluate_results(results, data, hard_shares=hard_shares, random_draws=random_draws, seed=seed)


@torch.inference_mode()
def run_routes(
    model: DynamicDetector,
    data: CocoDataset,
    *,
    batch: int = 16,
    settings: Suppression | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RouteResults:
    """One pass of all images through both routes. Raises InputError where classes or size do not fit."""
    check_fits(model, data)
    network = model.deploy().eval()
    easy: list[Detections] = []
    hard: list[Detections] = []
    difficulties: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(data), batch):
        pictures = torch.from_numpy(np.ascontiguousarray(data.images[start : start + batch]))
        x = pictures.permute(0, 3, 1, 2).float().div_(255)
        features = network.features(x)
        difficulties.append(network.route(features).numpy())
        for maps, kept in ((network.head1(features), easy), (network.detector2(x, features), hard)):
            found = suppress_rows(network.decode(maps), settings, size=float(data.size))
            kept.extend(_in_original(data, start, found))
        if progress is not None:
            progress(len(easy), len(data))
    return RouteResults(tuple(easy), tuple(hard), np.concatenate(difficulties).astype(np.float64))


def check_fits(model: DynamicDetector, data: CocoDataset) -> None:
    """Raise InputError unless classes and size of network and data are the same."""
    if model.class_names != data.class_names:
        raise InputError(
            f"the checkpoint knows the classes {', '.join(model.class_names)}; {data.folder} has "
            f"{', '.join(data.class_names)}"
        )
    if model.input_size != data.size:
        raise InputError(f"the network reads {model.input_size} px images, the data set was read at {data.size} px")


def evaluate_results(
    results: RouteResults,
    data: CocoDataset,
    *,
    hard_shares: Sequence[float] = DEFAULT_HARD_SHARES,
    random_draws: int = 3,
    seed: int = 0,
) -> Evaluation:
    """Average precision of both routes, and at each share of hard images by the router and at random."""
    for share in hard_shares:
        if not 0 <= share <= 1:
            raise InputError(f"a share of hard images must lie in 0..1, got {share}")
    score = _Scorer(data)
    easy, hard = score(results.easy), score(results.hard)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(data)) for _ in range(random_draws)]
    points = []
    for share in hard_shares:
        threshold = threshold_for_easy_share(results.difficulties, 1 - share)
        routed = is_hard(results.difficulties, threshold)
        count = int(routed.sum())
        if count in (0, len(data)):
            precision = chance = hard if count else easy
        else:
            precision = score(results.mixed(routed))
            chance = _mean([score(results.mixed(_first(order, count))) for order in orders] or [precision])
        points.append(OperatingPoint(count / len(data), threshold, precision, chance))
    levels = (10, 25, 50, 75, 90)
    quantiles = np.percentile(results.difficulties, levels)
    return Evaluation(
        images=len(data),
        easy=easy,
        hard=hard,
        points=tuple(points),
        difficulty_quantiles={f"{level}%": float(value) for level, value in zip(levels, quantiles, strict=True)},
    )


def average_precision(detections: Sequence[Detections], data: CocoDataset) -> Precision:
    """COCO average precision of one list of detections per image, boxes in pixels of the original images."""
    return _Scorer(data)(detections)


class _Scorer:
    """pycocotools with its printing silenced and the truth indexed once."""

    def __init__(self, data: CocoDataset) -> None:
        self.data = data
        self.truth = COCO()
        self.truth.dataset = _complete(data.annotations)
        with _silence():
            self.truth.createIndex()

    def __call__(self, detections: Sequence[Detections]) -> Precision:
        entries = [
            {"image_id": image, "category_id": self.data.category_ids[label], "bbox": box, "score": score}
            for image, found in zip(self.data.image_ids, detections, strict=True)
            for box, score, label in zip(*_as_lists(found), strict=True)
        ]
        if not entries:
            return Precision(0.0, 0.0)
        with _silence():
            run = COCOeval(self.truth, self.truth.loadRes(entries), "bbox")
            run.evaluate()
            run.accumulate()
            run.summarize()
        return Precision(ap=100 * float(run.stats[0]), ap50=100 * float(run.stats[1]))


def _complete(annotations: Mapping[str, Any]) -> dict[str, Any]:
    """What pycocotools wants and data sets may leave out: ids, areas, crowd flags."""
    filled = [
        {"id": number, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0, **one}
        for number, one in enumerate(annotations["annotations"], 1)
    ]
    return {**annotations, "annotations": filled, "info": annotations.get("info", {})}


def _as_lists(found: Detections) -> tuple[list[list[float]], list[float], list[int]]:
    boxes = found.boxes.clone()
    boxes[:, 2:] -= boxes[:, :2]  # x y w h
    return boxes.tolist(), found.scores.tolist(), found.classes.tolist()


def _in_original(data: CocoDataset, start: int, found: Sequence[Detections]) -> list[Detections]:
    return [
        Detections(torch.from_numpy(data.placements[index].to_original(one.boxes.numpy())), one.scores, one.classes)
        for index, one in enumerate(found, start)
    ]


def _first(order: npt.NDArray[np.int64], count: int) -> BoolArray:
    chosen = np.zeros(len(order), np.bool_)
    chosen[order[:count]] = True
    return chosen


def _mean(values: Sequence[Precision]) -> Precision:
    return Precision(float(np.mean([one.ap for one in values])), float(np.mean([one.ap50 for one in values])))


def _silence() -> contextlib.redirect_stdout[io.StringIO]:
    return contextlib.redirect_stdout(io.StringIO())
