"""How far the graphs of a two-stage detector are from the network, in three steps.

TopK and two suppressions are all or nothing, and each step reads what the one before has chosen. So no step is blamed
for another's coin toss:

1. Scores and boxes of all regions, from the graph's own logits and deltas, are those of the network.
2. The graph's best regions name their rows. Scores and boxes are those of the network's rows, and none of the best is
   missing. The proposals are exactly what the plain suppression in `nms.py` makes of these regions, level by level.
3. The network's heads get the graph's proposals. The graph's pairs of a proposal and a class have the network's scores
   and boxes, and none of the best is missing. The detections are exactly what the plain suppression makes of them.
   The network's mask head gets the graph's detections, and the masks are its masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamicdet.aliases import Float32Array, UInt8Array
from dynamicdet.networks.base import Route
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dynamicdet.networks.two_stage.regions import BOX_SPREADS, clip, decode
from dynamicdet.networks.two_stage.selection import Chosen, finished_masks, flatten_deltas, flatten_logits
from dyndet_builder.bundle.bars import Bars, Truth, larger, largest
from dyndet_builder.bundle.nms import suppress
from dyndet_builder.bundle.parts import DETECTION_OUTPUTS, MASKS, Nms, TwoStageParity
from dyndet_builder.bundle.sessions import Tensors
from dyndet_builder.bundle.two_stage import region_names

_ALL_STEPS = 255


@dataclass(frozen=True)
class _Regions:
    """Scores (N,) and boxes (N, 4) of all regions of a level."""

    scores: Float32Array
    boxes: Float32Array


@dataclass(frozen=True)
class _RouteTruth:
    """What the network finds in an image by a route: its pyramid, which the heads read, and all regions per level."""

    route: Route
    pyramid: list[Tensor]
    regions: list[_Regions]


@dataclass
class TwoStageJudge:
    """The largest differences so far between the answers of a bundle's graphs and a network."""

    network: TwoStageDetector
    nms: Nms
    bars: Bars
    box_px: float = 0.0
    score: float = 0.0
    suppressions: int = 0
    region_box_px: float = 0.0
    region_score: float = 0.0
    proposal_box_px: float = 0.0
    proposal_score: float = 0.0
    mask_steps: int = 0

    @property
    def two_stage(self) -> TwoStageParity:
        """What has no place in the parity of other detectors."""
        return TwoStageParity(
            region_box_px=self.region_box_px,
            region_score=self.region_score,
            proposal_box_px=self.proposal_box_px,
            proposal_score=self.proposal_score,
            mask_steps=self.mask_steps,
        )

    @torch.no_grad()
    def ask(self, images: list[UInt8Array]) -> list[Truth]:
        """The network's results for letterboxed images (S, S, 3)."""
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        features = self.network.features(x)
        difficulties = self.network.route(features).tolist()
        easy, hard = (self._ask("easy", features), self._ask("hard", features))
        return [Truth(*each) for each in zip(difficulties, easy, hard, strict=True)]

    def _ask(self, route: Route, features: dict[str, Tensor]) -> list[_RouteTruth]:
        pyramid = self.network.pyramid(route, features)
        logits, deltas = self.network.region_outputs(route, pyramid)
        regions = self._regions(logits, deltas)
        return [
            _RouteTruth(route, [level[index : index + 1] for level in pyramid], regions[index])
            for index in range(len(pyramid[0]))
        ]

    def _regions(self, logits: list[Tensor], deltas: list[Tensor]) -> list[list[_Regions]]:
        """All regions of each image, per level."""
        size = self.network.image_size(logits)
        levels = [
            (
                flatten_logits(logit.float()).sigmoid().numpy(),
                clip(decode(flatten_deltas(delta.float()), anchors), size).numpy(),
            )
            for logit, delta, anchors in zip(logits, deltas, self.network.anchors_of(logits), strict=True)
        ]
        return [[_Regions(scores[index], boxes[index]) for scores, boxes in levels] for index in range(len(logits[0]))]

    @torch.no_grad()
    def take(self, found: Tensors, truth: _RouteTruth) -> None:
        """Compare one image's outputs by one route, the hidden ones included."""
        self._take_regions(found, truth)
        self._take_proposals(found, truth)
        self._take_pairs(found, truth)
        self.suppressions += not (_are_proposals(found, self.network) and _are_detections(found, self.nms))
        if self.network.has_masks:
            self.mask_steps = max(self.mask_steps, self._mask_steps(found, truth))

    def _take_regions(self, found: Tensors, truth: _RouteTruth) -> None:
        names = [region_names(stride) for stride in self.network.spec.region_strides]
        logits, deltas = ([torch.from_numpy(found[name])[None] for name in kind] for kind in zip(*names, strict=True))
        (mine,) = self._regions(logits, deltas)
        for level, true in zip(mine, truth.regions, strict=True):
            likely = true.scores >= self.bars.box_from_score
            self.region_score = larger(self.region_score, largest(level.scores - true.scores))
            self.region_box_px = larger(self.region_box_px, largest((level.boxes - true.boxes)[likely]))

    def _take_proposals(self, found: Tensors, truth: _RouteTruth) -> None:
        for level, true in zip(_by_level(found, len(truth.regions)), truth.regions, strict=True):
            count = min(len(level.rows), len(true.scores))
            rows, scores = level.rows[:count], level.scores[:count]
            expected, boxes = true.scores[rows], true.boxes[rows]
            best = -np.sort(-true.scores)[:count]
            # A region of no area has the score 0 in the graph; one that is nearly so may have it.
            clear = (scores > 0) | ((boxes[:, 2:] - boxes[:, :2]).min(axis=1) > self.bars.box_px)
            likely = (expected >= self.bars.box_from_score) & (scores > 0)
            self.proposal_score = larger(
                self.proposal_score, largest((scores - expected)[clear]), largest(expected - best)
            )
            moved = (level.boxes[:count] - boxes)[likely]
            self.proposal_box_px = larger(self.proposal_box_px, largest(moved))

    def _take_pairs(self, found: Tensors, truth: _RouteTruth) -> None:
        proposals, floor = torch.from_numpy(found["proposal_boxes"])[None], np.float32(self.nms.score_floor)
        logits, deltas = self.network.class_outputs(truth.route, truth.pyramid, proposals)
        likely = logits.softmax(dim=-1)[0, :, :-1].numpy()  # (K, classes)
        likely = np.where(found["proposal_scores"][:, None] > 0, likely, np.float32(0))
        place, label, scores = (found[f"pair_{name}"] for name in ("places", "classes", "scores"))
        expected = likely[place, label]
        best = -np.sort(-likely.ravel())[: len(scores)]
        cut = [np.maximum(values, floor) for values in (scores, expected, best)]  # below it, a score becomes 0
        self.score = larger(self.score, largest(cut[0] - cut[1]), largest(cut[1] - cut[2]))
        own = deltas[0, place, label if deltas.shape[2] > 1 else 0]  # (N, 4)
        boxes = clip(decode(own, proposals[0, place], BOX_SPREADS), self.network.image_size(truth.pyramid)).numpy()
        compared = (scores > 0) & (expected >= self.bars.box_from_score)
        self.box_px = larger(self.box_px, largest((found["pair_boxes"] - boxes)[compared]))

    def _mask_steps(self, found: Tensors, truth: _RouteTruth) -> int:
        count = int(found["num_detections"][0])
        if found[MASKS][count:].any():
            return _ALL_STEPS
        chosen = Chosen(*(torch.from_numpy(found[name])[None] for name in DETECTION_OUTPUTS))
        logits = self.network.mask_outputs(truth.route, truth.pyramid, chosen.boxes)
        true = finished_masks(logits, chosen)[0].numpy()
        return int(largest(found[MASKS][:count].astype(np.int16) - true[:count].astype(np.int16)))


