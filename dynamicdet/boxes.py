"""Overlap of boxes given as centre x, centre y, width, height."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_EPS = 1e-7


def corners(boxes: Tensor) -> Tensor:
    """Boxes cx cy w h (..., 4) as x1 y1 x2 y2."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], dim=-1)


def elementwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes cx cy w h, broadcast over leading dimensions."""
    a, b = corners(first), corners(second)
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    union = first[..., 2:].prod(dim=-1) + second[..., 2:].prod(dim=-1) - shared
    return shared / (union + _EPS)


def elementwise_ciou(first: Tensor, second: Tensor) -> Tensor:
    """Complete IoU: the overlap minus the distance of the centres and the difference in aspect ratio.

    Boxes are cx cy w h, broadcast over leading dimensions. Equal boxes give 1; boxes far apart give less than 0.
    """
    a, b = corners(first), corners(second)
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    diagonal = outer.square().sum(dim=-1) + _EPS
    distance = (first[..., :2] - second[..., :2]).square().sum(dim=-1)
    overlap = elementwise_iou(first, second)
    angle = torch.atan(second[..., 2] / (second[..., 3] + _EPS)) - torch.atan(first[..., 2] / (first[..., 3] + _EPS))
    aspect = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = aspect / (1 - overlap + aspect + _EPS)
    return overlap - distance / diagonal - weight * aspect
