"""The Swin transformer, and the links between two of them. Inside, features are (B, H, W, C); outside (B, C, H, W)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicdet.networks.two_stage.architectures import Swin

Features = Mapping[int, Tensor]


class WindowAttention(nn.Module):
    """Self-attention in windows, with a learnt bias for each relative position."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.position_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        self.position: Tensor
        self.compute_constants()

    def compute_constants(self) -> None:
        """The row of the bias table for each pair of tokens."""
        self.register_buffer("position", relative_position(self.window), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Windows (B, W, N, C) to the same; `mask` (W, N, N) is added to the logits."""
        batch, windows, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, windows, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)  # (B, W, heads, N, C / heads) each
        logits = (query * self.scale) @ key.transpose(-2, -1)
        bias = self.position_bias[self.position.flatten()].view(tokens, tokens, self.heads).permute(2, 0, 1)
        logits = logits.float() + bias.float()  # the softmax stays in single precision
        if mask is not None:
            logits = logits + mask.unsqueeze(1)
        mixed = logits.softmax(dim=-1).to(value.dtype) @ value
        out: Tensor = self.proj(mixed.transpose(2, 3).reshape(batch, windows, tokens, width))
        return out


class SwinBlock(nn.Module):
    """Attention in windows, shifted by half a window in every second block, then two linear layers."""

    def __init__(self, width: int, heads: int, spec: Swin, *, shifted: bool, drop: float) -> None:
        super().__init__()
        self.window = spec.window
        self.shift = spec.window // 2 if shifted else 0
        self.drop = drop
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, spec.window)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, spec.mlp_ratio * width)
        self.reduce = nn.Linear(spec.mlp_ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        x = x + self._kept(self._attend(single(self.norm1, x)))
        return x + self._kept(self.reduce(functional.gelu(self.expand(single(self.norm2, x)))))

    def _attend(self, x: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        size, shift = self.window, self.shift
        below, right = -height % size, -width % size
        if below or right:
            x = functional.pad(x, [0, 0, 0, right, 0, below])
        tall, wide = height + below, width + right
        mask = None
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
            mask = shift_mask(tall, wide, size, shift, x.device)
        x = from_windows(self.attention(to_windows(x, size), mask), tall, wide, size)
        if shift:
            x = torch.roll(x, (shift, shift), (1, 2))
        return x[:, :height, :width] if below or right else x

    def _kept(self, x: Tensor) -> Tensor:
        """In training, leave the branch out for some of the images, and strengthen it for the others."""
        if not self.training or self.drop == 0.0:
            return x
        kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.drop
        return x * kept.to(x.dtype) / (1 - self.drop)


class Merging(nn.Module):
    """Halves the resolution: 2x2 tokens become one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H / 2, W / 2, 2 C); the order of the four is that of the original weights."""
        parts = (x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2])
        out: Tensor = self.reduction(single(self.norm, torch.cat(parts, dim=-1)))
        return out


class SwinStage(nn.Module):
    """Blocks at one resolution, and the norm of what leaves the backbone."""

    def __init__(self, spec: Swin, stage: int) -> None:
        super().__init__()
        width = spec.embed << stage
        before = sum(spec.depths[:stage])
        rates = torch.linspace(0, spec.drop_path, sum(spec.depths), device="cpu").tolist()
        self.blocks = nn.ModuleList(
            SwinBlock(width, spec.heads[stage], spec, shifted=number % 2 == 1, drop=rates[before + number])
            for number in range(spec.depths[stage])
        )
        self.norm = nn.LayerNorm(width)
        self.merging = Merging(width) if stage + 1 < len(spec.depths) else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) to the normed feature (B, C, H, W) and what the next stage reads."""
        for block in self.blocks:
            x = block(x)
        feature = single(self.norm, x).permute(0, 3, 1, 2)
        return feature, x if self.merging is None else self.merging(x)


