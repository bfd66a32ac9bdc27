"""Neck and head of a detector, and the decoding of the head's output."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicdet.networks.architectures import Activation, Detector
from dynamicdet.networks.blocks import Conv, DownPool, RepConv, SppCsp, block_module, down_module

_OBJECTS_PER_IMAGE = 8  # prior of an untrained head, in a 640 px image as in the published recipe
_PRIOR_SIZE = 640


class TopDown(nn.Module):
    """One step of the neck towards fine: upsample the coarser feature, join the lateral feature, mix."""

    def __init__(self, above: int, lateral: int, width: int, block: nn.Module, *, activation: Activation) -> None:
        super().__init__()
        self.reduce = Conv(above, width, 1, activation=activation)
        self.lateral = Conv(lateral, width, 1, activation=activation)
        self.block = block

    def forward(self, above: Tensor, lateral: Tensor) -> Tensor:
        """The mixed feature at the lateral feature's resolution."""
        upsampled = functional.interpolate(self.reduce(above), scale_factor=2, mode="nearest")
        out: Tensor = self.block(torch.cat([self.lateral(lateral), upsampled], dim=1))
        return out


class BottomUp(nn.Module):
    """One step of the neck towards coarse: downsample, join the top-down feature of that level, mix."""

    def __init__(self, down: Conv | DownPool, block: nn.Module) -> None:
        super().__init__()
        self.down = down
        self.block = block

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """The mixed feature at the skip feature's resolution."""
        out: Tensor = self.block(torch.cat([self.down(below), skip], dim=1))
        return out


class NeckLayers(nn.Module):
    """Turns backbone features, finest first, into equally many mixed features."""

    def __init__(self, spec: Detector, *, levels: int, activation: Activation) -> None:
        super().__init__()
        channels = [spec.channels[stride] for stride in spec.stage_strides[-levels:]]
        neck = spec.neck
        self.spp = SppCsp(channels[-1], neck.spp, activation=activation)
        self.top_down = nn.ModuleList()
        mixed = [neck.spp]  # coarsest first
        for lateral, (width, block) in zip(reversed(channels[:-1]), neck.top_down, strict=True):
            module = block_module(2 * width, block, activation=activation)
            self.top_down.append(TopDown(mixed[-1], lateral, width, module, activation=activation))
            mixed.append(block.out)
        self.bottom_up = nn.ModuleList()
        below = mixed.pop()
        for down, block in neck.bottom_up:
            module = block_module(down.out + mixed.pop(), block, activation=activation)
            self.bottom_up.append(BottomUp(down_module(below, down, activation=activation), module))
            below = block.out

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Mixed features, finest first."""
        x = self.spp(features[-1])
        mixed = [x]  # coarsest first
        for step, lateral in zip(self.top_down, reversed(features[:-1]), strict=True):
            x = step(x, lateral)
            mixed.append(x)
        outs = [mixed.pop()]
        for step in self.bottom_up:
            outs.append(step(outs[-1], mixed.pop()))
        return outs


class Predict(nn.Module):
    """1x1 prediction convolution of one level, an implicit term added before and one multiplied after."""

    def __init__(self, inputs: int, anchors: int, classes: int, *, stride: int) -> None:
        super().__init__()
        self.anchors = anchors
        self.values = 5 + classes
        self.add = nn.Parameter(torch.randn(1, inputs, 1, 1) * 0.02)
        self.conv = nn.Conv2d(inputs, anchors * self.values, 1)
        self.scale = nn.Parameter(1 + torch.randn(1, anchors * self.values, 1, 1) * 0.02)
        self._start_with_rare_objects(classes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Feature to raw map (B, anchors, H, W, values)."""
        return split_anchors(self.conv(x + self.add) * self.scale, self.anchors)

    @torch.no_grad()
    def _start_with_rare_objects(self, classes: int, stride: int) -> None:
        """Set biases that expect few objects; otherwise training starts by unlearning thousands of false ones."""
        bias = self.conv.bias
        if bias is None or bias.is_meta:
            return
        by_anchor = bias.view(self.anchors, self.values)
        cells = (_PRIOR_SIZE / stride) ** 2
        by_anchor[:, 4] = math.log(_OBJECTS_PER_IMAGE / cells)
        by_anchor[:, 5:] = math.log(0.6 / (classes - 0.99)) if classes > 1 else 0.0


def split_anchors(y: Tensor, anchors: int) -> Tensor:
    """(B, anchors * values, H, W) to the raw map (B, anchors, H, W, values)."""
    batch, channels, height, width = y.shape
    return y.view(batch, anchors, channels // anchors, height, width).permute(0, 1, 3, 4, 2)


class Head(nn.Module):
    """Per level an optional convolution and the prediction layer."""

    def __init__(self, spec: Detector, *, anchors: int, classes: int, activation: Activation) -> None:
        super().__init__()
        strides = spec.stage_strides[-len(spec.head) :]
        self.convs = nn.ModuleList(
            _head_conv(spec, inputs, out, activation=activation)
            for inputs, out in zip(spec.neck.widths, spec.head, strict=True)
        )
        self.predict = nn.ModuleList(
            Predict(width, anchors, classes, stride=stride) for width, stride in zip(spec.head, strides, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Raw maps, finest level first."""
        layers = zip(self.convs, self.predict, features, strict=True)
        return [predict(conv(feature)) for conv, predict, feature in layers]


def _head_conv(spec: Detector, inputs: int, out: int, *, activation: Activation) -> nn.Module:
    if spec.head_conv == "rep":
        return RepConv(inputs, out, activation=activation)
    if spec.head_conv == "conv":
        return Conv(inputs, out, 3, activation=activation)
    return nn.Identity()


def decode(raw: Sequence[Tensor], anchors: Tensor, strides: Sequence[int]) -> Tensor:
    """Raw maps to rows (B, N, 5 + classes): cx cy w h objectness class..., pixels, after the sigmoid.

    Rows come in (level, anchor, row, column) order. `anchors` has shape (levels, anchors, 2), pixels.
    """
    rows = []
    for level, (stride, values) in enumerate(zip(strides, raw, strict=True)):
        _, count, height, width, _ = values.shape
        x = torch.arange(width, dtype=values.dtype, device=values.device)
        y = torch.arange(height, dtype=values.dtype, device=values.device)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (H, W, 2)
        likely = values.sigmoid()
        centre = (2 * likely[..., :2] - 0.5 + grid) * stride
        extent = (2 * likely[..., 2:4]) ** 2 * anchors[level].view(1, count, 1, 1, 2)
        rows.append(torch.cat([centre, extent, likely[..., 4:]], dim=-1).flatten(1, 3))
    return torch.cat(rows, dim=1)
