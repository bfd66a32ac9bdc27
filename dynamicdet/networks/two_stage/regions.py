"""Anchors and the coding of boxes. Boxes are x1 y1 x2 y2 in pixels of the square image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dynamicdet.networks.two_stage.architectures import TwoStageModel

BOX_SPREADS = (0.1, 0.1, 0.2, 0.2)
"""of the box head's deltas; those of the region proposals have 1"""
LARGEST_STRETCH = math.log(1000 / 16)
"""of a delta of width or height, in either direction"""


def level_anchors(spec: TwoStageModel, level: int, height: int, width: int, size: tuple[int, int]) -> Tensor:
    """Anchors (height * width * A, 4) of a pyramid level, row by row, cell by cell, ratio by ratio.

    `size` is the height and the width of the image.
    """
    stride = spec.region_strides[level]
    ratios = torch.tensor(spec.anchor_ratios, dtype=torch.float32).sqrt()  # height / width
    side = spec.anchor_scale * stride
    half = torch.stack([side / ratios, side * ratios], dim=1) / 2  # (A, 2) width, height
    around = torch.cat([-half, half], dim=1)  # (A, 4)
    down = right = stride
    if spec.anchor_rule == "whole":
        around = around.round()
        down, right = size[0] // height, size[1] // width
    x = torch.arange(width, dtype=torch.float32) * right
    y = torch.arange(height, dtype=torch.float32) * down
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(-1, 1, 2)  # (H * W, 1, 2)
    return (torch.cat([centres, centres], dim=-1) + around).view(-1, 4)


def decode(deltas: Tensor, boxes: Tensor, spreads: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Boxes (..., 4) moved and stretched by deltas (..., 4): dx dy in sizes of the box, dw dh as logarithms."""
    dx, dy, dw, dh = torch.split(deltas, 1, dim=-1)
    left, top, right, bottom = torch.split(boxes, 1, dim=-1)
    width, height = right - left, bottom - top
    x = (left + right) * 0.5 + dx * spreads[0] * width
    y = (top + bottom) * 0.5 + dy * spreads[1] * height
    half_width = 0.5 * width * (dw * spreads[2]).clamp(-LARGEST_STRETCH, LARGEST_STRETCH).exp()
    half_height = 0.5 * height * (dh * spreads[3]).clamp(-LARGEST_STRETCH, LARGEST_STRETCH).exp()
    return torch.cat([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)


def encode(boxes: Tensor, objects: Tensor, spreads: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The deltas (..., 4) that turn boxes into objects; both need an area. The inverse of `decode`."""
    extent = boxes[..., 2:] - boxes[..., :2]
    wanted = objects[..., 2:] - objects[..., :2]
    moved = (objects[..., :2] + objects[..., 2:] - boxes[..., :2] - boxes[..., 2:]) * 0.5 / extent
    return torch.cat([moved, (wanted / extent).log()], dim=-1) / torch.tensor(spreads, device=boxes.device)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) cut off at the image's border; `size` is its height and width."""
    left, top, right, bottom = torch.split(boxes, 1, dim=-1)
    height, width = (float(side) for side in size)
    return torch.cat(
        [left.clamp(0.0, width), top.clamp(0.0, height), right.clamp(0.0, width), bottom.clamp(0.0, height)], dim=-1
    )
