"""Building blocks of the networks. Every feature is a float tensor (B, C, H, W)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicdet.networks.architectures import Activation, Block, Conv3, Down, Elan, Stem

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU}


def activation_module(name: Activation) -> nn.Module:
    """A fresh activation module that works in place."""
    return _ACTIVATIONS[name](inplace=True)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with the eps of the published weights; with torch's default the output is off by 2e-2."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


class Conv(nn.Module):
    """Convolution, batch norm, activation; padded to keep size / stride. In deployment form `norm` is the identity."""

    def __init__(self, inputs: int, out: int, kernel: int, stride: int = 1, *, activation: Activation) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm: nn.Module = batch_norm(out)
        self.activation = activation_module(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Feature to feature."""
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class RepConv(nn.Module):
    """A 3x3 and a 1x1 convolution in parallel, each with batch norm; one 3x3 convolution in deployment form."""

    def __init__(self, inputs: int, out: int, *, activation: Activation) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(inputs, out, 3, padding=1, bias=False)
        self.norm3 = batch_norm(out)
        self.conv1 = nn.Conv2d(inputs, out, 1, bias=False)
        self.norm1 = batch_norm(out)
        self.activation = activation_module(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Feature to feature."""
        out: Tensor = self.activation(self.norm3(self.conv3(x)) + self.norm1(self.conv1(x)))
        return out


class StemLayer(nn.Module):
    """The first convolution, on the image or on its space-to-depth form."""

    def __init__(self, spec: Stem, *, activation: Activation) -> None:
        super().__init__()
        self.folds = spec.kind == "space_to_depth"
        stride = 2 if spec.kind == "strided" else 1
        self.conv = Conv(12 if self.folds else 3, spec.width, 3, stride, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """Image to the first feature."""
        out: Tensor = self.conv(space_to_depth(x) if self.folds else x)
        return out


def space_to_depth(x: Tensor) -> Tensor:
    """Fold 2x2 pixels into channels: (even row, even column), (odd, even), (even, odd), (odd, odd).

    The published weights need this order; PixelUnshuffle has another one.
    """
    parts = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
    return torch.cat(parts, dim=1)  # (B, 4 C, H / 2, W / 2)


class ElanBlock(nn.Module):
    """See `architectures.Elan`."""

    def __init__(self, inputs: int, spec: Elan, *, activation: Activation) -> None:
        super().__init__()
        width = spec.width or spec.entry
        self.step = 1 if spec.dense else 2
        self.skip = Conv(inputs, spec.entry, 1, activation=activation)
        self.entry = Conv(inputs, spec.entry, 1, activation=activation)
        widths = (spec.entry, *(width for _ in range(spec.depth)))
        self.chain = nn.ModuleList(Conv(before, after, 3, activation=activation) for before, after in pairwise(widths))
        kept = widths[:: -self.step]
        self.out = Conv(sum(kept) + spec.entry, spec.out, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """Feature to feature."""
        links = [self.entry(x)]
        for conv in self.chain:
            links.append(conv(links[-1]))
        newest_first = links[:: -self.step]
        out: Tensor = self.out(torch.cat([*newest_first, self.skip(x)], dim=1))
        return out


class DownPool(nn.Module):
    """Pooled branch and strided branch, concatenated, the strided one first."""

    def __init__(self, inputs: int, width: int, *, activation: Activation) -> None:
        super().__init__()
        self.pooled = Conv(inputs, width, 1, activation=activation)
        self.reduce = Conv(inputs, width, 1, activation=activation)
        self.strided = Conv(width, width, 3, 2, activation=activation)

    def forward(self, x: Tensor, strided_input: Tensor | None = None) -> Tensor:
        """Feature to one of half its resolution; the strided branch may read another feature of the same shape."""
        pooled = self.pooled(functional.max_pool2d(x, 2))
        strided = self.strided(self.reduce(x if strided_input is None else strided_input))
        return torch.cat([strided, pooled], dim=1)


class SppCsp(nn.Module):
    """Spatial pyramid pooling (5, 9, 13) on one branch, a 1x1 shortcut on the other."""

    def __init__(self, inputs: int, width: int, *, activation: Activation) -> None:
        super().__init__()
        self.entry1 = Conv(inputs, width, 1, activation=activation)
        self.entry2 = Conv(width, width, 3, activation=activation)
        self.entry3 = Conv(width, width, 1, activation=activation)
        self.pooled1 = Conv(4 * width, width, 1, activation=activation)
        self.pooled2 = Conv(width, width, 3, activation=activation)
        self.shortcut = Conv(inputs, width, 1, activation=activation)
        self.out = Conv(2 * width, width, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """Feature to feature."""
        entry = self.entry3(self.entry2(self.entry1(x)))
        pools = [functional.max_pool2d(entry, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
        pooled = self.pooled2(self.pooled1(torch.cat([entry, *pools], dim=1)))
        out: Tensor = self.out(torch.cat([pooled, self.shortcut(x)], dim=1))
        return out


def down_module(inputs: int, spec: Down, *, activation: Activation) -> Conv | DownPool:
    """The module of a `Down`."""
    if spec.kind == "conv":
        return Conv(inputs, spec.width, 3, 2, activation=activation)
    return DownPool(inputs, spec.width, activation=activation)


def block_module(inputs: int, spec: Block, *, activation: Activation) -> nn.Module:
    """The module of a stage's block."""
    if isinstance(spec, Conv3):
        return Conv(inputs, spec.out, 3, activation=activation)
    return ElanBlock(inputs, spec, activation=activation)
