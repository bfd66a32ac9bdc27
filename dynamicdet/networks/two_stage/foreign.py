"""Starts a two-stage dynamic detector from a public static one, or its backbones from a public ImageNet classifier.

Both backbones get the public one's weights, the links stay silent, and the router is random: on a ResNet-50, both
routes then answer as the public detector. A Swin's identity links are never silent, so its hard route needs training.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dynamicdet.class_names import MOST_CLASSES
from dynamicdet.errors import CheckpointError
from dynamicdet.networks.router.layers import Router
from dynamicdet.networks.stored_tensors import StoredTensor
from dynamicdet.networks.two_stage.architectures import (
    TWO_STAGE_ARCHITECTURES,
    ResidualNet,
    TwoStageModel,
)
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dynamicdet.networks.two_stage.foreign_names import (
    COCO_GAPS,
    COUNTER,
    Layout,
    backbone_layouts,
    detector_layouts,
)
from dynamicdet.networks.two_stage.residual import ResidualLinks
from dynamicdet.networks.two_stage.swin import SwinLinks
from dynamicdet.text import printable

_LOGITS = "heads1.box.logits"
_COCO_OUTPUTS = 91
_OWN_EPS = 1e-5
_BY_CLASS = ("heads1.box.logits", "heads1.mask.logits")  # one row a class; the deltas have four


def recognised(stored: Collection[str], *, backbone: bool = False) -> Layout | None:
    """The layout with exactly these names, of a detector or of an ImageNet classifier."""
    find = backbone_layouts if backbone else detector_layouts
    for spec in TWO_STAGE_ARCHITECTURES.values():
        for layout in find(spec):
            if set(expected_names(layout, stored)) == set(stored):
                return layout
    return None


def nearest(stored: Collection[str], spec: TwoStageModel, *, backbone: bool = False) -> Layout:
    """The layout of this architecture with the most of these names. Raises CheckpointError if it has none."""
    layouts = (backbone_layouts if backbone else detector_layouts)(spec)
    if not layouts:
        raise CheckpointError(f"{spec.name} has no public static twin to start from; it reads dyndet's own files")
    return max(layouts, key=lambda layout: len(set(layout.names) & set(stored)))


def expected_names(layout: Layout, stored: Collection[str]) -> list[str]:
    """The names that a file of this layout has, if it has what it may leave out just as these do."""
    present = set(stored)
    counted = any(name.endswith(COUNTER) for name in present)
    names = [name for name in layout.names if counted or not name.endswith(COUNTER)]
    return [*names, *sorted(layout.unused), *(name for name in sorted(layout.rebuilt) if name in present)]


def variant_of(layout: Layout) -> TwoStageModel:
    """The architecture, with the layout's way of taking RoI features and anchors."""
    return replace(
        layout.spec, aligned=layout.aligned, anchor_rule="whole" if layout.whole_anchors else layout.spec.anchor_rule
    )


def classes_of(layout: Layout, stored: Mapping[str, StoredTensor], path: Path) -> int:
    """Number of classes of a detector's file, COCO's unused ids not counted. Raises CheckpointError if it has none."""
    name = next(theirs for theirs, ours in layout.names.items() if ours == f"{_LOGITS}.weight")
    shape = stored[name].shape
    outputs = shape[0] if len(shape) == 2 else 0
    classes = outputs - 1 - (len(COCO_GAPS) if _has_gaps(layout, outputs) else 0)
    if not 1 <= classes <= MOST_CLASSES:
        raise CheckpointError(
            f"{printable(path)} does not fit {layout.spec.name}: {name} is {'x'.join(map(str, shape))}, so it does "
            f"not predict 1 to {MOST_CLASSES:,} classes"
        )
    return classes


def foreign_shapes(layout: Layout, model: TwoStageDetector, classes: int, outputs: int) -> dict[str, Tensor]:
    """For each foreign name a tensor without memory, of the shape that a file must have."""
    ours = model.state_dict()
    shapes = {}
    for theirs, name in layout.names.items():
        like = ours[name]
        rows = _foreign_rows(layout, name, classes, outputs)
        shapes[theirs] = like if rows is None else torch.empty(rows, *like.shape[1:], device="meta")
    return shapes


def outputs_of(layout: Layout, stored: Mapping[str, StoredTensor]) -> int:
    """Class outputs in the file, the background and COCO's gaps included."""
    return stored[next(theirs for theirs, ours in layout.names.items() if ours == f"{_LOGITS}.weight")].shape[0]


