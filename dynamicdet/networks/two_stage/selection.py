"""From logits to proposals, and from proposals to detections, with shapes that do not depend on values.

The network and the exported graphs run the same code. Rows are chosen by TopK with constants; a row that is not used
has a score of 0. From the sigmoid and the softmax on, everything is in single precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dynamicdet.networks.two_stage.architectures import DetectionLimits, ProposalLimits
from dynamicdet.networks.two_stage.operators import Operators
from dynamicdet.networks.two_stage.regions import BOX_SPREADS, clip, decode


class Regions(NamedTuple):
    """The best regions of each level before suppression, k rows a level; a score of 0: unused, or of no area."""

    boxes: Tensor
    """(B, levels x k, 4) pixels, inside the image"""
    scores: Tensor
    """(B, levels x k), best first in each level"""
    rows: Tensor
    """(B, levels x k) int64, row of the level; 0 of an unused one"""


class Proposals(NamedTuple):
    """Boxes (B, K, 4) in pixels and scores (B, K), best first; a score of 0: unused, its box is the whole image."""

    boxes: Tensor
    scores: Tensor


class Pairs(NamedTuple):
    """The best (proposal, class) pairs before suppression; a score of 0: below the floor, or of an unused proposal."""

    boxes: Tensor
    """(B, N, 4) pixels, inside the image"""
    scores: Tensor
    """(B, N), best first"""
    classes: Tensor
    """(B, N) int64"""
    places: Tensor
    """(B, N) int64, row of the proposal"""


class Chosen(NamedTuple):
    """Detections: used rows first, the others are 0."""

    num_detections: Tensor
    """(B, 1) int32"""
    boxes: Tensor
    """(B, D, 4) float32 pixels"""
    scores: Tensor
    """(B, D) float32, best first"""
    classes: Tensor
    """(B, D) int32"""


class Answers(NamedTuple):
    """Detections as a served detector gives them: used rows first, the others are 0."""

    num_detections: Tensor
    """(B, 1) int32"""
    boxes: Tensor
    """(B, D, 4) float32 x1 y1 x2 y2, pixels of the square image"""
    scores: Tensor
    """(B, D) float32, best first"""
    classes: Tensor
    """(B, D) int32"""
    masks: Tensor | None
    """(B, D, 28, 28) uint8, probability x 255 over the box; None of a detector without masks"""


def flatten_logits(logits: Tensor) -> Tensor:
    """Objectness (B, A, H, W) of a level to rows (B, H * W * A) in the order of its anchors."""
    return logits.permute(0, 2, 3, 1).flatten(1)


def flatten_deltas(deltas: Tensor) -> Tensor:
    """Deltas (B, A, 4, H, W) of a level to rows (B, H * W * A, 4) in the order of its anchors."""
    return deltas.permute(0, 3, 4, 1, 2).flatten(1, 3)


def best_regions(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    *,
    limits: ProposalLimits,
    size: tuple[int, int],
) -> Regions:
    """The best regions of each level.

    `logits` (B, A, H, W), `deltas` (B, A, 4, H, W) and `anchors` (H * W * A, 4) per level; `size` is the image's height
    and width. Levels with fewer regions than `limits.per_level` are filled up with unused rows.
    """
    found = []
    for level_logits, level_deltas, level in zip(logits, deltas, anchors, strict=True):
        box, score, row = _best_regions(level_logits, level_deltas, level, limits.per_level, size)
        if missing := limits.per_level - score.shape[1]:
            box = functional.pad(box, [0, 0, 0, missing])
            score, row = functional.pad(score, [0, missing]), functional.pad(row, [0, missing])
        found.append((box, score, row))
    return Regions(*(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)))


def propose(regions: Regions, *, limits: ProposalLimits, size: tuple[int, int], operators: Operators) -> Proposals:
    """The best of regions, after suppression within each level, as one list."""
    # Levels do not compete with each other, so each is an image of its own: 5 k x k pairs, not 5 k x 5 k.
    count = regions.scores.shape[1]
    by_level = regions.scores.reshape(-1, limits.per_level)
    keep = operators.keep(
        regions.boxes.reshape(-1, limits.per_level, 4),
        by_level,
        torch.zeros_like(by_level, dtype=torch.int64),
        limits.iou_threshold,
    )
    kept = torch.where(keep.reshape(-1, count), regions.scores, 0.0)
    best, order = kept.topk(min(limits.proposals, count), dim=1)
    height, width = size
    whole = torch.tensor([0.0, 0.0, float(width), float(height)], device=best.device)
    chosen = torch.where((best > 0).unsqueeze(-1), take(regions.boxes, order), whole)
    return Proposals(chosen, best)


def _best_regions(
    logits: Tensor, deltas: Tensor, anchors: Tensor, count: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, k, 4), scores (B, k) and rows (B, k) of a level's k best regions; no area: a score of 0."""
    rows = flatten_logits(logits).float()
    best, order = rows.topk(min(count, rows.shape[1]), dim=1)
    boxes = clip(decode(take(flatten_deltas(deltas), order).float(), anchors[order]), size)
    left, top, right, bottom = torch.split(boxes, 1, dim=-1)
    has_area = ((right > left) & (bottom > top)).squeeze(-1)
    return boxes, torch.where(has_area, best.sigmoid(), 0.0), order


