"""Training batches, made ahead of time in one loader process, each determined by its seed, epoch and number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dynamicdet.assignment import Objects
from dynamicdet.augment import Augmentation, Sample, augment
from dynamicdet.dataset import CocoDataset, Labels

_AHEAD = 6


@dataclass(frozen=True)
class Batch:
    """uint8 pictures (B, S, S, 3) and their objects."""

    images: Tensor
    objects: Objects

    def input(self) -> Tensor:
        """The network's input, (B, 3, S, S) in 0..1."""
        return self.images.permute(0, 3, 1, 2).contiguous().float().div_(255)

    def split(self, parts: int) -> list[Batch]:
        """The batch in this many parts of about the same size (fewer where it has fewer images)."""
        chunks = self.images.tensor_split(min(parts, len(self.images)))
        starts = np.cumsum([0, *(len(chunk) for chunk in chunks)]).tolist()
        return [
            Batch(chunk, self.objects.of_images(start, start + len(chunk)))
            for chunk, start in zip(chunks, starts, strict=False)
        ]


def collate(samples: list[Sample]) -> Batch:
    """Stack pictures and join their objects."""
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
    """The batches of one epoch: all images in random order, augmented; what does not fill a batch is left out."""

    def __init__(
        self, data: CocoDataset, options: Augmentation, *, size: int, batch: int, seed: int, epoch: int
    ) -> None:
        self.data = data
        self.options = options
        self.size = size
        self.batch = min(batch, len(data))
        self.seed = (seed, epoch)
        self.order = np.random.default_rng(self.seed).permutation(len(data))

    def __len__(self) -> int:
        return len(self.data) // self.batch

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((*self.seed, index + 1))
        return collate(
            [
                augment(_Draw(self.data, int(first), rng), self.size, self.options, rng)
                for first in self.order[index * self.batch : (index + 1) * self.batch]
            ]
        )


class _Draw:
    """Gives one image first, then random ones."""

    def __init__(self, data: CocoDataset, first: int, rng: np.random.Generator) -> None:
        self.data = data
        self.next = first
        self.rng = rng

    def __call__(self) -> Sample:
        index, self.next = self.next, int(self.rng.integers(len(self.data)))
        return self.data.images[index], self.data.labels[index]


def load_ahead(batches: EpochBatches, *, workers: int = 1) -> Iterator[Batch]:
    """The batches in order; with `workers` 0 they are made in this process."""
    return iter(DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=_AHEAD if workers else None))
