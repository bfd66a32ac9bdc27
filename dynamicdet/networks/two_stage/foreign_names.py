"""Names of public static detectors' weights -> our names, generated from the same numbers as the networks.

One `Layout` is one way to write the same network. What differs beside the names is a field with a name of its own, and
`foreign.py` undoes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dynamicdet.networks.two_stage.architectures import (
    DY_FASTER_RCNN_R50,
    DY_MASK_RCNN_SWIN_T,
    ResidualNet,
    Swin,
    TwoStageModel,
)

COUNTER = "num_batches_tracked"
"""of a batch norm; in a file, all of them have one or none has: torchvision's frozen batch norm drops it"""

COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""ids from 1 to 90 that COCO's 80 classes do not use, and for which torchvision's detectors have outputs"""

_NORM = ("weight", "bias", "running_mean", "running_var", COUNTER)
_LINEAR = ("weight", "bias")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to write a network; names lead to backbone 1 and to the heads of the easy route."""

    of: str
    """whose, as in "the detectors of mmdetection" """
    spec: TwoStageModel
    names: dict[str, str]
    rebuilt: frozenset[str] = frozenset()
    """Names that may be there and that are not read: constants that we compute."""
    background_first: bool = False
    """Class 0 is the background; ours is the last."""
    unfolded_merging: bool = False
    """Inputs of a Swin's merging are ordered channel by channel, and positions row by row."""
    norm_eps: float = 1e-5
    aligned: bool = True
    whole_anchors: bool = False
    only_backbone: bool = False
    unused: frozenset[str] = field(default=frozenset())
    """Names that must be there and have no place in a detector: the classifier of an ImageNet network."""


def detector_layouts(spec: TwoStageModel) -> tuple[Layout, ...]:
    """The public detectors that a dynamic one can start from."""
    first = spec.first
    if isinstance(first, ResidualNet):
        if spec.mask is not None or spec.name != DY_FASTER_RCNN_R50.name:
            return ()
        own = dict(_residual(first, "backbone."))
        newer, older = dict(_residual(first, "backbone.body.")), dict(_residual(first, "backbone.body."))
        newer |= dict(_torchvision_heads(spec, ".0"))
        older |= dict(_torchvision_heads(spec, ""))
        return (
            Layout(of="mmdetection's Faster R-CNN", spec=spec, names=own | dict(_mmdetection_heads(spec))),
            *(
                # Their batch norm divides by the deviation itself: its eps is set to 0 after the published weights,
                # and whatever was trained on from them, are loaded.
                Layout(
                    of=f"torchvision's Faster R-CNN{form}",
                    spec=spec,
                    names=names,
                    background_first=True,
                    norm_eps=0.0,
                    aligned=False,
                    whole_anchors=True,
                )
                for form, names in (("", newer), (" in its first form", older))
            ),
        )
    if spec.name != DY_MASK_RCNN_SWIN_T.name:
        return ()
    heads = dict(_mmdetection_heads(spec))
    names = dict(_swin(first, "backbone.", mmdetection=True, norms=True))
    original = dict(_swin(first, "backbone.", mmdetection=False, norms=True))
    return (
        Layout(
            of="mmdetection's Mask R-CNN",
            spec=spec,
            names=names | heads,
            rebuilt=_rebuilt(first, "backbone.", mmdetection=True),
            unfolded_merging=True,
        ),
        Layout(
            of="the Swin authors' Mask R-CNN",
            spec=spec,
            names=original | heads,
            rebuilt=_rebuilt(first, "backbone.", mmdetection=False),
        ),
    )


def backbone_layouts(spec: TwoStageModel) -> tuple[Layout, ...]:
    """The public ImageNet classifiers that the backbones can start from."""
    first = spec.first
    if isinstance(first, Swin):
        return (
            Layout(
                of="the Swin authors' ImageNet network",
                spec=spec,
                names=dict(_swin(first, "", mmdetection=False, norms=False)),
                rebuilt=_rebuilt(first, "", mmdetection=False),
                unused=frozenset(f"{part}.{leaf}" for part in ("norm", "head") for leaf in _LINEAR),
                only_backbone=True,
            ),
        )
    if spec.name != DY_FASTER_RCNN_R50.name:
        return ()
    return (
        Layout(
            of="torchvision's ResNet-50",
            spec=spec,
            names=dict(_residual(first, "")),
            unused=frozenset(("fc.weight", "fc.bias")),
            only_backbone=True,
        ),
    )


def _residual(spec: ResidualNet, prefix: str) -> Iterator[tuple[str, str]]:
    """A ResNet of bottlenecks, as torchvision names it and mmdetection after it."""
    convs = {"1": "reduce", "2": "spatial", "3": "expand"}
    yield from _conv_norm(f"{prefix}conv1", f"{prefix}bn1", "backbone1.stem")
    for stage, layers in enumerate(spec.stages):
        for block in range(layers.blocks):
            theirs, ours = f"{prefix}layer{stage + 1}.{block}", f"backbone1.stages.{stage}.{block}"
            for number, part in convs.items():
                yield from _conv_norm(f"{theirs}.conv{number}", f"{theirs}.bn{number}", f"{ours}.{part}")
            if block == 0:
                yield from _conv_norm(f"{theirs}.downsample.0", f"{theirs}.downsample.1", f"{ours}.shortcut")


