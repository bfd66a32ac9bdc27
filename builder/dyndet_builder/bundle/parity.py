"""How far exported graphs are from the PyTorch network on real images, and how far they may be.

Suppression is all or nothing. Comparing its results would blame a graph for a coin toss: two boxes with an overlap of
0.65, plus or minus a rounding error. So there are three questions, each with a strict answer:

1. Every candidate that enters the suppression names its row of the network. Are box and score those of the network's
   own decoded row, and are the best scores the network's best scores (none is missing)?
2. Are the outputs of the graph exactly what the plain suppression in `nms.py` makes of these candidates?
3. Is the difficulty that of the network, and does every image take the network's route?

The thresholds for the last question are those that will be served, if they are known; then an image counts once,
even if it flips at several of them. Otherwise they are the deciles of the network's difficulties, each half way between
two neighbours: at an image's own value, the last digit would decide its route. A threshold within `Bars.tie` of an
image does not count for it, because on a server memory alignment alone moves a difficulty by as much.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dynamicdet.aliases import Float32Array, UInt8Array
from dynamicdet.errors import ParityError
from dynamicdet.networks.base import RoutedNetwork
from dynamicdet.networks.network import DynamicDetector, StaticDetector
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dynamicdet.text import distinct
from dyndet_builder.bundle.bars import BARS as BARS
from dyndet_builder.bundle.bars import Bars as Bars
from dyndet_builder.bundle.bars import Truth, larger, largest
from dyndet_builder.bundle.manifest import Nms, Parity, Precision
from dyndet_builder.bundle.nms import suppress
from dyndet_builder.bundle.runner import StageRunner, Tensors
from dyndet_builder.bundle.stages import CANDIDATES, DETECTIONS
from dyndet_builder.bundle.two_stage_parity import TwoStageJudge

BATCH_SIZES = (1, 3)
_GROUP = 3  # images per batch of the network, all of whose features are in memory; a multiple of every batch size


def measure_parity(
    network: RoutedNetwork,
    runner: StageRunner,
    images: Iterable[UInt8Array],
    *,
    nms: Nms,
    bars: Bars,
    report: Callable[[int], None] = lambda _done: None,
) -> Parity:
    """Compare `runner`, whose graphs show their candidates, with the fp32 network on letterboxed images (S, S, 3).

    Stages are chained as in the server, for both routes, at every batch size of `BATCH_SIZES`. What is compared of a
    two-stage detector is in `two_stage_parity`. `report` is called with the number of finished images.
    """
    if isinstance(network, TwoStageDetector):
        judge: TwoStageJudge | _Judge = TwoStageJudge(network, nms, bars)
    else:
        assert isinstance(network, DynamicDetector)
        judge = _Judge(network, nms, bars)
    expected: list[float] = []
    measured: dict[int, list[float]] = {size: [] for size in BATCH_SIZES}
    for group in _groups(images, _GROUP):
        truths = judge.ask(group)
        expected += [truth.difficulty for truth in truths]
        for size in BATCH_SIZES:
            for start in range(0, len(group), size):
                batch, known = np.stack(group[start : start + size]), truths[start : start + size]
                easy, hard = runner.both(batch)
                for index, truth in enumerate(known):
                    for answer, rows in ((easy, truth.easy), (hard, truth.hard)):
                        one = {name: values[index] for name, values in answer.detector.items()}
                        judge.take(one, rows)
                measured[size] += hard.difficulty.tolist()
        report(len(expected))
    truth_array = np.array(expected, np.float32)
    arrays = [np.array(values, np.float32) for values in measured.values()]
    return Parity(
        images=len(expected),
        batch_sizes=BATCH_SIZES,
        box_px=judge.box_px,
        score=judge.score,
        difficulty=larger(*(largest(values - truth_array) for values in arrays)),
        route_flip_share=max(route_flip_share(truth_array, values, tie=bars.tie) for values in arrays),
        suppression_differences=judge.suppressions,
        two_stage=judge.two_stage,
    )


def measure_static_parity(
    network: StaticDetector,
    run: Callable[[UInt8Array], Tensors],
    images: Iterable[UInt8Array],
    *,
    nms: Nms,
    bars: Bars,
    report: Callable[[int], None] = lambda _done: None,
) -> Parity:
    """Compare the graph of a static detector, which shows its candidates, with the fp32 network, as `measure_parity`.

    `run` answers a batch (B, S, S, 3).
    """
    judge, done = _Judge(network, nms, bars), 0
    for group in _groups(images, _GROUP):
        x = torch.from_numpy(np.stack(group)).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            truths = network(x).numpy()
        for size in BATCH_SIZES:
            for start in range(0, len(group), size):
                found = run(np.stack(group[start : start + size]))
                for index, rows in enumerate(truths[start : start + size]):
                    one = {name: values[index] for name, values in found.items()}
                    judge.take(one, rows)
        done += len(group)
        report(done)
    return Parity(
        images=done,
        batch_sizes=BATCH_SIZES,
        box_px=judge.box_px,
        score=judge.score,
        difficulty=0.0,
        route_flip_share=0.0,
        suppression_differences=judge.suppressions,
    )


def measure_flips(
    network: RoutedNetwork,
    runner: StageRunner,
    images: Iterable[UInt8Array],
    *,
    thresholds: Sequence[float] = (),
    tie: float,
    report: Callable[[int], None] = lambda _done: None,
) -> tuple[float, int]:
    """Share of images that flip their route, and the number of images; needs only difficulties, so it can use more."""
    expected: list[float] = []
    measured: list[float] = []
    for group in _groups(images, _GROUP):
        batch = np.stack(group)
        x = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            expected += network.difficulty(x).tolist()
        measured += runner.first(batch)["difficulty"][:, 0].tolist()
        report(len(expected))
    truth, found = np.array(expected, np.float32), np.array(measured, np.float32)
    return route_flip_share(truth, found, thresholds=thresholds, tie=tie), len(expected)


def check_parity(parity: Parity, bars: Bars, precision: Precision) -> None:
    """Raise ParityError that names each number above its limit."""
    names = ("box_px", "score", "difficulty", "route_flip_share")
    limits = [(name, getattr(parity, name), getattr(bars, name)) for name in names]
    limits.append(("suppression_differences", parity.suppression_differences, 0))
    if (steps := parity.two_stage) is not None:
        limits += [(name, getattr(steps, name), bars.box_px) for name in ("region_box_px", "proposal_box_px")]
        limits += [(name, getattr(steps, name), bars.score) for name in ("region_score", "proposal_score")]
        limits.append(("mask_steps", steps.mask_steps, bars.mask_steps))
    over = [
        "{} is {} (at most {})".format(name, *distinct(value, limit))
        for name, value, limit in limits
        if not value <= limit
    ]
    if over:
        raise ParityError(
            f"the {precision} graphs differ too much from the network on {parity.images} images (routes: "
            f"{parity.route_images or parity.images} images), so nothing was written: " + ", ".join(over)
        )


def route_flip_share(
    expected: Float32Array, measured: Float32Array, *, tie: float, thresholds: Sequence[float] = ()
) -> float:
    """Share of images with another route at any of the thresholds.

    Without thresholds: share of (image, threshold) pairs, at thresholds between the neighbours at the deciles.
    """
    if thresholds:
        given = np.array(thresholds, np.float32)
        apart = (expected[:, None] > given) != (measured[:, None] > given)
        apart &= np.abs(expected[:, None] - given) > tie
        return float(apart.any(axis=1).mean()) if apart.size else 0.0
    ordered = np.sort(expected)
    places = np.unique(np.round(np.linspace(0.1, 0.9, 9) * len(ordered)).astype(int))
    places = places[(places > 0) & (places < len(ordered))]
    thresholds = (ordered[places - 1] + ordered[places]) / 2
    clear = np.abs(expected[:, None] - thresholds) > tie  # (images, thresholds)
    flips = ((expected[:, None] > thresholds) != (measured[:, None] > thresholds)) & clear
    return float(flips.mean()) if flips.size else 0.0


@dataclass
class _Judge:
    """The largest differences so far between the answers of graphs and a YOLO network."""

    network: DynamicDetector | StaticDetector
    nms: Nms
    bars: Bars
    box_px: float = 0.0
    score: float = 0.0
    suppressions: int = 0
    two_stage: None = None

    @torch.no_grad()
    def ask(self, images: list[UInt8Array]) -> list[Truth]:
        """The network's difficulties, and its decoded rows (N, 5 + classes) of both routes."""
        network = self.network
        assert isinstance(network, DynamicDetector)
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        features = network.features(x)
        difficulties = network.route(features).tolist()
        easy = network.decode(network.head1(features)).numpy()
        hard = network.decode(network.detector2(x, features)).numpy()
        return [Truth(*each) for each in zip(difficulties, easy, hard, strict=True)]

    def take(self, found: Tensors, rows: Float32Array) -> None:
        """Compare one image's outputs, candidates included, with the network's rows (N, 5 + classes)."""
        index, boxes, scores, classes = (found[name] for name in CANDIDATES)
        pairs = rows[:, 4:5] * rows[:, 5:]  # (N, classes)
        expected = pairs[index, classes]
        best = -np.partition(-pairs.ravel(), len(scores) - 1)[: len(scores)]
        self.score = larger(self.score, largest(scores - expected), largest(scores - np.sort(best)[::-1]))
        centre, half = rows[index, :2], rows[index, 2:4] / 2
        likely = expected >= self.bars.box_from_score
        self.box_px = larger(self.box_px, largest((boxes - np.hstack([centre - half, centre + half]))[likely]))
        self.suppressions += not _is_suppressed(found, self.network.input_size, self.nms)


def _is_suppressed(found: Tensors, size: int, nms: Nms) -> bool:
    """Whether the outputs are the result of the plain suppression of the candidates."""
    _, boxes, scores, classes = (found[name] for name in CANDIDATES)
    scores = np.where(scores >= nms.score_floor, scores, np.float32(0))
    keep = suppress(boxes, scores, classes, iou_threshold=nms.iou_threshold)
    kept = np.flatnonzero(keep)[: nms.max_detections]
    count = len(kept)
    return bool(
        found["num_detections"][0] == count
        and np.array_equal(found["scores"][:count], scores[kept])
        and not any(found[name][count:].any() for name in DETECTIONS[1:])
        and np.array_equal(found["classes"][:count], classes[kept])
        and np.array_equal(found["boxes"][:count], boxes[kept].clip(0, size))
    )


def _groups(images: Iterable[UInt8Array], size: int) -> Iterator[list[UInt8Array]]:
    iterator = iter(images)
    while group := list(itertools.islice(iterator, size)):
        yield group