def pair_up(
    logits: Tensor, deltas: Tensor, proposals: Proposals, *, limits: DetectionLimits, size: tuple[int, int]
) -> Pairs:
    """The best (proposal, class) pairs from class logits (B, K, C + 1), background last, and deltas (B, K, C or 1, 4).

    Only the deltas of the chosen pairs are decoded.
    """
    _, count, outputs = logits.shape
    classes = outputs - 1
    likely, _ = torch.split(logits.float().softmax(dim=-1), [classes, 1], dim=-1)
    usable = (likely > limits.score_floor) & (proposals.scores > 0).unsqueeze(-1)
    flat = torch.where(usable, likely, 0.0).flatten(1)  # (B, K * C)
    scores, pair = flat.topk(min(limits.pairs, count * classes), dim=1)
    label = pair % classes
    place = torch.div(pair, classes, rounding_mode="floor")
    per_class = deltas.shape[2] > 1
    moved = take(deltas.flatten(1, 2), pair if per_class else place).float()
    boxes = clip(decode(moved, take(proposals.boxes, place), BOX_SPREADS), size)
    return Pairs(boxes, scores, label, place)


def choose(pairs: Pairs, *, limits: DetectionLimits, operators: Operators) -> Chosen:
    """Suppress pairs class by class, and take the best of those that stay."""
    keep = operators.keep(pairs.boxes, pairs.scores, pairs.classes, limits.iou_threshold)
    kept = torch.where(keep, pairs.scores, 0.0)
    missing = limits.max_detections - kept.shape[1]
    if missing > 0:
        kept = functional.pad(kept, [0, missing])
    scores, order = kept.topk(limits.max_detections, dim=1)
    if missing > 0:
        order = order.clamp(max=pairs.scores.shape[1] - 1)
    used = scores > 0
    return Chosen(
        used.sum(dim=1, keepdim=True).to(torch.int32),
        torch.where(used.unsqueeze(-1), take(pairs.boxes, order), 0.0),
        scores,
        torch.where(used, pairs.classes.gather(1, order), 0).to(torch.int32),
    )


def finished_masks(logits: Tensor, chosen: Chosen) -> Tensor:
    """Masks (B, D, 28, 28) uint8 from the logits (B, D, C or 1, 28, 28) of the chosen boxes."""
    if logits.shape[2] > 1:
        index = chosen.classes.to(torch.int64)[:, :, None, None, None].expand(-1, -1, 1, *logits.shape[3:])
        logits = logits.gather(2, index)
    likely = logits.squeeze(2).float().sigmoid() * 255.0
    used = (chosen.scores > 0)[:, :, None, None]
    return torch.where(used, likely.round(), 0.0).to(torch.uint8)


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K, F) of (B, N, F) at `index` (B, K)."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
