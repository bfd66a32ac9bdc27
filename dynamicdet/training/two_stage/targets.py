"""The objects of a batch in one table, and what a box sees of their masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dynamicdet.boxes import corners
from dynamicdet.training.assignment import Objects


class Targets(NamedTuple):
    """The objects of B images: G rows for each image, as many as the image with most objects has, but at least one."""

    box: Tensor
    """(B, G, 4) x1 y1 x2 y2 in pixels"""
    label: Tensor
    """(B, G) class"""
    present: Tensor
    """(B, G) bool: whether the row is an object"""
    mask_row: Tensor
    """(B, G) the object's row in `masks`"""
    masks: Tensor | None
    """(objects, S, S) uint8, 0 or 1; None if the detector has no masks"""


def targets_of(objects: Objects, images: int, masks: Sequence[Tensor] | None = None) -> Targets:
    """The table of a batch of so many images; `masks` are those of each image, rows as its objects in `objects`."""
    order = objects.image.argsort(stable=True)
    image = objects.image[order]
    counts = torch.bincount(image, minlength=images)
    row = torch.arange(len(order), device=order.device)
    place = row - (counts.cumsum(0) - counts)[image]
    shape = (images, max(1, int(counts.max())) if images else 1)

    def table(values: Tensor, dtype: torch.dtype) -> Tensor:
        empty = torch.zeros((*shape, *values.shape[1:]), dtype=dtype, device=order.device)
        empty[image, place] = values.to(dtype)
        return empty

    return Targets(
        box=table(corners(objects.box.float())[order], torch.float32),
        label=table(objects.label[order], torch.long),
        present=table(torch.ones_like(row), torch.bool),
        mask_row=table(row, torch.long),
        masks=None if masks is None else torch.cat(list(masks)),
    )


def rows_at(table: Tensor, index: Tensor) -> Tensor:
    """Rows (B, R, ...) of a table (B, N, ...) at the places (B, R) of each image."""
    image = torch.arange(len(index), device=index.device).unsqueeze(1)
    return table[image, index]


def cropped_masks(masks: Tensor, rows: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Masks (M, S, S) at `rows` (...) as `boxes` (..., 4) see them, (..., size, size), 0 or 1 in float32.

    The box is a grid of `size` x `size` cells; a cell is 1 if the mask at its centre, between the pixels' centres, is
    at least a half.
    """
    cells = (torch.arange(size, device=boxes.device) + 0.5) / size
    low, high = boxes[..., None, :2], boxes[..., None, 2:]
    points = low + cells[:, None] * (high - low) - 0.5  # (..., size, 2) x and y between pixel centres
    points = points.clamp(0, masks.shape[-1] - 1)
    first = points.floor()
    share = points - first
    first = first.long()
    second = (first + 1).clamp(max=masks.shape[-1] - 1)
    row = rows[..., None, None]
    total = boxes.new_zeros(())
    for vertical, across in ((first, 1 - share[..., 1]), (second, share[..., 1])):
        for horizontal, along in ((first, 1 - share[..., 0]), (second, share[..., 0])):
            value = masks[row, vertical[..., 1].unsqueeze(-1), horizontal[..., 0].unsqueeze(-2)].to(boxes.dtype)
            total = total + value * across.unsqueeze(-1) * along.unsqueeze(-2)
    return (total >= 0.5).to(boxes.dtype)
