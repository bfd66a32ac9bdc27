"""The two operations that exported graphs do in another form: suppression, and features of boxes on maps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SAMPLES = 2
"""per bin and direction"""


def keep_best(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes (B, K, 4) stay, (B, K) bool: greedy, in the given order, among boxes of a group (B, K).

    A box goes if its overlap with an earlier one of its group that stays exceeds the threshold. A score of 0 marks an
    unused row, which never stays. The greedy result is the fixed point of this rule.
    """
    left, top, right, bottom = (side.squeeze(-1) for side in torch.split(boxes.float(), 1, dim=-1))  # (B, K)
    wide = torch.minimum(right[:, :, None], right[:, None]) - torch.maximum(left[:, :, None], left[:, None])
    high = torch.minimum(bottom[:, :, None], bottom[:, None]) - torch.maximum(top[:, :, None], top[:, None])
    shared = wide.clamp_(min=0).mul_(high.clamp_(min=0))  # (B, K, K)
    area = (right - left) * (bottom - top)
    rivals = shared > (area[:, :, None] + area[:, None] - shared) * iou_threshold
    suppresses = (rivals & (groups[:, :, None] == groups[:, None])).triu_(1).to(boxes.dtype)
    usable = scores > 0
    stay = usable
    while True:
        following = ((stay.to(boxes.dtype).unsqueeze(1) @ suppresses).squeeze(1) < 0.5) & usable
        if torch.equal(following, stay):
            return stay
        stay = following


def roi_features(
    maps: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], output: int, aligned: bool
) -> Tensor:
    """RoIAlign, averaging 2 x 2 samples per bin, of boxes (B, K, 4) each on one of some maps (B, C, H, W).

    Gives (B, K, C, output, output). Boxes are in pixels of the image and inside it; `levels` (B, K) are the numbers of
    their maps, and `strides` those of the maps. `aligned` puts pixel centres at half pixels; without it, they are at
    whole ones, and boxes are at least one pixel of the map wide and high. Samples beyond the outermost pixel centres
    take their values, which is exactly RoIAlign's result for boxes inside the image. Coordinates are in single
    precision.

    The maps lie side by side in one (see `side_by_side`), so each box is sampled on its own map alone.
    """
    side = SAMPLES * output
    whole, corners = side_by_side([level.float() for level in maps])
    low, size = in_cells(boxes, levels, strides, aligned=aligned)
    last = looked_up([(width - 1, height - 1) for height, width in map(sides, maps)], levels)
    steps = (torch.arange(side, dtype=torch.float32, device=boxes.device) + 0.5) / side
    points = low.unsqueeze(2) + steps[:, None] * size.unsqueeze(2)  # (B, K, side, 2) x and y of columns and rows
    points = torch.minimum(points.clamp(min=0.0), last.unsqueeze(-2)) + looked_up(corners, levels).unsqueeze(-2)
    height, width = sides(whole)
    x, y = torch.split(points, 1, dim=-1)  # (B, K, side, 1); the centre of the first pixel is 0
    x = (x.transpose(2, 3) + 0.5) * (2.0 / width) - 1.0  # -1 to 1 from border to border
    y = (y + 0.5) * (2.0 / height) - 1.0
    grid = torch.stack([x.expand(-1, -1, side, -1), y.expand(-1, -1, -1, side)], dim=-1)  # (B, K, side, side, 2)
    samples = functional.grid_sample(
        whole, grid.flatten(1, 2), mode="bilinear", padding_mode="border", align_corners=False
    )
    bins = functional.avg_pool2d(samples, SAMPLES)  # (B, C, K * output, output)
    rois = bins.reshape(boxes.shape[0], whole.shape[1], boxes.shape[1], output, output).transpose(1, 2)
    return rois.to(maps[0].dtype)


def side_by_side(maps: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Maps in one: the first on the left, the others below each other on its right; and x, y of their corners."""
    if len(maps) == 1:
        return maps[0], [(0, 0)]
    (first_height, first_width), *others = (sides(level) for level in maps)
    width = max(own for _, own in others)
    height = max(first_height, sum(own for own, _ in others))
    tops = itertools.accumulate((own for own, _ in others[:-1]), initial=0)
    column = torch.cat([functional.pad(level, [0, width - sides(level)[1]]) for level in maps[1:]], dim=2)
    halves = [functional.pad(half, [0, 0, 0, height - sides(half)[0]]) for half in (maps[0], column)]
    return torch.cat(halves, dim=3), [(0, 0), *((first_width, top) for top in tops)]


def in_cells(boxes: Tensor, levels: Tensor, strides: Sequence[int], *, aligned: bool) -> tuple[Tensor, Tensor]:
    """Top left corners and sizes (B, K, 2) of boxes in pixels of their maps; the centre of the first pixel is 0."""
    low, high = torch.split(boxes.float() * looked_up([(1.0 / stride,) for stride in strides], levels), 2, dim=-1)
    if aligned:
        return low - 0.5, high - low
    return low, (high - low).clamp(min=1.0)


def looked_up(rows: Sequence[Sequence[float]], levels: Tensor) -> Tensor:
    """For each box, (B, K, F), the row of numbers of its level (B, K); (F,) if there is one level."""
    if len(rows) == 1:
        return torch.tensor(rows[0], dtype=torch.float32, device=levels.device)
    return torch.tensor(rows, dtype=torch.float32, device=levels.device)[levels]


def sides(level: Tensor) -> tuple[int, int]:
    """Height and width of a map as plain numbers, which tracing makes tensors."""
    return int(level.shape[2]), int(level.shape[3])


RoiFeatures = Callable[[Sequence[Tensor], Tensor, Tensor, Sequence[int], int, bool], Tensor]


@dataclass(frozen=True)
class Operators:
    """The forms that a network uses."""

    keep: Callable[[Tensor, Tensor, Tensor, float], Tensor] = keep_best
    rois: RoiFeatures = roi_features
