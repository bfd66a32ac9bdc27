"""Training batches, made ahead of time in one loader process, each determined by its seed, epoch and number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dynamicdet.aliases import BoolArray, IntArray
from dynamicdet.datasets.dataset import CocoDataset, Labels
from dynamicdet.training.assignment import Objects
from dynamicdet.training.augment import Augmentation, Sample, augment

_AHEAD = 6
_STEP = 32  # sizes are multiples of it
_SIZES = 77  # keeps the random numbers of sizes apart from those of images


@dataclass(frozen=True)
class Batch:
    """uint8 images (B, S, S, 3) and their objects."""

    images: Tensor
    objects: Objects
    masks: tuple[Tensor, ...] | None = None
    """of each image uint8 (n, S, S), 0 or 1, in the order of its objects in `objects`; None unless asked for"""

    def input(self) -> Tensor:
        """The network's input, (B, 3, S, S) in 0..1."""
        return self.images.permute(0, 3, 1, 2).float().div_(255)

    def first(self, count: int) -> Batch:
        """At most so many images, the first ones."""
        kept = self.objects.image < count
        objects = Objects(*(one[kept] for one in (self.objects.image, self.objects.label, self.objects.box)))
        masks = None if self.masks is None else self.masks[:count]
        return Batch(self.images[:count], objects, masks) if count < len(self.images) else self

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        objects = Objects(*(one.to(device) for one in (self.objects.image, self.objects.label, self.objects.box)))
        masks = None if self.masks is None else tuple(one.to(device, non_blocking=True) for one in self.masks)
        return Batch(self.images.to(device, non_blocking=True), objects, masks)


def collate(samples: list[Sample]) -> Batch:
    """Stack images and join their objects; with masks if the samples have them."""
    images = torch.from_numpy(np.stack([image for image, _ in samples]))
    masks = [torch.from_numpy(labels.masks) for _, labels in samples if labels.masks is not None]
    return Batch(images, objects_of([labels for _, labels in samples]), tuple(masks) if masks else None)


def objects_of(labels: list[Labels]) -> Objects:
    """Objects of a batch from those of its images."""
    boxes = torch.from_numpy(np.concatenate([one.boxes for one in labels])).float()
    centred = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
    image = np.repeat(np.arange(len(labels)), [len(one.classes) for one in labels])
    return Objects(
        image=torch.from_numpy(image),
        label=torch.from_numpy(np.concatenate([one.classes for one in labels])),
        box=centred,
    )


class EpochBatches(Dataset[Batch]):
    """The batches of one epoch: all images in random order, augmented; an incomplete last batch is left out.

    `share` (part, of) gives one of several processes its part of every batch. `size_range` above 0 draws each batch's
    size within that share of `size`, the same for all parts. `used` (N,) says which images there are; None: all. With
    `masks`, the batches have them; the data set was read with masks then. The same seed, epoch and part give the same
    batches.
    """

    def __init__(
        self,
        data: CocoDataset,
        options: Augmentation,
        *,
        size: int,
        batch: int,
        seed: int,
        epoch: int,
        share: tuple[int, int] = (0, 1),
        size_range: float = 0.0,
        used: BoolArray | None = None,
        masks: bool = False,
    ) -> None:
        self.data = data
        self.masks = masks
        self.options = options
        self.size = size
        self.size_range = size_range
        self.part, self.parts = share
        self.places = np.arange(len(data)) if used is None else np.flatnonzero(used)
        self.batch = max(1, min(batch, len(self.places)) // self.parts)
        """images in this part"""
        self.seed = (seed, epoch)
        self.order = self.places[np.random.default_rng(self.seed).permutation(len(self.places))]

    def __len__(self) -> int:
        return len(self.places) // (self.batch * self.parts)

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((*self.seed, index + 1, *((self.part,) if self.parts > 1 else ())))
        start = (index * self.parts + self.part) * self.batch
        size = self._size(index)
        return collate(
            [
                augment(_Draw(self.data, self.places, int(first), rng, masks=self.masks), size, self.options, rng)
                for first in self.order[start : start + self.batch]
            ]
        )

    def _size(self, index: int) -> int:
        if not self.size_range:
            return self.size
        least, most = (round(self.size * factor / _STEP) for factor in (1 - self.size_range, 1 + self.size_range))
        return _STEP * int(np.random.default_rng((*self.seed, index + 1, _SIZES)).integers(max(1, least), most + 1))


class _Draw:
    """Gives one image first, then random ones."""

    def __init__(
        self, data: CocoDataset, places: IntArray, first: int, rng: np.random.Generator, *, masks: bool
    ) -> None:
        self.data = data
        self.masks = masks
        self.places = places
        self.next = first
        self.rng = rng

    def __call__(self) -> Sample:
        index, self.next = self.next, int(self.places[self.rng.integers(len(self.places))])
        labels = self.data.labels[index]
        return self.data.images[index], replace(labels, masks=self.data.masks(index)) if self.masks else labels


def load_ahead(batches: EpochBatches, *, workers: int = 1) -> Iterator[Batch]:
    """The batches in order; with 0 `workers` they are made in this process."""
    return iter(DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=_AHEAD if workers else None))
