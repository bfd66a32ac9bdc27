"""Feature pyramid, region proposals, box head and mask head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicdet.networks.two_stage.architectures import TwoStageModel


class Pyramid(nn.Module):
    """Features of a backbone, finest first, to maps of equal width, and one coarser map; no activation."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.outputs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        for conv in (*self.laterals, *self.outputs):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps, finest first."""
        mixed = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for level in reversed(range(len(mixed) - 1)):
            mixed[level] = mixed[level] + functional.interpolate(mixed[level + 1], scale_factor=2.0, mode="nearest")
        maps = [output(one) for output, one in zip(self.outputs, mixed, strict=True)]
        return [*maps, functional.max_pool2d(maps[-1], 1, stride=2)]


class RegionHead(nn.Module):
    """Objectness and box deltas of each anchor of a map."""

    def __init__(self, width: int, anchors: int) -> None:
        super().__init__()
        self.anchors = anchors
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.objectness = nn.Conv2d(width, anchors, 1)
        self.deltas = nn.Conv2d(width, 4 * anchors, 1)
        for conv in (self.conv, self.objectness, self.deltas):
            start(conv, 0.01)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map to logits (B, A, H, W) and deltas (B, A, 4, H, W)."""
        x = functional.relu(self.conv(x))
        batch, _, height, width = x.shape
        return self.objectness(x), self.deltas(x).view(batch, self.anchors, 4, height, width)


class BoxLayers(nn.Module):
    """Class logits and class-specific box deltas of RoI features."""

    def __init__(self, width: int, roi: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.hidden1 = nn.Linear(width * roi * roi, hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.logits = nn.Linear(hidden, classes + 1)
        self.deltas = nn.Linear(hidden, 4 * classes)
        start(self.logits, 0.01)
        start(self.deltas, 0.001)

    def forward(self, rois: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K, C, 7, 7) to logits (B, K, classes + 1), background last, and deltas (B, K, classes, 4)."""
        x = functional.relu(self.hidden1(rois.flatten(2)))
        x = functional.relu(self.hidden2(x))
        batch, count, _ = x.shape
        return self.logits(x), self.deltas(x).view(batch, count, self.classes, 4)


class MaskLayers(nn.Module):
    """Mask logits of RoI features, one mask per class or one for all."""

    def __init__(self, inputs: int, width: int, convs: int, masks: int) -> None:
        super().__init__()
        widths = (inputs, *(width for _ in range(convs - 1)))
        self.convs = nn.ModuleList(nn.Conv2d(before, width, 3, padding=1) for before in widths)
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.logits = nn.Conv2d(width, masks, 1)
        for layer in (*self.convs, self.upsample, self.logits):
            assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, rois: Tensor) -> Tensor:
        """(B, M, C, 14, 14) to logits (B, M, masks, 28, 28)."""
        batch, count = rois.shape[:2]
        x = rois.flatten(0, 1)
        for conv in self.convs:
            x = functional.relu(conv(x))
        logits: Tensor = self.logits(functional.relu(self.upsample(x)))
        return logits.view(batch, count, *logits.shape[1:])


class Heads(nn.Module):
    """All that follows a backbone: one of these serves both routes, or each has its own."""

    def __init__(self, spec: TwoStageModel, classes: int) -> None:
        super().__init__()
        channels = spec.first.channels
        self.neck = Pyramid([channels[stride] for stride in spec.strides], spec.pyramid)
        self.regions = RegionHead(spec.pyramid, len(spec.anchor_ratios))
        self.box = BoxLayers(spec.pyramid, spec.box.roi, spec.box.hidden, classes)
        mask = spec.mask
        self.mask = (
            None if mask is None else MaskLayers(spec.pyramid, mask.width, mask.convs, classes if mask.per_class else 1)
        )


@torch.no_grad()
def start(layer: nn.Conv2d | nn.Linear, spread: float) -> None:
    """Start a layer with small random weights and no bias."""
    nn.init.normal_(layer.weight, std=spread)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
