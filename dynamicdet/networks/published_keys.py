"""Names of the published checkpoints' weights -> our names, generated from the same literals as the networks.

A published file numbers the layers of each part in order, layers without weights included. So each block below lists
its layers in the published order, `None` for one without weights; `_number` turns such a list into keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dynamicdet.networks.architectures import DY_YOLOV7, DY_YOLOV7_W6, DY_YOLOV7_X, Block, Conv3, Detector, Down, Model

PUBLISHED = (DY_YOLOV7, DY_YOLOV7_X, DY_YOLOV7_W6)

# The published router gives the easiness, 1 - difficulty; sigmoid(-z) = 1 - sigmoid(z), so loading negates these.
NEGATED = ("router.layer2.weight", "router.layer2.bias")

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_CONV = {"conv.weight": "conv.weight", **{f"bn.{leaf}": f"norm.{leaf}" for leaf in _NORM}}
_REP = {
    "rbr_dense.0.weight": "conv3.weight",
    **{f"rbr_dense.1.{leaf}": f"norm3.{leaf}" for leaf in _NORM},
    "rbr_1x1.0.weight": "conv1.weight",
    **{f"rbr_1x1.1.{leaf}": f"norm1.{leaf}" for leaf in _NORM},
}
_SPP_PARTS = {
    "cv1": "entry1",
    "cv2": "shortcut",
    "cv3": "entry2",
    "cv4": "entry3",
    "cv5": "pooled1",
    "cv6": "pooled2",
    "cv7": "out",
}
_SPP = {f"{theirs}.{a}": f"{ours}.{b}" for theirs, ours in _SPP_PARTS.items() for a, b in _CONV.items()}
_LINK = {"conv.weight": "weight", "conv.bias": "bias"}


@dataclass(frozen=True)
class _Layer:
    """One numbered layer: its place in our network and what its weights are called there."""

    place: str
    leaves: dict[str, str]


Layers = list[_Layer | None]


@dataclass(frozen=True)
class AnchorKeys:
    """The keys of one head's anchors, divided by stride and in pixels, and their shapes."""

    by_stride: str
    pixels: str
    by_stride_shape: tuple[int, ...]
    pixels_shape: tuple[int, ...]


def key_map(spec: Model) -> dict[str, str]:
    """Published name -> our name of every weight except the anchors (see `anchor_keys`)."""
    names = {
        name: name for layer in ("layer1", "layer2") for name in (f"router.{layer}.weight", f"router.{layer}.bias")
    }
    links: Layers = [_Layer(f"links.convs.{level}", _LINK) for level in range(len(spec.link_strides))]
    folds: Layers = [None] if spec.first.stem.kind == "space_to_depth" else []
    names |= _number("model_b", [*folds, *_backbone(spec.first, "backbone1")])
    # Backbone 2 starts from backbone 1's folded image: its numbering has no layer for it.
    names |= _number("model_b2", [*links, *_backbone(spec.second, "backbone2", linked=True)])
    for prefix, detector, number in (("model_h", spec.first, 1), ("model_h2", spec.second, 2)):
        layers = _neck_and_head(detector, number)
        names |= _number(prefix, layers)
        names |= dict(_predictions(f"{prefix}.{len(layers)}", f"predict{number}.predict", levels=len(spec.anchors)))
    return names


def anchor_keys(spec: Model) -> tuple[AnchorKeys, AnchorKeys]:
    """The keys of the anchors of head 1 and head 2 in a published checkpoint."""
    levels, anchors = len(spec.anchors), len(spec.anchors[0])

    def keys(prefix: str, detector: Detector) -> AnchorKeys:
        layer = f"{prefix}.{len(_neck_and_head(detector, 1))}"
        return AnchorKeys(
            by_stride=f"{layer}.anchors",
            pixels=f"{layer}.anchor_grid",
            by_stride_shape=(levels, anchors, 2),
            pixels_shape=(levels, 1, anchors, 1, 1, 2),
        )

    return keys("model_h", spec.first), keys("model_h2", spec.second)


def _number(prefix: str, layers: Sequence[_Layer | None]) -> dict[str, str]:
    return {
        f"{prefix}.{number}.{theirs}": f"{layer.place}.{ours}"
        for number, layer in enumerate(layers)
        if layer is not None
        for theirs, ours in layer.leaves.items()
    }


def _conv(place: str) -> _Layer:
    return _Layer(place, _CONV)


def _block(spec: Block, place: str) -> Layers:
    if isinstance(spec, Conv3):
        return [_conv(place)]
    chain = [_conv(f"{place}.chain.{link}") for link in range(spec.depth)]
    return [_conv(f"{place}.skip"), _conv(f"{place}.entry"), *chain, None, _conv(f"{place}.out")]


def _down(spec: Down, place: str) -> Layers:
    """The last layer of `pool` is a concatenation."""
    if spec.kind == "conv":
        return [_conv(place)]
    return [None, _conv(f"{place}.pooled"), _conv(f"{place}.reduce"), _conv(f"{place}.strided"), None]


def _backbone(spec: Detector, place: str, *, linked: bool = False) -> Layers:
    layers: Layers = [_conv(f"{place}.stem.conv")]
    for number, (down, block) in enumerate(spec.stages):
        layers += _down(down, f"{place}.stages.{number}.down")
        layers += [None] if linked else []  # adds the link
        layers += _block(block, f"{place}.stages.{number}.block")
    return layers


def _neck_and_head(spec: Detector, number: int) -> Layers:
    """All layers before the prediction layer."""
    place = f"neck{number}"
    layers: Layers = [_Layer(f"{place}.spp", _SPP)]
    for step, (_, block) in enumerate(spec.neck.top_down):
        here = f"{place}.top_down.{step}"
        layers += [_conv(f"{here}.reduce"), None, _conv(f"{here}.lateral"), None]  # upsampling, concatenation
        layers += _block(block, f"{here}.block")
    for step, (down, block) in enumerate(spec.neck.bottom_up):
        here = f"{place}.bottom_up.{step}"
        layers += _down(down, f"{here}.down")
        layers += [None] if down.kind == "conv" else []  # a pooling step has one concatenation for everything
        layers += _block(block, f"{here}.block")
    leaves = _REP if spec.head_conv == "rep" else _CONV
    return [*layers, *(_Layer(f"predict{number}.convs.{level}", leaves) for level in range(len(spec.head)))]


def _predictions(prefix: str, place: str, *, levels: int) -> Iterator[tuple[str, str]]:
    for level in range(levels):
        here = f"{place}.{level}"
        yield f"{prefix}.m.{level}.weight", f"{here}.conv.weight"
        yield f"{prefix}.m.{level}.bias", f"{here}.conv.bias"
        yield f"{prefix}.ia.{level}.implicit", f"{here}.add"
        yield f"{prefix}.im.{level}.implicit", f"{here}.scale"
