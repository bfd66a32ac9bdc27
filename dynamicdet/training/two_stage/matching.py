"""Which boxes (anchors or proposals) learn an object, which learn that there is none, and which learn nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynamicdet.errors import InputError
from dynamicdet.training.two_stage.targets import Targets

_LEAST_AREA = 1e-6


@dataclass(frozen=True, kw_only=True)
class MatchRule:
    """Overlaps (IoU) from which a box is an object's, and below which it is background.

    Raises InputError unless 0 <= negative <= positive <= 1, and if `best` is not from 0 to 1.
    """

    positive: float
    negative: float
    best: float | None
    """overlap from which the boxes that overlap an object most are that object's, whatever else they overlap; None: no
    box is matched for that reason"""

    def __post_init__(self) -> None:
        if not 0 <= self.negative <= self.positive <= 1:
            raise InputError(
                f"overlaps must be in order, 0 <= negative <= positive <= 1, got {self.negative} and {self.positive}"
            )
        if self.best is not None and not 0 <= self.best <= 1:
            raise InputError(f"the least overlap of an object's best box must be from 0 to 1, got {self.best}")


ANCHORS = MatchRule(positive=0.7, negative=0.3, best=0.3)
PROPOSALS = MatchRule(positive=0.5, negative=0.5, best=None)
PROPOSALS_WITH_MASKS = MatchRule(positive=0.5, negative=0.5, best=0.5)


class Matches(NamedTuple):
    """What each of N boxes of B images learns; a box that is neither positive nor negative learns nothing."""

    positive: Tensor
    """(B, N) bool"""
    negative: Tensor
    """(B, N) bool"""
    target: Tensor
    """(B, N) row of the image's object that it overlaps most, or whose best box it is"""


@torch.no_grad()
def match(boxes: Tensor, targets: Targets, rule: MatchRule, *, usable: Tensor | None = None) -> Matches:
    """Match boxes (B, N, 4), or (1, N, 4) of all images, x1 y1 x2 y2, to the objects of each image.

    Boxes that are not `usable` (B, N) learn nothing and are nobody's best.
    """
    overlap = overlaps(targets.box, boxes.float())  # (B, G, N)
    overlap.masked_fill_(~targets.present.unsqueeze(-1), -1.0)
    if usable is not None:
        overlap.masked_fill_(~usable.unsqueeze(1), -1.0)
    most, target = overlap.max(dim=1)
    positive, negative = most >= rule.positive, most < rule.negative
    if rule.best is not None:
        best = overlap.amax(dim=2, keepdim=True)  # (B, G, 1)
        # An object that nothing overlaps has no best box, also if the rule asks for no overlap.
        chosen = (overlap == best) & (best >= max(rule.best, _LEAST_AREA))
        number = torch.arange(1, chosen.shape[1] + 1, device=chosen.device).view(1, -1, 1)
        owner = (chosen * number).amax(dim=1)  # the last such object, as in the usual implementations
        target = torch.where(owner > 0, owner - 1, target)
        positive, negative = positive | (owner > 0), negative & (owner == 0)
    if usable is not None:
        negative = negative & usable
    return Matches(positive=positive & (most >= 0), negative=negative, target=target)


def overlaps(objects: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of each object (B, G, 4) with each box (B or 1, N, 4), (B, G, N); x1 y1 x2 y2."""
    left, top, right, bottom = objects.unsqueeze(-1).unbind(2)  # (B, G, 1)
    x1, y1, x2, y2 = boxes.mT.contiguous().unsqueeze(1).unbind(2)  # (B or 1, 1, N); N last, because it is the longest
    shared = (torch.minimum(right, x2) - torch.maximum(left, x1)).clamp_(min=0)
    shared = shared * (torch.minimum(bottom, y2) - torch.maximum(top, y1)).clamp_(min=0)
    union = (right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - shared
    return shared.div_(union.clamp_(min=_LEAST_AREA))
