"""The two-stage networks as data; `detector.py` builds them.

A backbone gives one feature per stride. Backbone 2 has no stem of its own: it starts from a feature of backbone 1, and
before each of its stages, links from backbone 1 are added. Pyramid, region proposals and heads follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["bottleneck", "basic"]
AnchorRule = Literal["exact", "whole"]


@dataclass(frozen=True)
class Residual:
    """A stage of residual blocks; the first of them strides."""

    out: int
    blocks: int
    stride: int = 2
    kind: BlockKind = "bottleneck"


@dataclass(frozen=True)
class ResidualNet:
    """A stem, with pooling or without it, and stages; `frozen` of them, and the stem then, do not train."""

    stem: int
    stem_kernel: int
    pool: bool
    stages: tuple[Residual, ...]
    frozen: int = 0
    fixed_norm: bool = False
    """Batch norm uses its stored statistics in training too, in the links as well."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each stage's output, finest first."""
        stride = 4 if self.pool else 2
        return tuple(stride := stride * stage.stride for stage in self.stages)

    @property
    def channels(self) -> dict[int, int]:
        """Output channels by stride."""
        return dict(zip(self.strides, (stage.out for stage in self.stages), strict=True))


@dataclass(frozen=True)
class ResidualSecond:
    """Backbone 2: it goes on from backbone 1's feature of stride `start`."""

    start: int
    stages: tuple[Residual, ...]

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each stage's output, finest first."""
        stride = self.start
        return tuple(stride := stride * stage.stride for stage in self.stages)


@dataclass(frozen=True)
class Swin:
    """A Swin transformer; backbone 2 is a second one that starts from backbone 1's embedded patches."""

    embed: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    mlp_ratio: int = 4
    drop_path: float = 0.2
    frozen: int = 0

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each stage's output, finest first."""
        return tuple(4 << stage for stage in range(len(self.depths)))

    @property
    def channels(self) -> dict[int, int]:
        """Output channels by stride."""
        return {stride: self.embed << stage for stage, stride in enumerate(self.strides)}


@dataclass(frozen=True, kw_only=True)
class ProposalLimits:
    """How many regions become proposals."""

    per_level: int
    """best regions of each pyramid level that enter the suppression"""
    proposals: int
    iou_threshold: float = 0.7


@dataclass(frozen=True, kw_only=True)
class DetectionLimits:
    """How many (proposal, class) pairs become detections."""

    pairs: int
    """best pairs that enter the suppression"""
    max_detections: int = 100
    score_floor: float = 0.05
    iou_threshold: float = 0.5


@dataclass(frozen=True, kw_only=True)
class TwoStageLimits:
    """Numbers of rows, constant so that shapes are static, and thresholds."""

    proposals: ProposalLimits
    detections: DetectionLimits


@dataclass(frozen=True, kw_only=True)
class BoxHead:
    """Two fully connected layers on RoI features of 7 x 7."""

    hidden: int
    roi: int = 7


@dataclass(frozen=True, kw_only=True)
class MaskHead:
    """Convolutions on RoI features of 14 x 14, then upsampling to 28 x 28."""

    width: int
    convs: int = 4
    per_class: bool = True
    """One mask per class; otherwise one for whatever the class is."""
    roi: int = 14


@dataclass(frozen=True, kw_only=True)
class TwoStageModel:
    """A two-stage dynamic detector."""

    name: str
    input_size: int
    first: ResidualNet | Swin
    second: ResidualSecond | None = None
    """None: a second Swin like the first."""
    strides: tuple[int, ...] = (4, 8, 16, 32)
    """Of backbone features that the pyramid reads; it adds one level by striding over the coarsest."""
    pyramid: int = 256
    """Channels of each level of the pyramid."""
    anchor_scale: float = 8.0
    """Side of a square anchor, in strides of its level."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """height / width"""
    box: BoxHead = BoxHead(hidden=1024)
    mask: MaskHead | None = None
    roi_finest: float = 56.0
    """Boxes of twice this side (square root of the area, pixels) leave the finest level; each doubling is a level."""
    roi_levels: int = 4
    """How many levels, the finest ones, RoI features come from."""
    limits: TwoStageLimits
    shared_heads: bool = True
    """Pyramid, region proposals and heads serve both routes with one set of weights."""
    aligned: bool = True
    """RoI features take pixel centres at half pixels; without it, as older ones do, at whole ones."""
    anchor_rule: AnchorRule = "exact"
    """`whole` rounds anchors to pixels, and spreads their centres by a whole stride that fits the image, as torchvision
    does."""

    @property
    def region_strides(self) -> tuple[int, ...]:
        """Stride of each pyramid level, finest first."""
        return (*self.strides, 2 * self.strides[-1])


_R50_STAGES = (Residual(256, 3, stride=1), Residual(512, 4), Residual(1024, 6), Residual(2048, 3))
_LIMITS = TwoStageLimits(
    proposals=ProposalLimits(per_level=1000, proposals=1000), detections=DetectionLimits(pairs=1000)
)

DY_FASTER_RCNN_R50 = TwoStageModel(
    name="dy-faster-rcnn-r50",
    input_size=800,
    first=ResidualNet(stem=64, stem_kernel=7, pool=True, stages=_R50_STAGES, frozen=1, fixed_norm=True),
    second=ResidualSecond(start=4, stages=_R50_STAGES[1:]),
    limits=_LIMITS,
)

DY_MASK_RCNN_SWIN_T = TwoStageModel(
    name="dy-mask-rcnn-swin-t",
    input_size=896,  # a multiple of 224, so that no window is padded
    first=Swin(embed=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),
    mask=MaskHead(width=256),
    limits=_LIMITS,
)

# For CPUs: no level of stride 4, so three small features (0.7 MB in all) go from stage to stage; few proposals, and one
# mask for every class. Backbone 2 goes on from the feature of stride 8, as deep as lat2 / lat1 allows.
DY_MASK_RCNN_PICO = TwoStageModel(
    name="dy-mask-rcnn-pico",
    input_size=320,
    first=ResidualNet(
        stem=16,
        stem_kernel=3,
        pool=False,
        stages=(
            Residual(32, 1, kind="basic"),
            Residual(64, 1, kind="basic"),
            Residual(128, 1, kind="basic"),
            Residual(192, 1, kind="basic"),
        ),
    ),
    second=ResidualSecond(
        start=8,
        stages=(
            Residual(64, 4, stride=1, kind="basic"),
            Residual(128, 3, kind="basic"),
            Residual(192, 1, kind="basic"),
        ),
    ),
    strides=(8, 16, 32),
    pyramid=64,
    anchor_scale=4.0,
    box=BoxHead(hidden=256),
    mask=MaskHead(width=64, convs=2, per_class=False),
    roi_levels=1,
    limits=TwoStageLimits(
        proposals=ProposalLimits(per_level=100, proposals=100),
        detections=DetectionLimits(pairs=100, max_detections=20),
    ),
)

TWO_STAGE_ARCHITECTURES = {model.name: model for model in (DY_FASTER_RCNN_R50, DY_MASK_RCNN_SWIN_T, DY_MASK_RCNN_PICO)}
