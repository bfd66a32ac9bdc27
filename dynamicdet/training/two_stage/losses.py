"""The losses of a two-stage detector, and how the errors of rows become a batch's loss or that of each image.

To train the detectors, errors are summed over a batch and divided by the number of rows that were drawn, so an image
with few objects teaches less about boxes. The router compares the two detectors image by image, and an image counts as
much as in the average precision of a whole data set: errors of objects' rows are averaged over the image's rows and
weighted by the number of its objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from dynamicdet.training.two_stage.settings import Gains


class Losses(NamedTuple):
    """Weighted parts, each (B,) per image or (1,) for the batch."""

    objectness: Tensor
    """of anchors: binary cross entropy"""
    regions: Tensor
    """boxes that anchors say"""
    classes: Tensor
    """of proposals: cross entropy"""
    boxes: Tensor
    """that proposals say"""
    masks: Tensor
    """binary cross entropy of the cells; 0 for a detector without masks"""

    @property
    def total(self) -> Tensor:
        """Sum of the parts, of the same shape."""
        return self.objectness + self.regions + self.classes + self.boxes + self.masks


@dataclass(frozen=True)
class RegionRows:
    """What R drawn anchors of each image said, and what they should have said."""

    logits: Tensor
    """(B, R) objectness before the sigmoid"""
    deltas: Tensor
    """(B, R, 4)"""
    wanted: Tensor
    """(B, R, 4); anything where there is no object"""
    used: Tensor
    """(B, R) bool"""
    positive: Tensor
    """(B, R) bool"""


@dataclass(frozen=True)
class ClassRows:
    """What R drawn proposals of each image said, and what they should have said."""

    logits: Tensor
    """(B, R, C + 1) classes, background last, before the softmax"""
    label: Tensor
    """(B, R) of the object, or C"""
    deltas: Tensor
    """(B, R, 4) for the object's class"""
    wanted: Tensor
    """(B, R, 4)"""
    used: Tensor
    """(B, R) bool"""
    positive: Tensor
    """(B, R) bool"""


@dataclass(frozen=True)
class MaskRows:
    """What M proposals of each image said of their objects' masks, and what they should have said."""

    logits: Tensor
    """(B, M, 28, 28) for the object's class"""
    wanted: Tensor
    """(B, M, 28, 28), 0 or 1"""
    positive: Tensor
    """(B, M) bool"""


class Reduction(Protocol):
    """Makes losses (B,) or (1,) of errors (B, R)."""

    def drawn(self, errors: Tensor, used: Tensor, positive: Tensor) -> Tensor:
        """Of all rows that are `used` (B, R), some of which are `positive`."""

    def objects(self, errors: Tensor, positive: Tensor, used: Tensor) -> Tensor:
        """Of the `positive` rows, beside the others that are `used`."""


class OverBatch:
    """One loss, (1,): sums divided by the number of used rows, as in the usual recipes."""

    def drawn(self, errors: Tensor, used: Tensor, positive: Tensor) -> Tensor:
        """Mean over the used rows."""
        return self.objects(errors, used, used)

    def objects(self, errors: Tensor, positive: Tensor, used: Tensor) -> Tensor:
        """Sum over the positive rows, divided by the number of used ones."""
        return ((errors * positive).sum() / used.sum().clamp(min=1)).unsqueeze(0)


class PerImage:
    """The loss of each image, (B,); `weight` (B,) is its number of objects over the usual one."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def drawn(self, errors: Tensor, used: Tensor, positive: Tensor) -> Tensor:
        """Mean over the background rows plus that of the objects' rows, which are much fewer."""
        return _row_means(errors, used & ~positive) + self.objects(errors, positive, used)

    def objects(self, errors: Tensor, positive: Tensor, used: Tensor) -> Tensor:
        """Mean over the positive rows, times the image's share of objects."""
        return self.weight * _row_means(errors, positive)


def _row_means(errors: Tensor, rows: Tensor) -> Tensor:
    return (errors * rows).sum(dim=1) / rows.sum(dim=1).clamp(min=1)


def detector_losses(
    regions: RegionRows, classes: ClassRows, masks: MaskRows | None, gains: Gains, reduce: Reduction
) -> Losses:
    """The losses of one detector, in float32.

    They depend on every output, if only by a factor of 0: several processes exchange gradients of all parameters.
    """
    unsure = functional.binary_cross_entropy_with_logits(
        regions.logits.float(), regions.positive.float(), reduction="none"
    )
    wrong = functional.cross_entropy(classes.logits.float().flatten(0, 1), classes.label.flatten(), reduction="none")
    off = _box_errors(regions.deltas, regions.wanted, gains.beta)
    off_again = _box_errors(classes.deltas, classes.wanted, gains.beta)
    objectness = reduce.drawn(unsure, regions.used, regions.positive)
    if masks is None:
        of_masks = torch.zeros_like(objectness)
    else:
        cells = functional.binary_cross_entropy_with_logits(masks.logits.float(), masks.wanted, reduction="none")
        of_masks = reduce.objects(cells.mean(dim=(2, 3)), masks.positive, masks.positive)
    return Losses(
        objectness=gains.objectness * objectness,
        regions=gains.regions * reduce.objects(off, regions.positive, regions.used),
        classes=gains.classes * reduce.drawn(wrong.view_as(classes.label), classes.used, classes.positive),
        boxes=gains.boxes * reduce.objects(off_again, classes.positive, classes.used),
        masks=gains.masks * of_masks,
    )


def _box_errors(said: Tensor, wanted: Tensor, beta: float) -> Tensor:
    """Sum over the four numbers of each row, (B, R)."""
    return functional.smooth_l1_loss(said.float(), wanted, reduction="none", beta=beta).sum(dim=-1)
