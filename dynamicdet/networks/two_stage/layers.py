"""Convolutions with batch norm and residual blocks. Every feature is a float tensor (B, C, H, W)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dynamicdet.networks.two_stage.architectures import Residual


class FixedNorm(nn.BatchNorm2d):
    """Batch norm that uses its stored statistics in training too; its scale and shift are learnt."""

    def train(self, mode: bool = True) -> FixedNorm:
        """Stay in evaluation mode."""
        super().train(False)
        return self


class ConvNorm(nn.Module):
    """Convolution, batch norm and, unless left out, ReLU. In deployment form `norm` is the identity."""

    def __init__(
        self, inputs: int, out: int, kernel: int, stride: int = 1, *, relu: bool = True, fixed: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm: nn.Module = FixedNorm(out) if fixed else nn.BatchNorm2d(out)
        self.relu = relu
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Feature to feature."""
        out: Tensor = self.norm(self.conv(x))
        return functional.relu(out) if self.relu else out


class Bottleneck(nn.Module):
    """1x1, strided 3x3 and 1x1 convolution beside a shortcut."""

    def __init__(self, inputs: int, out: int, stride: int, *, fixed: bool) -> None:
        super().__init__()
        width = out // 4
        self.reduce = ConvNorm(inputs, width, 1, fixed=fixed)
        self.spatial = ConvNorm(width, width, 3, stride, fixed=fixed)
        self.expand = ConvNorm(width, out, 1, relu=False, fixed=fixed)
        self.shortcut = _shortcut(inputs, out, stride, fixed=fixed)

    def forward(self, x: Tensor) -> Tensor:
        """Feature to feature."""
        return functional.relu(self.expand(self.spatial(self.reduce(x))) + self.shortcut(x))


class Basic(nn.Module):
    """Two 3x3 convolutions, the first strided, beside a shortcut."""

    def __init__(self, inputs: int, out: int, stride: int, *, fixed: bool) -> None:
        super().__init__()
        self.spatial1 = ConvNorm(inputs, out, 3, stride, fixed=fixed)
        self.spatial2 = ConvNorm(out, out, 3, relu=False, fixed=fixed)
        self.shortcut = _shortcut(inputs, out, stride, fixed=fixed)

    def forward(self, x: Tensor) -> Tensor:
        """Feature to feature."""
        return functional.relu(self.spatial2(self.spatial1(x)) + self.shortcut(x))


def residual_stage(inputs: int, spec: Residual, *, fixed: bool) -> nn.Sequential:
    """The blocks of a stage."""
    block = Bottleneck if spec.kind == "bottleneck" else Basic
    widths = (inputs, *(spec.out for _ in range(spec.blocks - 1)))
    strides = (spec.stride, *(1 for _ in range(spec.blocks - 1)))
    return nn.Sequential(
        *(block(width, spec.out, stride, fixed=fixed) for width, stride in zip(widths, strides, strict=True))
    )


def _shortcut(inputs: int, out: int, stride: int, *, fixed: bool) -> nn.Module:
    if inputs == out and stride == 1:
        return nn.Identity()
    return ConvNorm(inputs, out, 1, stride, relu=False, fixed=fixed)
