"""Draws the boxes that take part in a loss: the same seed of an image draws the same ones, on any processor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dynamicdet.training.two_stage.settings import Sampling

_BITS32 = 0xFFFFFFFF


class Sample(NamedTuple):
    """R drawn boxes of each image, objects' boxes first."""

    row: Tensor
    """(B, R) their places"""
    used: Tensor
    """(B, R) bool: false if there were too few to draw from"""
    positive: Tensor
    """(B, R) bool"""


@torch.no_grad()
def draw(positive: Tensor, negative: Tensor, sampling: Sampling, seeds: Tensor) -> Sample:
    """Draw from the boxes that are `positive` or `negative` (B, N), with a seed (B,) for each image."""
    keys = random_keys(seeds, positive.shape[1])
    count = min(sampling.count, keys.shape[1])
    # The largest keys are drawn. Boxes of the other kind have keys below 0.
    most = min(max(1, int(count * sampling.positives)), count)
    objects, object_row = torch.where(positive, keys, -1.0).topk(most, dim=1)
    others, other_row = torch.where(negative, keys, -1.0).topk(count, dim=1)
    is_object = objects >= 0
    wanted = count - is_object.sum(dim=1, keepdim=True)
    is_other = (others >= 0) & (torch.arange(count, device=keys.device) < wanted)
    order = torch.cat([is_object.long() * 2, is_other.long()], dim=1).argsort(dim=1, descending=True, stable=True)
    order = order[:, :count]
    return Sample(
        row=torch.cat([object_row, other_row], dim=1).gather(1, order),
        used=torch.cat([is_object, is_other], dim=1).gather(1, order),
        positive=torch.cat([is_object, torch.zeros_like(is_other)], dim=1).gather(1, order),
    )


def everything(positive: Tensor, negative: Tensor) -> Sample:
    """All boxes, objects' boxes first."""
    whole = Sampling(count=positive.shape[1], positives=1.0)
    return draw(positive, negative, whole, torch.zeros(len(positive), dtype=torch.long, device=positive.device))


def random_keys(seeds: Tensor, count: int) -> Tensor:
    """Numbers in 0..1 (B, count) that depend on the seed (B,) of their row and their place in it, on nothing else."""
    number = torch.arange(1, count + 1, device=seeds.device)
    mixed = _mixed(_mixed(seeds.long() & _BITS32).unsqueeze(1) ^ (number * 0x9E3779B9 & _BITS32))
    return (mixed >> 8).float() / (1 << 24)


def _mixed(numbers: Tensor) -> Tensor:
    """A hash of 32-bit numbers in int64: each bit of the result depends on all bits."""
    for factor, shift in ((0x21F0AAAD, 16), (0x735A2D97, 15)):
        numbers = ((numbers ^ (numbers >> shift)) * factor) & _BITS32
    return numbers ^ (numbers >> 15)
