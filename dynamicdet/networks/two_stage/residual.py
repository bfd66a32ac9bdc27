"""Residual backbones, and the links between them. Features are keyed by stride."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from dynamicdet.networks.two_stage.architectures import ResidualNet, ResidualSecond
from dynamicdet.networks.two_stage.layers import ConvNorm, residual_stage

Features = Mapping[int, Tensor]


class ResidualBackbone(nn.Module):
    """Image to one feature per stride."""

    def __init__(self, spec: ResidualNet) -> None:
        super().__init__()
        self.strides = spec.strides
        self.pool = spec.pool
        self.frozen = spec.frozen
        self.stem = ConvNorm(3, spec.stem, spec.stem_kernel, 2, fixed=spec.fixed_norm)
        self.stages = nn.ModuleList()
        inputs = spec.stem
        for stage in spec.stages:
            self.stages.append(residual_stage(inputs, stage, fixed=spec.fixed_norm))
            inputs = stage.out

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        """Features by stride."""
        x = self.stem(x)
        if self.pool:
            x = functional.max_pool2d(x, 3, stride=2, padding=1)
        features = {}
        for stride, stage in zip(self.strides, self.stages, strict=True):
            features[stride] = x = stage(x)
        return features

    def freeze(self) -> None:
        """Exclude the stem and the first stages from training, as many as the architecture says."""
        if self.frozen:
            for part in (self.stem, *self.stages[: self.frozen]):
                part.requires_grad_(False)


class LinkedResidual(nn.Module):
    """Backbone 2: stages that go on from a feature of backbone 1, each on its input plus a link."""

    def __init__(self, spec: ResidualSecond, first: ResidualNet) -> None:
        super().__init__()
        self.start = spec.start
        self.strides = spec.strides
        self.stages = nn.ModuleList()
        inputs = first.channels[spec.start]
        for stage in spec.stages:
            self.stages.append(residual_stage(inputs, stage, fixed=first.fixed_norm))
            inputs = stage.out

    def forward(self, first: Features, links: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Features by stride, backbone 1's where this one has none; `links` by the stride of a stage's output."""
        x = first[self.start]
        features = dict(first)
        for stride, stage in zip(self.strides, self.stages, strict=True):
            link = links.get(stride)
            features[stride] = x = stage(x if link is None else x + link)
        return features


class ResidualLinks(nn.Module):
    """Composite links: what backbone 1 found at a stage's depth or deeper, added to the input of backbone 2's stage.

    Each is a 1x1 convolution without bias and a batch norm that starts at 0, then nearest upsampling; no activation.
    """

    def __init__(self, spec: ResidualSecond, first: ResidualNet) -> None:
        super().__init__()
        self.strides = spec.strides
        widths = (first.channels[spec.start], *(stage.out for stage in spec.stages[:-1]))
        before = (spec.start, *spec.strides[:-1])
        # A stage that keeps the resolution of what it starts from has no use for a link from that same feature.
        self.sources = [
            [stride for stride in first.strides if stride >= own and stride > spec.start] for own in spec.strides
        ]
        self.input_strides = before
        self.convs = nn.ModuleList(
            nn.ModuleList(
                ConvNorm(first.channels[source], width, 1, relu=False, fixed=first.fixed_norm) for source in sources
            )
            for width, sources in zip(widths, self.sources, strict=True)
        )
        for one in self.modules():
            if isinstance(one, nn.BatchNorm2d):
                nn.init.zeros_(one.weight)

    def forward(self, first: Features) -> dict[int, Tensor]:
        """What to add to the input of each stage, by the stride of its output."""
        links = {}
        for stride, target, sources, convs in zip(
            self.strides, self.input_strides, self.sources, self.convs, strict=True
        ):
            assert isinstance(convs, nn.ModuleList)
            parts = [
                _upsampled(conv(first[source]), source // target) for source, conv in zip(sources, convs, strict=True)
            ]
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            links[stride] = total
        return links


def _upsampled(x: Tensor, factor: int) -> Tensor:
    return x if factor == 1 else functional.interpolate(x, scale_factor=float(factor), mode="nearest")