def _conv_norm(conv: str, norm: str, ours: str) -> Iterator[tuple[str, str]]:
    yield f"{conv}.weight", f"{ours}.conv.weight"
    for leaf in _NORM:
        yield f"{norm}.{leaf}", f"{ours}.norm.{leaf}"


def _swin(spec: Swin, prefix: str, *, mmdetection: bool, norms: bool) -> Iterator[tuple[str, str]]:
    stages = "stages" if mmdetection else "layers"
    attention = "attn.w_msa" if mmdetection else "attn"
    first, second = ("ffn.layers.0.0", "ffn.layers.1") if mmdetection else ("mlp.fc1", "mlp.fc2")
    patches = "projection" if mmdetection else "proj"
    yield from _leaves(f"{prefix}patch_embed.{patches}", "backbone1.embed")
    yield from _leaves(f"{prefix}patch_embed.norm", "backbone1.embed_norm")
    for stage, depth in enumerate(spec.depths):
        for block in range(depth):
            theirs, ours = f"{prefix}{stages}.{stage}.blocks.{block}", f"backbone1.stages.{stage}.blocks.{block}"
            yield f"{theirs}.{attention}.relative_position_bias_table", f"{ours}.attention.position_bias"
            for a, b in (
                ("norm1", "norm1"),
                (f"{attention}.qkv", "attention.qkv"),
                (f"{attention}.proj", "attention.proj"),
                ("norm2", "norm2"),
                (first, "expand"),
                (second, "reduce"),
            ):
                yield from _leaves(f"{theirs}.{a}", f"{ours}.{b}")
        if stage + 1 < len(spec.depths):
            theirs, ours = f"{prefix}{stages}.{stage}.downsample", f"backbone1.stages.{stage}.merging"
            yield from _leaves(f"{theirs}.norm", f"{ours}.norm")
            yield f"{theirs}.reduction.weight", f"{ours}.reduction.weight"
        if norms:
            yield from _leaves(f"{prefix}norm{stage}", f"backbone1.stages.{stage}.norm")


def _rebuilt(spec: Swin, prefix: str, *, mmdetection: bool) -> frozenset[str]:
    stages, attention = ("stages", "attn.w_msa") if mmdetection else ("layers", "attn")
    blocks = [
        f"{prefix}{stages}.{stage}.blocks.{block}" for stage, depth in enumerate(spec.depths) for block in range(depth)
    ]
    return frozenset(
        name for block in blocks for name in (f"{block}.{attention}.relative_position_index", f"{block}.attn_mask")
    )


def _mmdetection_heads(spec: TwoStageModel) -> Iterator[tuple[str, str]]:
    for level in range(len(spec.strides)):
        yield from _leaves(f"neck.lateral_convs.{level}.conv", f"heads1.neck.laterals.{level}")
        yield from _leaves(f"neck.fpn_convs.{level}.conv", f"heads1.neck.outputs.{level}")
    for theirs, ours in (("rpn_conv", "conv"), ("rpn_cls", "objectness"), ("rpn_reg", "deltas")):
        yield from _leaves(f"rpn_head.{theirs}", f"heads1.regions.{ours}")
    box = {"shared_fcs.0": "hidden1", "shared_fcs.1": "hidden2", "fc_cls": "logits", "fc_reg": "deltas"}
    for theirs, ours in box.items():
        yield from _leaves(f"roi_head.bbox_head.{theirs}", f"heads1.box.{ours}")
    if spec.mask is not None:
        for number in range(spec.mask.convs):
            yield from _leaves(f"roi_head.mask_head.convs.{number}.conv", f"heads1.mask.convs.{number}")
        yield from _leaves("roi_head.mask_head.upsample", "heads1.mask.upsample")
        yield from _leaves("roi_head.mask_head.conv_logits", "heads1.mask.logits")


def _torchvision_heads(spec: TwoStageModel, nested: str) -> Iterator[tuple[str, str]]:
    """`nested` is what newer releases put after a convolution's name: each then is the first of a list."""
    for level in range(len(spec.strides)):
        yield from _leaves(f"backbone.fpn.inner_blocks.{level}{nested}", f"heads1.neck.laterals.{level}")
        yield from _leaves(f"backbone.fpn.layer_blocks.{level}{nested}", f"heads1.neck.outputs.{level}")
    yield from _leaves("rpn.head.conv.0.0" if nested else "rpn.head.conv", "heads1.regions.conv")
    yield from _leaves("rpn.head.cls_logits", "heads1.regions.objectness")
    yield from _leaves("rpn.head.bbox_pred", "heads1.regions.deltas")
    box = {
        "box_head.fc6": "hidden1",
        "box_head.fc7": "hidden2",
        "box_predictor.cls_score": "logits",
        "box_predictor.bbox_pred": "deltas",
    }
    for theirs, ours in box.items():
        yield from _leaves(f"roi_heads.{theirs}", f"heads1.box.{ours}")


def _leaves(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for leaf in _LINEAR:
        yield f"{theirs}.{leaf}", f"{ours}.{leaf}"
