"""The two operations that exported graphs do in another form: suppression, and features of a region of a map."""

from __future__ import annotations

from collections.abc import Callable
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


def roi_features(feature: Tensor, boxes: Tensor, stride: int, output: int, aligned: bool) -> Tensor:
    """RoIAlign, averaging 2 x 2 samples per bin: map (B, C, H, W) and boxes (B, K, 4) to (B, K, C, output, output).

    Boxes are in pixels of the image and inside it, where this is exactly RoIAlign's result: its coordinates and
    grid_sample's both end at the outermost pixel centres. `aligned` puts pixel centres at half pixels; without it, they
    are at whole ones, and boxes are at least one pixel of the map wide and high. Coordinates are in single precision.
    """
    batch, channels, height, width = feature.shape
    count, side = boxes.shape[1], SAMPLES * output
    left, top, right, bottom = torch.split(boxes.float() * (1.0 / stride), 1, dim=-1)  # (B, K, 1) each
    wide, high = right - left, bottom - top
    if not aligned:
        wide, high = wide.clamp(min=1.0), high.clamp(min=1.0)
        left, top = left + 0.5, top + 0.5  # grid_sample has pixel centres at half pixels
    step = (torch.arange(side, dtype=torch.float32, device=boxes.device) + 0.5) / side
    x = (left + step * wide) * (2.0 / width) - 1.0  # (B, K, side), -1 to 1 from border to border
    y = (top + step * high) * (2.0 / height) - 1.0
    grid = torch.stack(
        [x.unsqueeze(2).expand(-1, -1, side, -1), y.unsqueeze(3).expand(-1, -1, -1, side)], dim=-1
    )  # (B, K, side, side, 2)
    samples = functional.grid_sample(
        feature.float(),
        grid.reshape(batch, count * side, side, 2),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    bins = functional.avg_pool2d(samples, SAMPLES)  # (B, C, K * output, output)
    rois = bins.reshape(batch, channels, count, output, output).transpose(1, 2)
    return rois.to(feature.dtype)


@dataclass(frozen=True)
class Operators:
    """The forms that a network uses."""

    keep: Callable[[Tensor, Tensor, Tensor, float], Tensor] = keep_best
    roi: Callable[[Tensor, Tensor, int, int, bool], Tensor] = roi_features