@dataclass(frozen=True)
class _Level:
    """A level's best regions in a graph: rows (k,), scores (k,) and boxes (k, 4)."""

    rows: npt.NDArray[np.int64]
    scores: Float32Array
    boxes: Float32Array


def _by_level(found: Tensors, levels: int) -> list[_Level]:
    parts = (np.split(found[f"region_{name}"], levels) for name in ("rows", "scores", "boxes"))
    return [_Level(*each) for each in zip(*parts, strict=True)]


def _are_proposals(found: Tensors, network: TwoStageDetector) -> bool:
    """Whether the proposals are what the plain suppression leaves of the best regions of each level."""
    limits, size = network.spec.limits.proposals, float(network.input_size)
    kept = []
    for level in _by_level(found, len(network.spec.region_strides)):
        same = np.zeros(len(level.scores), np.int64)
        keep = suppress(level.boxes, level.scores, same, iou_threshold=limits.iou_threshold)
        kept.append(np.where(keep, level.scores, np.float32(0)))
    scores = np.concatenate(kept)
    order = np.argsort(-scores, kind="stable")[: len(found["proposal_scores"])]
    boxes = np.where(scores[order, None] > 0, found["region_boxes"][order], np.array([0, 0, size, size], np.float32))
    return np.array_equal(found["proposal_scores"], scores[order]) and np.array_equal(found["proposal_boxes"], boxes)


def _are_detections(found: Tensors, nms: Nms) -> bool:
    """Whether the detections are what the plain suppression leaves of the pairs."""
    boxes, scores, classes = (found[f"pair_{name}"] for name in ("boxes", "scores", "classes"))
    keep = suppress(boxes, scores, classes, iou_threshold=nms.iou_threshold)
    kept = np.flatnonzero(keep)[: nms.max_detections]
    count = len(kept)
    return bool(
        found["num_detections"][0] == count
        and np.array_equal(found["boxes"][:count], boxes[kept])
        and np.array_equal(found["scores"][:count], scores[kept])
        and np.array_equal(found["classes"][:count], classes[kept])
        and not any(found[name][count:].any() for name in DETECTION_OUTPUTS[1:])
    )
