"""Turns decoded rows into detections: candidates above a floor, per-class suppression, the best few.

This file needs only PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicdet.boxes import corners


@dataclass(frozen=True, kw_only=True)
class Suppression:
    """The settings of the exported graphs."""

    iou_threshold: float = 0.65
    score_floor: float = 0.001
    candidates: int = 1000
    """best (row, class) pairs that enter the suppression"""
    max_detections: int = 100


def candidates_for(input_size: int, max_detections: int = 100) -> int:
    """How many candidates enter the suppression: few if the whole network takes only milliseconds."""
    return max(1000, max_detections) if input_size >= 640 else 3 * max_detections


def suppression_for(input_size: int) -> Suppression:
    """The default settings for exporting a network of this input size."""
    return Suppression(candidates=candidates_for(input_size))


@dataclass(frozen=True)
class Detections:
    """One image's detections, best first: boxes (n, 4) x1 y1 x2 y2 in pixels of the square, scores and classes (n,)."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor | None = None
    """(n, 28, 28) uint8, how surely each part of the box belongs to the object, 0 to 255; None: no masks"""
    frames: Tensor | None = None
    """(n, 4) what the masks fill, where that is not the boxes: a box that was clipped has its mask from before"""


@torch.no_grad()
def suppress_rows(rows: Tensor, settings: Suppression | None = None, *, size: float | None = None) -> list[Detections]:
    """Detections of each image from rows (B, N, 5 + classes) as `DynamicDetector.decode` returns them.

    If `size` is given, boxes are clipped to 0..`size`.
    """
    settings = settings or Suppression()
    return [_one(image.float(), settings, size) for image in rows]


def _one(rows: Tensor, settings: Suppression, size: float | None) -> Detections:
    scores = rows[:, 4:5] * rows[:, 5:]  # (N, classes)
    row, label = torch.nonzero(scores >= settings.score_floor, as_tuple=True)
    best, order = scores[row, label].topk(min(settings.candidates, len(row)))
    boxes, label = corners(rows[row[order], :4]), label[order]
    keep = greedy_keep(boxes, label, settings.iou_threshold)[: settings.max_detections]
    kept = boxes[keep]
    return Detections(boxes=kept if size is None else kept.clamp(0, size), scores=best[keep], classes=label[keep])


def greedy_keep(boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that stay, of boxes (K, 4) x1 y1 x2 y2 that are sorted best first.

    A box stays unless it overlaps a better box of its class that stays. The greedy result is the fixed point of this
    rule, and a few matrix products find it.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    shared = (
        (torch.minimum(boxes[:, None, 2:], boxes[:, 2:]) - torch.maximum(boxes[:, None, :2], boxes[:, :2]))
        .clamp(min=0)
        .prod(dim=-1)
    )
    rivals = (shared > iou_threshold * (areas[:, None] + areas - shared)) & (labels[:, None] == labels)
    suppresses = rivals.triu(diagonal=1).float()  # (K, K): row suppresses column
    stay = torch.ones(len(boxes))
    while True:
        following = ((stay @ suppresses) < 0.5).float()
        if torch.equal(following, stay):
            return stay.nonzero().squeeze(1)
        stay = following
