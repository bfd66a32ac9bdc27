"""Two-stage detectors with a few layers: one of residual blocks with masks, one of two Swin transformers without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import dynamicdet
from dynamicdet.networks.architectures import ARCHITECTURES
from dynamicdet.networks.two_stage.architectures import (
    BoxHead,
    DetectionLimits,
    MaskHead,
    ProposalLimits,
    Residual,
    ResidualNet,
    ResidualSecond,
    Swin,
    TwoStageLimits,
    TwoStageModel,
)

_LIMITS = TwoStageLimits(
    proposals=ProposalLimits(per_level=30, proposals=25),
    detections=DetectionLimits(pairs=40, max_detections=12),
)


def _stage(out: int) -> Residual:
    return Residual(out, 1, kind="basic")


RESIDUAL = TwoStageModel(
    name="small-two-stage",
    input_size=64,
    first=ResidualNet(stem=8, stem_kernel=3, pool=False, stages=(_stage(8), _stage(16))),
    second=ResidualSecond(start=4, stages=(_stage(16),)),
    strides=(4, 8),
    pyramid=16,
    anchor_scale=4.0,
    box=BoxHead(hidden=16),
    mask=MaskHead(width=8, convs=1),
    roi_finest=16.0,
    roi_levels=2,
    limits=_LIMITS,
    aligned=False,
)
SWIN = TwoStageModel(
    name="small-two-stage-swin",
    input_size=64,
    first=Swin(embed=12, depths=(2,), heads=(2,), window=4),
    strides=(4,),
    pyramid=16,
    anchor_scale=4.0,
    box=BoxHead(hidden=16),
    roi_finest=16.0,
    roi_levels=1,
    limits=_LIMITS,
)


@contextlib.contextmanager
def known() -> Iterator[None]:
    """In here, checkpoints of these detectors can be made and read."""
    with pytest.MonkeyPatch.context() as patch:
        for spec in (RESIDUAL, SWIN):
            patch.setitem(ARCHITECTURES, spec.name, spec)
        yield


def save_decided(spec: TwoStageModel, checkpoint: Path) -> None:
    """Write a detector with random weights whose boxes, scores and difficulties are spread widely.

    Fresh weights give the same answer everywhere, which no graph could get wrong.
    """
    torch.manual_seed(0)
    with known():
        network = dynamicdet.create(spec.name, 3)
    heads = {id(each): each for each in (network.heads1, network.heads2) if each is not None}.values()
    with torch.no_grad():
        for layer, spread in [
            *((each.regions.objectness, 1.0) for each in heads),
            *((each.regions.deltas, 0.1) for each in heads),
            *((each.box.logits, 1.0) for each in heads),
            *((each.box.deltas, 0.3) for each in heads),
            (network.router.layer1, 0.5),
            (network.router.layer2, 0.5),
        ]:
            nn.init.normal_(layer.weight, std=spread)
        for name, parameter in network.named_parameters():
            if name.startswith("heads") and name.endswith("bias"):
                nn.init.normal_(parameter, std=0.05)
        for module in network.links.modules():
            if isinstance(module, nn.BatchNorm2d | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.2)
    dynamicdet.save(network.eval(), checkpoint)
