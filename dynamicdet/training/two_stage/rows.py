"""What a detector says about drawn anchors and proposals, beside what it should say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dynamicdet.networks.network import Route
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dynamicdet.networks.two_stage.regions import BOX_SPREADS, encode
from dynamicdet.training.two_stage.losses import ClassRows, MaskRows, RegionRows
from dynamicdet.training.two_stage.matching import ANCHORS, Matches, MatchRule, match
from dynamicdet.training.two_stage.sampling import Sample
from dynamicdet.training.two_stage.targets import Targets, cropped_masks, rows_at

Drawing = Callable[[Tensor, Tensor], Sample]
"""which of the boxes that are positive or negative (B, N) are drawn"""


class Drawn(NamedTuple):
    """R boxes of each image, and the objects that they learn."""

    boxes: Tensor
    """(B, R, 4) x1 y1 x2 y2 in pixels; one pixel where a row is not used"""
    target: Tensor
    """(B, R) row of the image's object"""
    sample: Sample


@torch.no_grad()
def draw_anchors(anchors: Tensor, targets: Targets, drawing: Drawing) -> Drawn:
    """Of the anchors (N, 4) of all levels; what is drawn depends on no detector."""
    return _drawn(anchors.unsqueeze(0), match(anchors.unsqueeze(0), targets, ANCHORS), drawing)


@torch.no_grad()
def draw_proposals(boxes: Tensor, used: Tensor, targets: Targets, rule: MatchRule, drawing: Drawing) -> Drawn:
    """Of the proposals (B, K, 4) that are `used` (B, K), and of the objects themselves."""
    candidates = torch.cat([boxes, targets.box], dim=1)
    usable = torch.cat([used, targets.present], dim=1)
    return _drawn(candidates, match(candidates, targets, rule, usable=usable), drawing)


def region_rows(logits: Tensor, deltas: Tensor, drawn: Drawn, targets: Targets) -> RegionRows:
    """Of objectness (B, N) and deltas (B, N, 4) of all anchors."""
    sample = drawn.sample
    return RegionRows(
        logits=rows_at(logits, sample.row),
        deltas=rows_at(deltas, sample.row),
        wanted=encode(drawn.boxes, _objects(drawn, targets)),
        used=sample.used,
        positive=sample.positive,
    )


def class_rows(
    network: TwoStageDetector, route: Route, pyramid: Sequence[Tensor], drawn: Drawn, targets: Targets
) -> ClassRows:
    """Of the box head."""
    sample = drawn.sample
    logits, deltas = network.class_outputs(route, pyramid, drawn.boxes)
    label = rows_at(targets.label, drawn.target)
    own = label if deltas.shape[2] > 1 else torch.zeros_like(label)
    return ClassRows(
        logits=logits,
        label=torch.where(sample.positive, label, logits.shape[-1] - 1),
        deltas=deltas.gather(2, own[..., None, None].expand(-1, -1, 1, 4)).squeeze(2),
        wanted=encode(drawn.boxes, _objects(drawn, targets), BOX_SPREADS),
        used=sample.used,
        positive=sample.positive,
    )


def mask_rows(
    network: TwoStageDetector,
    route: Route,
    pyramid: Sequence[Tensor],
    drawn: Drawn,
    targets: Targets,
    *,
    limit: int | None = None,
) -> MaskRows:
    """Of the mask head, for the boxes that are objects', at most `limit` of each image.

    There are as many rows for each image as any of them needs, but at least one.
    """
    assert targets.masks is not None
    positive = drawn.sample.positive[:, :limit]
    most = max(1, int(positive.sum(dim=1).max()))
    boxes, target, positive = drawn.boxes[:, :most], drawn.target[:, :most], positive[:, :most]
    logits = network.mask_outputs(route, pyramid, boxes)  # (B, M, C or 1, 28, 28)
    own = rows_at(targets.label, target) if logits.shape[2] > 1 else torch.zeros_like(target)
    index = own[..., None, None, None].expand(-1, -1, 1, *logits.shape[3:])
    if len(targets.masks):
        wanted = cropped_masks(targets.masks, rows_at(targets.mask_row, target), boxes, logits.shape[-1])
    else:
        wanted = torch.zeros_like(logits[:, :, 0], dtype=torch.float32)
    return MaskRows(logits=logits.gather(2, index).squeeze(2), wanted=wanted, positive=positive)


def _objects(drawn: Drawn, targets: Targets) -> Tensor:
    """The object's box of each row (B, R, 4), the row's own if it learns no object."""
    return torch.where(drawn.sample.positive.unsqueeze(-1), rows_at(targets.box, drawn.target), drawn.boxes)


def _drawn(boxes: Tensor, matches: Matches, drawing: Drawing) -> Drawn:
    sample = drawing(matches.positive, matches.negative)
    chosen = rows_at(boxes.expand(len(sample.row), -1, -1), sample.row)
    return Drawn(
        boxes=torch.where(sample.used.unsqueeze(-1), chosen, chosen.new_tensor([0.0, 0.0, 1.0, 1.0])),
        target=rows_at(matches.target, sample.row),
        sample=sample,
    )