class SwinBackbone(nn.Module):
    """Image to the embedded patches and one feature per stride."""

    def __init__(self, spec: Swin) -> None:
        super().__init__()
        self.strides = spec.strides
        self.embed = nn.Conv2d(3, spec.embed, 4, stride=4)
        self.embed_norm = nn.LayerNorm(spec.embed)
        self.stages = nn.ModuleList(SwinStage(spec, stage) for stage in range(len(spec.depths)))
        start_linear_layers(self)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Embedded patches (B, C, H / 4, W / 4), and normed features by stride."""
        x = single(self.embed_norm, self.embed(x).permute(0, 2, 3, 1))
        tokens = x.permute(0, 3, 1, 2)
        features = {}
        for stride, stage in zip(self.strides, self.stages, strict=True):
            features[stride], x = stage(x)
        return tokens, features

    def freeze(self) -> None:
        """Nothing of a Swin is frozen."""


class LinkedSwin(nn.Module):
    """Backbone 2: all stages of a Swin on backbone 1's embedded patches, each on its input plus a link."""

    def __init__(self, spec: Swin) -> None:
        super().__init__()
        self.strides = spec.strides
        self.stages = nn.ModuleList(SwinStage(spec, stage) for stage in range(len(spec.depths)))
        start_linear_layers(self)

    def forward(self, tokens: Tensor, links: Features) -> dict[int, Tensor]:
        """Normed features by stride; `links` by the stride of the stage."""
        x = tokens.permute(0, 2, 3, 1)
        features = {}
        for stride, stage in zip(self.strides, self.stages, strict=True):
            features[stride], x = stage(x + links[stride].permute(0, 2, 3, 1))
        return features


class SwinLinks(nn.Module):
    """Composite links: to each stage's input, backbone 1's feature of that stage as it is and of deeper ones convolved.

    The convolutions are 1x1 with a bias and start at 0; nearest upsampling follows. The identity is never silent.
    """

    def __init__(self, spec: Swin) -> None:
        super().__init__()
        self.strides = spec.strides
        channels = spec.channels
        self.convs = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(channels[source], channels[own], 1) for source in self.strides if source > own)
            for own in self.strides
        )
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, first: Features) -> dict[int, Tensor]:
        """What to add to the input of each stage, by stride."""
        links = {}
        for own, convs in zip(self.strides, self.convs, strict=True):
            assert isinstance(convs, nn.ModuleList)
            total = first[own]
            deeper = (stride for stride in self.strides if stride > own)
            for source, conv in zip(deeper, convs, strict=True):
                factor = float(source // own)
                total = total + functional.interpolate(conv(first[source]), scale_factor=factor, mode="nearest")
            links[own] = total
        return links


def single(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm computed in single precision, whatever the feature's is: half precision would overflow."""
    if x.dtype == torch.float32:
        out: Tensor = norm(x)
        return out
    weight, bias = norm.weight.float(), norm.bias.float()
    return functional.layer_norm(x.float(), norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)


def to_windows(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) to windows (B, number, size * size, C), row by row."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // size, size, width // size, size, channels)
    return x.transpose(2, 3).reshape(batch, (height // size) * (width // size), size * size, channels)


def from_windows(x: Tensor, height: int, width: int, size: int) -> Tensor:
    """What `to_windows` took apart, (B, H, W, C)."""
    batch, _, _, channels = x.shape
    x = x.view(batch, height // size, width // size, size, size, channels)
    return x.transpose(2, 3).reshape(batch, height, width, channels)


def shift_mask(height: int, width: int, size: int, shift: int, device: torch.device) -> Tensor:
    """For each window of a rolled map, (number, N, N): -100 where two tokens were no neighbours before, else 0."""

    def bands(length: int) -> Tensor:
        place = torch.arange(length, device=device)
        return (place >= length - size).to(torch.int64) + (place >= length - shift).to(torch.int64)

    area = (3 * bands(height)[:, None] + bands(width)).to(torch.float32)  # (H, W)
    windows = to_windows(area.view(1, height, width, 1), size)[0, :, :, 0]  # (number, N)
    return (windows[:, :, None] != windows[:, None, :]).to(torch.float32) * -100.0


def relative_position(size: int) -> Tensor:
    """For each pair of tokens of a window, (N, N): the row of the bias table."""
    place = torch.arange(size, device="cpu")  # a constant, also where weights get no memory yet
    rows, columns = place.repeat_interleave(size), place.repeat(size)
    down, right = rows[:, None] - rows, columns[:, None] - columns
    return (down + size - 1) * (2 * size - 1) + right + size - 1


def start_linear_layers(module: nn.Module) -> None:
    """Start linear layers as transformers do."""
    for one in module.modules():
        if isinstance(one, nn.Linear):
            nn.init.trunc_normal_(one.weight, std=0.02)
            if one.bias is not None:
                nn.init.zeros_(one.bias)
