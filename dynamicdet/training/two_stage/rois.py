"""Features of boxes for training: on small maps by matrix products, which a CPU does several times as fast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dynamicdet.networks.two_stage.operators import SAMPLES, in_cells, looked_up, roi_features, side_by_side, sides

_LARGEST = 64  # cells; the products grow with the side of the maps, while sampling does not


def trained_roi_features(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], output: int, aligned: bool
) -> Tensor:
    """What `roi_features` computes, but for rounding.

    Bilinear sampling and averaging are linear in rows and in columns: a matrix of weights for each box sums the rows,
    another one the columns.
    """
    if max(sides(maps[0])) > _LARGEST:
        return roi_features(maps, boxes, levels, strides, output, aligned)
    with torch.autocast(maps[0].device.type, enabled=False):
        whole, corners = side_by_side([level.float() for level in maps])
        low, size = in_cells(boxes, levels, strides, aligned=aligned)
        last = looked_up([(width - 1, height - 1) for height, width in map(sides, maps)], levels)
        steps = (torch.arange(SAMPLES * output, dtype=torch.float32, device=boxes.device) + 0.5) / (SAMPLES * output)
        points = low.unsqueeze(2) + steps[:, None] * size.unsqueeze(2)  # (B, K, samples, 2) x and y
        points = torch.minimum(points.clamp(min=0.0), last.unsqueeze(-2)) + looked_up(corners, levels).unsqueeze(-2)
        across, down = (_weights(points[..., axis], side) for axis, side in zip((1, 0), sides(whole), strict=True))
        batch, channels, height, width = whole.shape
        # Rows first, for all boxes of an image in one product: (B, K * output, H) with (B, H, C * W).
        rows = across.flatten(1, 2) @ whole.transpose(1, 2).reshape(batch, height, channels * width)
        rows = rows.view(batch, -1, output * channels, width) @ down.mT  # (B, K, output * C, output)
        found: Tensor = rows.view(*rows.shape[:2], output, channels, output).transpose(2, 3)
    return found.to(maps[0].dtype)


def _weights(points: Tensor, side: int) -> Tensor:
    """Weight of each of `side` cells in each bin (B, K, output, side), from its samples' places (B, K, samples)."""
    cells = torch.arange(side, dtype=torch.float32, device=points.device)
    near = (1 - (points.unsqueeze(-1) - cells).abs_()).clamp_(min=0)  # as bilinear sampling weighs a cell
    return near.view(*near.shape[:2], -1, SAMPLES, side).mean(dim=3)
