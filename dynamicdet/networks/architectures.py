"""The networks as data: numbers and a few switches; `network.py` builds them, `published_keys.py` maps their weights.

A backbone is a stem and a row of (down, block) stages; backbone 2 has the same shape plus links from backbone 1. A neck
is one lateral step per top-down level and one (down, block) per bottom-up level, coarse to fine and back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dynamicdet.errors import InputError
from dynamicdet.networks.two_stage.architectures import TWO_STAGE_ARCHITECTURES, TwoStageModel

Activation = Literal["silu", "relu"]

LARGEST_INPUT = 4096
"""pixels; at this size, one image already has gigabytes of features"""


@dataclass(frozen=True)
class Stem:
    """First layer: `conv` keeps the resolution, `strided` halves it, `space_to_depth` folds 2x2 pixels first."""

    width: int
    kind: Literal["conv", "strided", "space_to_depth"] = "conv"

    @property
    def stride(self) -> int:
        """Image pixels per output pixel."""
        return 1 if self.kind == "conv" else 2


@dataclass(frozen=True)
class Conv3:
    """One 3x3 convolution as a stage's block."""

    out: int


@dataclass(frozen=True)
class Elan:
    """Two 1x1 entries, a chain of 3x3 convolutions on the second, and a 1x1 over the chain's outputs.

    `dense` concatenates every output of the chain, otherwise every second one. The chain's `width` is by default that
    of the entry.
    """

    entry: int
    out: int
    width: int | None = None
    depth: int = 4
    dense: bool = False


@dataclass(frozen=True)
class Down:
    """Halves the resolution: `pool` joins a pooled and a strided branch of `width` each, `conv` is one strided 3x3."""

    width: int
    kind: Literal["pool", "conv"] = "pool"
    reads_first: bool = False
    """The strided branch reads backbone 1's feature, not backbone 2's own (a quirk of one published network)."""

    @property
    def out(self) -> int:
        """Output channels."""
        return 2 * self.width if self.kind == "pool" else self.width


Block = Elan | Conv3
Stage = tuple[Down, Block]


@dataclass(frozen=True)
class Neck:
    """Pyramid pooling, then (lateral width, block) per level towards fine, then (down, block) towards coarse."""

    spp: int
    top_down: tuple[tuple[int, Block], ...]
    bottom_up: tuple[Stage, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Output channels per level, finest first."""
        return (self.top_down[-1][1].out, *(block.out for _, block in self.bottom_up))


@dataclass(frozen=True)
class Detector:
    """Backbone, neck and the convolutions (if any) before the prediction layer."""

    stem: Stem
    stages: tuple[Stage, ...]
    neck: Neck
    head: tuple[int, ...]
    head_conv: Literal["rep", "conv", "none"] = "conv"

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Stride of each stage's output, finest first."""
        return tuple(self.stem.stride << level for level in range(1, len(self.stages) + 1))

    @property
    def channels(self) -> dict[int, int]:
        """Output channels by stride, the stem included."""
        outs = (block.out for _, block in self.stages)
        return {self.stem.stride: self.stem.width, **dict(zip(self.stage_strides, outs, strict=True))}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What every network has: a name, an input, anchors, and at least one detector."""

    name: str
    input_size: int
    anchors: tuple[tuple[tuple[int, int], ...], ...]
    """(width, height) in pixels per level, finest level first."""
    first: Detector
    activation: Activation = "silu"

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each detection level, finest first."""
        return self.first.stage_strides[-len(self.anchors) :]


@dataclass(frozen=True, kw_only=True)
class Model(Architecture):
    """A dynamic detector: two detectors, the strides that link them and those the router sees."""

    second: Detector
    link_strides: tuple[int, ...]
    """Backbone 1 features that feed backbone 2; each feeds its own level and all finer linked ones."""
    router_strides: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class StaticModel(Architecture):
    """A static detector: the first detector is all there is, with neither router nor links."""


P5 = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
P6 = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)
# Objects of about 12 to 250 px in a 320 px image.
P5_PICO = (
    ((13, 13), (20, 27), (31, 22)),
    ((36, 42), (60, 47), (50, 74)),
    ((84, 86), (128, 120), (200, 195)),
)


