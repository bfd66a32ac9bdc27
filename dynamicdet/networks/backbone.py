"""Backbones and the composite links from backbone 1 to backbone 2. Features are keyed by stride."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from dynamicdet.networks.architectures import Activation, Detector, Model
from dynamicdet.networks.blocks import DownPool, StemLayer, block_module, down_module

Features = Mapping[int, Tensor]


class BackboneStage(nn.Module):
    """One downsampling and the block after it; a link is added between the two."""

    def __init__(self, down: nn.Module, block: nn.Module, *, reads_first: bool) -> None:
        super().__init__()
        self.down = down
        self.block = block
        self.reads_first = reads_first

    def forward(self, x: Tensor, link: Tensor | None, first: Tensor | None) -> Tensor:
        """The stage's feature; `first` is backbone 1's feature at the input's stride."""
        if self.reads_first and first is not None and isinstance(self.down, DownPool):
            small = self.down(x, first)
        else:
            small = self.down(x)
        out: Tensor = self.block(small if link is None else small + link)
        return out


class Backbone(nn.Module):
    """Image to one feature per stride; see `architectures.Detector` for the layers."""

    def __init__(self, spec: Detector, *, activation: Activation) -> None:
        super().__init__()
        self.stem_stride = spec.stem.stride
        self.strides = spec.stage_strides
        self.stem = StemLayer(spec.stem, activation=activation)
        self.stages = nn.ModuleList()
        inputs = spec.stem.width
        for down, block in spec.stages:
            self.stages.append(
                BackboneStage(
                    down_module(inputs, down, activation=activation),
                    block_module(down.out, block, activation=activation),
                    reads_first=down.reads_first,
                )
            )
            inputs = block.out

    def forward(self, x: Tensor, links: Features | None = None, first: Features | None = None) -> dict[int, Tensor]:
        """Features by stride, the stem's included; `links` and `first` (backbone 1's features) serve backbone 2."""
        x = self.stem(x)
        features = {self.stem_stride: x}
        for stride, stage in zip(self.strides, self.stages, strict=True):
            x = stage(x, (links or {}).get(stride), (first or {}).get(stride // 2))
            features[stride] = x
        return features


class Links(nn.Module):
    """Composite connection: each linked backbone 1 feature gives a slice to its own and every finer linked level."""

    def __init__(self, spec: Model) -> None:
        super().__init__()
        self.strides = spec.link_strides
        downs = (down.out for down, _ in spec.second.stages)
        by_stride = dict(zip(spec.second.stage_strides, downs, strict=True))
        self.slices = [by_stride[stride] for stride in self.strides]
        self.convs = nn.ModuleList(
            nn.Conv2d(spec.first.channels[stride], sum(self.slices[: level + 1]), 1)
            for level, stride in enumerate(self.strides)
        )

    def forward(self, first: Features) -> dict[int, Tensor]:
        """What to add to backbone 2 at each linked stride: the upsampled slices, summed from coarse to fine."""
        slices = [
            conv(first[stride]).split(self.slices[: level + 1], dim=1)  # finest level first
            for level, (stride, conv) in enumerate(zip(self.strides, self.convs, strict=True))
        ]
        links: dict[int, Tensor] = {}
        for target, stride in enumerate(self.strides):
            coarsest = len(self.strides) - 1
            link: Tensor = slices[coarsest][target]
            for source in range(coarsest - 1, target - 1, -1):
                factor = self.strides[source + 1] // self.strides[source]
                link = functional.interpolate(link, scale_factor=factor, mode="nearest") + slices[source][target]
            links[stride] = link
        return links
