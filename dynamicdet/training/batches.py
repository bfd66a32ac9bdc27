"""Training batches, made ahead of time in one loader process, each determined by its seed, epoch and number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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

    def input(self) -> Tensor:
        """The network's input, (B, 3, S, S) in 0..1."""
        return self.images.permute(0, 3, 1, 2).float().div_(255)

    def first(self, count: int) -> Batch:
        """At most so many images, the first ones."""
        kept = self.objects.image < count
        objects = Objects(*(one[kept] for one in (self.objects.image, self.objects.label, self.objects.box)))
        return Batch(images=self.images[:count], objects=objects) if count < len(self.images) else self

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        objects = Objects(*(one.to(device) for one in (self.objects.image, self.objects.label, self.objects.box)))
        return Batch(images=self.images.to(device, non_blocking=True), objects=objects)


def collate(samples: list[Sample]) -> Batch:
    """Stack images and join their objects."""
    images = torch.from_numpy(np.stack([image for image, _ in samples]))
    return Batch(images=images, objects=objects_of([labels for _, labels in samples]))


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
    size within that share of `size`, the same for all parts. `used` (N,) says which images there are; None: all. The
    same seed, epoch and part give the same batches.
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
    ) -> None:
        self.data = data
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
                augment(_Draw(self.data, self.places, int(first), rng), size, self.options, rng)
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

    def __init__(self, data: CocoDataset, places: IntArray, first: int, rng: np.random.Generator) -> None:
        self.data = data
        self.places = places
        self.next = first
        self.rng = rng

    def __call__(self) -> Sample:
        index, self.next = self.next, int(self.places[self.rng.integers(len(self.places))])
        return self.data.images[index], self.data.labels[index]


def load_ahead(batches: EpochBatches, *, workers: int = 1) -> Iterator[Batch]:
    """The batches in order; with 0 `workers` they are made in this process."""
    return iter(DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=_AHEAD if workers else None))