def wide(entry: int, out: int) -> Elan:
    """The necks' block: a chain half as wide as its entries, all of it concatenated."""
    return Elan(entry, out, width=entry // 2, dense=True)


_YOLOV7 = Detector(
    stem=Stem(32),
    stages=(
        (Down(64, "conv"), Conv3(64)),
        (Down(128, "conv"), Elan(64, 256)),
        (Down(128), Elan(128, 512)),
        (Down(256), Elan(256, 1024)),
        (Down(512), Elan(256, 1024)),
    ),
    neck=Neck(
        spp=512,
        top_down=((256, wide(256, 256)), (128, wide(128, 128))),
        bottom_up=((Down(128), wide(256, 256)), (Down(256), wide(512, 512))),
    ),
    head=(256, 512, 1024),
    head_conv="rep",
)
DY_YOLOV7 = Model(
    name="dy-yolov7",
    input_size=640,
    anchors=P5,
    first=_YOLOV7,
    second=_YOLOV7,
    link_strides=(2, 4, 8, 16, 32),
    router_strides=(2, 4, 8, 16, 32),
)

_YOLOV7_X = Detector(
    stem=Stem(40),
    stages=(
        (Down(80, "conv"), Conv3(80)),
        (Down(160, "conv"), Elan(64, 320, depth=6)),
        (Down(160), Elan(128, 640, depth=6)),
        (Down(320), Elan(256, 1280, depth=6)),
        (Down(640), Elan(256, 1280, depth=6)),
    ),
    neck=Neck(
        spp=640,
        top_down=((320, Elan(256, 320, depth=6)), (160, Elan(128, 160, depth=6))),
        bottom_up=((Down(160), Elan(256, 320, depth=6)), (Down(320), Elan(512, 640, depth=6))),
    ),
    head=(320, 640, 1280),
)
_X_STAGES = _YOLOV7_X.stages
DY_YOLOV7_X = Model(
    name="dy-yolov7-x",
    input_size=640,
    anchors=P5,
    first=_YOLOV7_X,
    # The published X weights were trained with this one branch reading backbone 1.
    second=replace(_YOLOV7_X, stages=(*_X_STAGES[:2], (Down(160, reads_first=True), _X_STAGES[2][1]), *_X_STAGES[3:])),
    link_strides=(2, 4, 8, 16, 32),
    router_strides=(2, 4, 8, 16, 32),
)

_YOLOV7_W6 = Detector(
    stem=Stem(64, "space_to_depth"),
    stages=(
        (Down(128, "conv"), Elan(64, 128)),
        (Down(256, "conv"), Elan(128, 256)),
        (Down(512, "conv"), Elan(256, 512)),
        (Down(768, "conv"), Elan(384, 768)),
        (Down(1024, "conv"), Elan(512, 1024)),
    ),
    neck=Neck(
        spp=512,
        top_down=((384, wide(384, 384)), (256, wide(256, 256)), (128, wide(128, 128))),
        bottom_up=(
            (Down(256, "conv"), wide(256, 256)),
            (Down(384, "conv"), wide(384, 384)),
            (Down(512, "conv"), wide(512, 512)),
        ),
    ),
    head=(256, 512, 768, 1024),
)
DY_YOLOV7_W6 = Model(
    name="dy-yolov7-w6",
    input_size=1280,
    anchors=P6,
    first=_YOLOV7_W6,
    second=_YOLOV7_W6,
    link_strides=(4, 8, 16, 32, 64),
    # Unlike its siblings' router, this one sees the stem as well.
    router_strides=(2, 4, 8, 16, 32, 64),
)

# For CPUs: ReLU runs inside the convolution there, links and heads share three small features (0.7 MB in all), and the
# second detector is wider and deeper than the first.
DY_YOLOV7_PICO = Model(
    name="dy-yolov7-pico",
    input_size=320,
    anchors=P5_PICO,
    first=Detector(
        stem=Stem(16, "strided"),
        stages=(
            (Down(32, "conv"), Elan(16, 32, depth=1, dense=True)),
            (Down(48, "conv"), Elan(32, 64, depth=2)),
            (Down(96, "conv"), Elan(48, 128, depth=2)),
            (Down(160, "conv"), Elan(64, 192, depth=2)),
        ),
        neck=Neck(
            spp=64,
            top_down=((64, Elan(32, 64, depth=2)), (32, Elan(32, 48, depth=2))),
            bottom_up=((Down(64, "conv"), Elan(32, 64, depth=2)), (Down(64, "conv"), Elan(48, 96, depth=2))),
        ),
        head=(48, 64, 96),
        head_conv="none",
    ),
    second=Detector(
        stem=Stem(16, "strided"),
        stages=(
            (Down(32, "conv"), Elan(16, 32, depth=1, dense=True)),
            (Down(64, "conv"), Elan(32, 80, depth=2)),
            (Down(112, "conv"), Elan(48, 160, depth=2)),
            (Down(192, "conv"), Elan(96, 256, depth=2)),
        ),
        neck=Neck(
            spp=96,
            top_down=((64, Elan(48, 80, depth=2)), (32, Elan(32, 64, depth=2))),
            bottom_up=((Down(64, "conv"), Elan(48, 96, depth=2)), (Down(96, "conv"), Elan(64, 128, depth=2))),
        ),
        head=(64, 96, 128),
        head_conv="none",
    ),
    link_strides=(8, 16, 32),
    router_strides=(4, 8, 16, 32),
    activation="relu",
)

# What a dynamic detector is compared with: one detector for every image, of the same family, trained in the same way.
# Their costs are that of detector 1 alone, about that of half the images on the hard route, and about that of all.
YOLOV7_PICO_S = StaticModel(
    name="yolov7-pico-s",
    input_size=320,
    anchors=P5_PICO,
    first=DY_YOLOV7_PICO.first,
    activation="relu",
)
YOLOV7_PICO_M = StaticModel(
    name="yolov7-pico-m",
    input_size=320,
    anchors=P5_PICO,
    first=Detector(
        stem=Stem(16, "strided"),
        stages=(
            (Down(40, "conv"), Elan(20, 40, depth=1, dense=True)),
            (Down(64, "conv"), Elan(40, 80, depth=2)),
            (Down(112, "conv"), Elan(56, 160, depth=2)),
            (Down(192, "conv"), Elan(80, 224, depth=2)),
        ),
        neck=Neck(
            spp=80,
            top_down=((72, Elan(40, 80, depth=2)), (40, Elan(40, 56, depth=2))),
            bottom_up=((Down(80, "conv"), Elan(40, 80, depth=2)), (Down(80, "conv"), Elan(56, 112, depth=2))),
        ),
        head=(56, 80, 112),
        head_conv="none",
    ),
    activation="relu",
)
YOLOV7_PICO_L = StaticModel(
    name="yolov7-pico-l",
    input_size=320,
    anchors=P5_PICO,
    first=Detector(
        stem=Stem(16, "strided"),
        stages=(
            (Down(48, "conv"), Elan(24, 48, depth=1, dense=True)),
            (Down(80, "conv"), Elan(48, 96, depth=2)),
            (Down(144, "conv"), Elan(64, 192, depth=2)),
            (Down(224, "conv"), Elan(96, 256, depth=2)),
        ),
        neck=Neck(
            spp=96,
            top_down=((80, Elan(48, 96, depth=2)), (48, Elan(48, 64, depth=2))),
            bottom_up=((Down(96, "conv"), Elan(48, 96, depth=2)), (Down(96, "conv"), Elan(64, 128, depth=2))),
        ),
        head=(64, 96, 128),
        head_conv="none",
    ),
    activation="relu",
)

Spec = Model | StaticModel | TwoStageModel

ARCHITECTURES: dict[str, Model | TwoStageModel] = {
    **{model.name: model for model in (DY_YOLOV7, DY_YOLOV7_X, DY_YOLOV7_W6, DY_YOLOV7_PICO)},
    **TWO_STAGE_ARCHITECTURES,
}
"""dynamic detectors"""
STATIC_ARCHITECTURES = {model.name: model for model in (YOLOV7_PICO_S, YOLOV7_PICO_M, YOLOV7_PICO_L)}


def architecture(name: str) -> Model | TwoStageModel:
    """The dynamic detector of this name. Raises InputError for an unknown one."""
    try:
        return ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(ARCHITECTURES)
        if name in STATIC_ARCHITECTURES:
            raise InputError(f"{name} is a static detector, without a router; dynamic ones are {known}") from None
        raise InputError(f"unknown architecture {name!r}; known are {known}") from None


def known_architectures() -> tuple[str, ...]:
    """Names of all networks, the dynamic ones first."""
    return (*ARCHITECTURES, *STATIC_ARCHITECTURES)


def any_architecture(name: str) -> Spec:
    """The network of this name, dynamic or static. Raises InputError for an unknown one."""
    if name in STATIC_ARCHITECTURES:
        return STATIC_ARCHITECTURES[name]
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    raise InputError(f"unknown architecture {name!r}; known are {', '.join(known_architectures())}")
