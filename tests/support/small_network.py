"""A dynamic and a static detector of plain convolutions, with a third of the layers of those that ship."""

from __future__ import annotations

from dynamicdet.networks.architectures import DY_YOLOV7_PICO, Conv3, Detector, Down, Model, Neck, StaticModel, Stem

NAME, STATIC_NAME = "small", "small-static"
_WIDTH = 32
_STAGE = (Down(_WIDTH, "conv"), Conv3(_WIDTH))
_DETECTOR = Detector(
    stem=Stem(_WIDTH // 2, "strided"),
    stages=(_STAGE, _STAGE, _STAGE, _STAGE),
    neck=Neck(
        spp=_WIDTH,
        top_down=((_WIDTH, Conv3(_WIDTH)), (_WIDTH, Conv3(_WIDTH))),
        bottom_up=(_STAGE, _STAGE),
    ),
    head=(_WIDTH, _WIDTH, _WIDTH),
    head_conv="none",
)
SMALL = Model(
    name=NAME,
    input_size=64,
    anchors=DY_YOLOV7_PICO.anchors,
    first=_DETECTOR,
    second=_DETECTOR,
    link_strides=(8, 16, 32),
    router_strides=(4, 8, 16, 32),
)
SMALL_STATIC = StaticModel(name=STATIC_NAME, input_size=64, anchors=DY_YOLOV7_PICO.anchors, first=_DETECTOR)
