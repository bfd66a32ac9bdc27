"""Deployment form: batch norm, parallel branches and implicit terms are merged into plain convolutions."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicdet.networks.blocks import Conv, RepConv
from dynamicdet.networks.heads import Predict, split_anchors
from dynamicdet.networks.two_stage.layers import ConvNorm

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def fuse(network: Network) -> Network:
    """A copy in evaluation mode with every block merged; the given network does not change."""
    fused = copy.deepcopy(network).eval()
    for module in list(fused.modules()):
        if isinstance(module, Conv | ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = _convolution(module.conv, *_merged(module.conv, module.norm))
            module.norm = nn.Identity()
    for module in list(fused.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, RepConv):
                setattr(module, name, _merge_branches(child))
            elif isinstance(child, Predict):
                setattr(module, name, _merge_implicit(child))
    if hasattr(fused, "deployed"):
        fused.deployed = True  # type: ignore[assignment]
    fused.requires_grad_(False)
    return fused


class FusedConv(nn.Module):
    """Convolution with bias and activation."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Feature to feature."""
        out: Tensor = self.activation(self.conv(x))
        return out


class FusedPredict(nn.Module):
    """A prediction layer whose implicit terms are part of its convolution."""

    def __init__(self, predict: Predict, conv: nn.Conv2d) -> None:
        super().__init__()
        self.anchors = predict.anchors
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Feature to raw map (B, anchors, H, W, values)."""
        return split_anchors(self.conv(x), self.anchors)


def _merged(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does both, computed in double precision."""
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = conv.weight.double() * factor.view(-1, 1, 1, 1)
    bias = norm.bias.double() - norm.running_mean.double() * factor
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def _convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    conv = copy.deepcopy(like)
    conv.weight = nn.Parameter(weight)
    conv.bias = nn.Parameter(bias)
    return conv


def _merge_branches(block: RepConv) -> FusedConv:
    weight3, bias3 = _merged(block.conv3, block.norm3)
    weight1, bias1 = _merged(block.conv1, block.norm1)
    centred = functional.pad(weight1, [1, 1, 1, 1])  # a 1x1 kernel is a 3x3 one with zeros around
    return FusedConv(_convolution(block.conv3, weight3 + centred, bias3 + bias1), block.activation)


def _merge_implicit(predict: Predict) -> FusedPredict:
    conv = predict.conv
    assert conv.bias is not None
    weight, scale = conv.weight.double(), predict.scale.double().flatten()
    bias = conv.bias.double() + weight.flatten(1) @ predict.add.double().flatten()
    merged = (weight * scale.view(-1, 1, 1, 1)).to(conv.weight.dtype)
    return FusedPredict(predict, _convolution(conv, merged, (bias * scale).to(conv.weight.dtype)))
