"""Two-stage networks with the layers of the real ones and few channels, under the real ones' names."""

from __future__ import annotations

from dataclasses import replace

from dynamicdet.networks.two_stage.architectures import (
    DY_FASTER_RCNN_R50,
    DY_MASK_RCNN_SWIN_T,
    BoxHead,
    DetectionLimits,
    MaskHead,
    ProposalLimits,
    Residual,
    ResidualNet,
    ResidualSecond,
    Swin,
    TwoStageLimits,
)

LIMITS = TwoStageLimits(
    proposals=ProposalLimits(per_level=20, proposals=30), detections=DetectionLimits(pairs=40, max_detections=10)
)
_STAGES = (Residual(16, 3, stride=1), Residual(24, 4), Residual(32, 6), Residual(40, 3))

SMALL_R50 = replace(
    DY_FASTER_RCNN_R50,
    input_size=64,
    first=ResidualNet(stem=8, stem_kernel=7, pool=True, stages=_STAGES, frozen=1, fixed_norm=True),
    second=ResidualSecond(start=4, stages=_STAGES[1:]),
    pyramid=8,
    box=BoxHead(hidden=12),
    limits=LIMITS,
)
SMALL_SWIN = replace(
    DY_MASK_RCNN_SWIN_T,
    input_size=64,
    first=Swin(embed=12, depths=(2, 2, 6, 2), heads=(1, 2, 3, 4)),
    pyramid=8,
    box=BoxHead(hidden=12),
    mask=MaskHead(width=8),
    limits=LIMITS,
)
