"""The detection loss of YOLOv7: CIoU for boxes, binary cross entropy for objectness and classes.

To train the detectors, the parts are reduced over the batch. The router compares the two detectors image by image, so
for its training the parts are reduced per image. An image then counts as much as in the average precision of a whole
data set: by its objects. Errors are averaged over the image's matches, because the assignment gives more matches to the
better detector, and weighted by the number of objects in the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dynamicdet.boxes import elementwise_ciou
from dynamicdet.training.assignment import Matches, Objects, Rows, assign, rows_of
from dynamicdet.training.loss_weights import LossWeights

_LEVEL_BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}
_REFERENCE_SIZE = 640
_REFERENCE_CLASSES = 80
_REFERENCE_LEVELS = 3


@dataclass(frozen=True)
class Losses:
    """Weighted parts, each (B,) per image or (1,) for the batch."""

    box: Tensor
    objectness: Tensor
    classes: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of the parts, of the same shape."""
        return self.box + self.objectness + self.classes


class DetectionLoss:
    """Loss of one head's raw maps against the objects of a batch."""

    def __init__(self, anchors: Tensor, strides: Sequence[int], weights: LossWeights | None = None) -> None:
        """`anchors` (levels, anchors, 2) in pixels."""
        self.anchors = anchors.detach().float()
        self.strides = tuple(strides)
        self.weights = weights or LossWeights()
        self._rows: dict[tuple[tuple[int, int], ...], Rows] = {}

    def __call__(self, maps: Sequence[Tensor], objects: Objects, *, objects_per_image: float | None = None) -> Losses:
        """`maps` (B, anchors, H, W, 5 + classes) per level, before the sigmoid.

        Means are over the matches (or rows) of each level; levels are added. With `objects_per_image`, the mean of the
        data set, the parts are per image: box and classes are means over the image's matches, times levels, times its
        share of objects.
        """
        rows = self._rows_of(maps)
        raw = torch.cat([level.flatten(1, 3) for level in maps], dim=1).float()  # (B, N, 5 + classes)
        matches = assign(raw.detach(), rows, objects)
        matched = raw[matches.image, matches.row]  # (M, 5 + classes)
        overlap = elementwise_ciou(rows.boxes(matched, matches.row), objects.box[matches.target])

        objectness = self._objectness(raw[..., 4], rows, matches, overlap.detach())  # (B,)
        mean: Callable[[Tensor], Tensor] = _LevelMean(rows, matches)
        if objects_per_image is None:
            objectness = objectness.mean(dim=0, keepdim=True)
        else:
            mean = _ImageMean(rows, matches, objects, raw.shape[0], objects_per_image)
        truth = functional.one_hot(objects.label[matches.target], raw.shape[-1] - 5).to(raw.dtype)
        class_error = functional.binary_cross_entropy_with_logits(matched[:, 5:], truth, reduction="none").mean(dim=1)
        scale = self._scales(rows, raw.shape[-1] - 5)
        return Losses(
            box=scale.box * mean(1 - overlap),
            objectness=scale.objectness * objectness,
            classes=scale.classes * mean(class_error),
        )

    def _rows_of(self, maps: Sequence[Tensor]) -> Rows:
        shapes = tuple((level.shape[2], level.shape[3]) for level in maps)
        if shapes not in self._rows:
            self._rows[shapes] = rows_of(shapes, self.anchors, self.strides)
        return self._rows[shapes]

    def _objectness(self, logits: Tensor, rows: Rows, matches: Matches, overlap: Tensor) -> Tensor:
        """Balanced sum over levels of the mean error, (B,); the target of a matched row is the overlap of its box."""
        truth = torch.zeros_like(logits)
        truth[matches.image, matches.row] = overlap.clamp(min=0).to(truth.dtype)
        error = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")  # (B, N)
        counts = [height * width * rows.anchors.shape[1] for height, width in rows.shapes]
        balance = _LEVEL_BALANCE.get(len(counts), (1.0,) * len(counts))
        levels = torch.split(error, counts, dim=1)
        return torch.stack([gain * level.mean(dim=1) for gain, level in zip(balance, levels, strict=True)]).sum(dim=0)

    def _scales(self, rows: Rows, classes: int) -> LossWeights:
        height, width = rows.shapes[0]
        area = height * width * rows.strides[0] ** 2
        levels = _REFERENCE_LEVELS / len(rows.shapes)
        return LossWeights(
            box=self.weights.box * levels,
            objectness=self.weights.objectness * levels * area / _REFERENCE_SIZE**2,
            classes=self.weights.classes * levels * classes / _REFERENCE_CLASSES,
        )


class _LevelMean:
    """Means of values per match within each level, added over levels."""

    def __init__(self, rows: Rows, matches: Matches) -> None:
        self.levels = len(rows.shapes)
        self.level = rows.level[matches.row]
        self.counts = _add(torch.ones(len(self.level), device=self.level.device), self.level, self.levels).clamp(min=1)

    def __call__(self, values: Tensor) -> Tensor:
        """(M,) to (1,); 0 without a match."""
        return (_add(values, self.level, self.levels) / self.counts).sum(dim=0, keepdim=True)


class _ImageMean:
    """Means of values per match within each image, times levels, times the image's objects over the usual number."""

    def __init__(self, rows: Rows, matches: Matches, objects: Objects, images: int, objects_per_image: float) -> None:
        self.image, self.images = matches.image, images
        one = torch.ones(len(self.image), device=self.image.device)
        matched = _add(one, self.image, images).clamp(min=1)
        held = _add(torch.ones(len(objects), device=self.image.device), objects.image, images)
        self.weights = len(rows.shapes) * held / objects_per_image / matched

    def __call__(self, values: Tensor) -> Tensor:
        """(M,) to (images,); 0 without a match."""
        return self.weights * _add(values, self.image, self.images)


def _add(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Sums (groups,) of values (M,) by group (M,)."""
    return torch.zeros(groups, device=values.device).index_add(0, group, values)