def _foreign_rows(layout: Layout, ours: str, classes: int, outputs: int) -> int | None:
    """How many rows a weight has in the file, if not as many as ours."""
    if not layout.background_first:
        return None
    part = ours.rpartition(".")[0]
    if part in _BY_CLASS:
        return outputs
    return 4 * outputs if part == "heads1.box.deltas" else None


def _has_gaps(layout: Layout, outputs: int) -> bool:
    return layout.background_first and outputs == _COCO_OUTPUTS


def as_ours(layout: Layout, weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights of backbone 1 and heads under our names, as our network computes with them."""
    ours = {
        name: weights[theirs].float() if weights[theirs].is_floating_point() else weights[theirs]
        for theirs, name in layout.names.items()
        if theirs in weights
    }
    for name in layout.names.values():
        if name.endswith(COUNTER):
            ours.setdefault(name, torch.zeros((), dtype=torch.int64))
    if layout.background_first:
        _background_last(layout, ours)
    if layout.unfolded_merging:
        for name in [name for name in ours if ".merging." in name]:
            ours[name] = folded_merging(ours[name])
    if layout.norm_eps != _OWN_EPS:
        _with_own_eps(ours, layout.norm_eps, path)
    return ours


def _background_last(layout: Layout, ours: dict[str, Tensor]) -> None:
    """Torchvision's classes have the background first, and COCO's ids with their gaps; deltas have it too."""
    outputs = ours[f"{_LOGITS}.weight"].shape[0]
    gaps = COCO_GAPS if _has_gaps(layout, outputs) else ()
    kept = [label for label in range(1, outputs) if label not in gaps]
    for leaf in ("weight", "bias"):
        logits, deltas = f"{_LOGITS}.{leaf}", f"heads1.box.deltas.{leaf}"
        ours[logits] = ours[logits][[*kept, 0]]
        by_class = ours[deltas].view(outputs, 4, *ours[deltas].shape[1:])
        ours[deltas] = by_class[kept].flatten(0, 1)


def folded_merging(weight: Tensor) -> Tensor:
    """A merging's weight (2 C, 4 C), or its norm's weight or bias (4 C), from mmdetection's order of inputs to ours.

    Theirs are ordered by channel, then by (row, column) = (0,0) (0,1) (1,0) (1,1). Ours, as the Swin authors', by
    (0,0) (1,0) (0,1) (1,1), then by channel.
    """
    by_channel = weight.reshape(*weight.shape[:-1], -1, 4)  # (..., C, 4)
    return by_channel[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)


def _with_own_eps(ours: dict[str, Tensor], eps: float, path: Path) -> None:
    """Change the scales of batch norms, which were trained with another eps, so that ours give the same."""
    for name in [name for name in ours if name.endswith(".norm.running_var")]:
        variance = ours[name].double()
        if eps == 0.0 and not (variance > 0).all():
            raise CheckpointError(f"{printable(path)} is damaged: {name}, a variance, has numbers that are not above 0")
        scale = name.replace("running_var", "weight")
        ours[scale] = (ours[scale].double() * ((variance + _OWN_EPS) / (variance + eps)).sqrt()).float()


def with_second_backbone(spec: TwoStageModel, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `as_ours` gives and backbone 2's copies, silent links and a random router: a whole state dict."""
    whole = dict(ours)
    whole |= second_backbone(spec, ours)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same file gives the same network
        first = spec.first
        router = Router([first.channels[stride] for stride in first.strides])
        if isinstance(first, ResidualNet):
            assert spec.second is not None
            links: ResidualLinks | SwinLinks = ResidualLinks(spec.second, first)
        else:
            links = SwinLinks(first)
    whole |= {f"router.{name}": tensor for name, tensor in router.state_dict().items()}
    whole |= {f"links.{name}": tensor for name, tensor in links.state_dict().items()}
    if not spec.shared_heads:
        whole |= {
            name.replace("heads1.", "heads2.", 1): one for name, one in ours.items() if name.startswith("heads1.")
        }
    return whole


def second_backbone(spec: TwoStageModel, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of backbone 1's stages for backbone 2, which has the same after the part that both share."""
    first = spec.first
    shared = 0
    if isinstance(first, ResidualNet):
        assert spec.second is not None
        shared = first.strides.index(spec.second.start) + 1
    copies = {}
    for name, tensor in ours.items():
        parts = name.split(".")
        if parts[:2] == ["backbone1", "stages"] and int(parts[2]) >= shared:
            copies[".".join(["backbone2", "stages", str(int(parts[2]) - shared), *parts[3:]])] = tensor.clone()
    return copies
