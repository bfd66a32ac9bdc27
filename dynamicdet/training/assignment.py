"""Decides which predictions learn which objects: SimOTA on anchor candidates, for a whole batch at once.

The candidates of an object are the anchors of a similar shape in the cell of its centre and in the two nearest
neighbour cells. The sum of their ten best overlaps says how many of them are used, cheapest first; the cost is the
classification loss plus the box loss. If two objects want the same row, it goes to the object with the lower cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dynamicdet.boxes import elementwise_iou

MAX_ANCHOR_RATIO = 4.0
TOP_OVERLAPS = 10
BOX_COST = 3.0
_UNUSABLE = 1e6


@dataclass(frozen=True)
class Objects:
    """The objects of a batch, sorted or not: image index (G,), class (G,), box (G, 4) as cx cy w h in pixels."""

    image: Tensor
    label: Tensor
    box: Tensor

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Rows:
    """What a head's rows stand for, in (level, anchor, row, column) order; see `rows_of`."""

    cell: Tensor
    """(N, 2) column and row of the cell"""
    stride: Tensor
    """(N,) pixels"""
    anchor: Tensor
    """(N, 2) width and height, pixels"""
    level: Tensor
    """(N,)"""
    shapes: tuple[tuple[int, int], ...]
    """(H, W) per level"""
    strides: tuple[int, ...]
    anchors: Tensor
    """(levels, anchors, 2), pixels"""

    def boxes(self, raw: Tensor, rows: Tensor) -> Tensor:
        """Boxes cx cy w h in pixels of raw values (..., 4+) at row numbers (...)."""
        likely = raw[..., :4].sigmoid()
        stride = self.stride[rows].unsqueeze(-1)
        centre = (2 * likely[..., :2] - 0.5 + self.cell[rows]) * stride
        extent = (2 * likely[..., 2:]) ** 2 * self.anchor[rows]
        return torch.cat([centre, extent], dim=-1)


@dataclass(frozen=True)
class Matches:
    """Pairs of a prediction and an object: image, row within the image, object; all (M,)."""

    image: Tensor
    row: Tensor
    target: Tensor


def rows_of(shapes: Sequence[tuple[int, int]], anchors: Tensor, strides: Sequence[int]) -> Rows:
    """Describe the rows of maps (H, W) per level, for `anchors` (levels, anchors, 2) in pixels."""
    cells, stride_of, anchor_of, level_of = [], [], [], []
    for level, ((height, width), stride) in enumerate(zip(shapes, strides, strict=True)):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        cell = torch.stack([x, y], dim=-1).view(1, height * width, 2)
        count = anchors.shape[1]
        cells.append(cell.expand(count, -1, -1).reshape(-1, 2).float())
        anchor_of.append(anchors[level].view(count, 1, 2).expand(-1, height * width, -1).reshape(-1, 2))
        stride_of.append(torch.full((count * height * width,), float(stride)))
        level_of.append(torch.full((count * height * width,), level))
    return Rows(
        cell=torch.cat(cells).to(anchors.device),
        stride=torch.cat(stride_of).to(anchors.device),
        anchor=torch.cat(anchor_of),
        level=torch.cat(level_of).to(anchors.device),
        shapes=tuple(shapes),
        strides=tuple(strides),
        anchors=anchors,
    )


@torch.no_grad()
def assign(raw: Tensor, rows: Rows, objects: Objects) -> Matches:
    """Match the objects of a batch to rows of `raw` (B, N, 5 + classes), float32, before the sigmoid."""
    if not len(objects):
        empty = torch.zeros(0, dtype=torch.long, device=raw.device)
        return Matches(empty, empty, empty)
    candidates, usable = _candidates(rows, objects)  # (G, K)
    image = objects.image.unsqueeze(1).expand_as(candidates)
    values = raw[image, candidates]  # (G, K, 5 + classes)
    overlap = elementwise_iou(rows.boxes(values, candidates), objects.box.unsqueeze(1)).clamp(min=0) * usable
    cost = _class_cost(values, objects.label) - BOX_COST * (overlap + 1e-8).log() + _UNUSABLE * ~usable

    wanted = overlap.topk(min(TOP_OVERLAPS, overlap.shape[1]), dim=1).values.sum(dim=1).long().clamp(min=1)  # (G,)
    rank = cost.argsort(dim=1).argsort(dim=1)
    target, place = torch.nonzero((rank < wanted.unsqueeze(1)) & usable, as_tuple=True)
    cheapest = _cheapest_per_row(
        image[target, place] * raw.shape[1] + candidates[target, place], cost[target, place], raw.shape[:2].numel()
    )
    target, place = target[cheapest], place[cheapest]
    return Matches(image=objects.image[target], row=candidates[target, place], target=target)


def _candidates(rows: Rows, objects: Objects) -> tuple[Tensor, Tensor]:
    """Row numbers (G, levels * anchors * 3) and which of them may be used."""
    numbers, usable = [], []
    first_row = 0
    for level, ((height, width), stride) in enumerate(zip(rows.shapes, rows.strides, strict=True)):
        anchors = rows.anchors[level]  # (A, 2)
        ratio = objects.box[:, None, 2:] / anchors  # (G, A, 2)
        similar = torch.maximum(ratio, 1 / ratio).amax(dim=-1) < MAX_ANCHOR_RATIO  # (G, A)
        cells, inside = _cells(objects.box[:, :2] / stride, height, width)  # (G, 3)
        offset = first_row + torch.arange(len(anchors), device=cells.device) * height * width
        numbers.append((offset[:, None] + cells[:, None, :]).flatten(1))  # (G, A * 3)
        usable.append((similar[:, :, None] & inside[:, None, :]).flatten(1))
        first_row += len(anchors) * height * width
    return torch.cat(numbers, dim=1), torch.cat(usable, dim=1)


def _cells(centre: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The cell of a centre and its nearest horizontal and vertical neighbours, (G, 3), and which lie inside."""
    limit = torch.tensor([width - 1, height - 1], device=centre.device)
    cell = torch.minimum(centre.floor().long().clamp(min=0), limit)  # (G, 2)
    towards = torch.where(centre - cell < 0.5, -1, 1)
    across = cell + towards * torch.tensor([1, 0], device=centre.device)
    along = cell + towards * torch.tensor([0, 1], device=centre.device)
    three = torch.stack([cell, across, along], dim=1)  # (G, 3, 2)
    inside = ((three >= 0) & (three <= limit)).all(dim=-1)
    three = torch.minimum(three.clamp(min=0), limit)
    return three[..., 1] * width + three[..., 0], inside


def _class_cost(values: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy of sqrt(class * objectness) against each object's class, (G, K)."""
    likely = (values[..., 5:].sigmoid() * values[..., 4:5].sigmoid()).sqrt()
    truth = functional.one_hot(labels, likely.shape[-1]).to(likely.dtype).unsqueeze(1).expand_as(likely)
    return functional.binary_cross_entropy(likely, truth, reduction="none").sum(dim=-1)


def _cheapest_per_row(row: Tensor, cost: Tensor, count: int) -> Tensor:
    """Mask of the entries that are the first cheapest of their row."""
    lowest = torch.full((count,), torch.inf, device=cost.device).scatter_reduce(0, row, cost, "amin")
    candidate = cost <= lowest[row]
    order = torch.arange(len(row), device=row.device)
    first = torch.full((count,), len(row), device=row.device).scatter_reduce(
        0, row[candidate], order[candidate], "amin"
    )
    return candidate & (first[row] == order)
