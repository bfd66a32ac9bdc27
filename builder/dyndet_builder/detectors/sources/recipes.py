"""How the tools of known makers prepare a picture. Taken only if a user names it, or if a file names its maker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dynamicdet.errors import InputError
from dyndet_builder.detectors.layers import Layer

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_NONE, _ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

_YOLO = Layer(
    source="", colour="RGB", divide_by=255.0, mean=_NONE, std=_ONE, resize="letterbox", place="centre", pad=114,
    filter="linear",
)  # fmt: skip
_STRETCHED = replace(_YOLO, resize="stretch", place=None, pad=None, filter="linear")
RECIPES: Mapping[str, Layer] = {
    "yolo": _YOLO,
    "yolox": replace(_YOLO, colour="BGR", divide_by=1.0, place="top-left"),
    "yolo-nas": _YOLO,
    "ultralytics-rt-detr": _STRETCHED,
    "rt-detr": replace(_STRETCHED, filter="antialias"),
    "rf-detr": replace(_STRETCHED, mean=_MEAN, std=_STD, filter="antialias"),
    "detr": replace(_STRETCHED, mean=_MEAN, std=_STD, filter="antialias"),
    "rtmdet": replace(
        _YOLO,
        colour="BGR",
        divide_by=1.0,
        mean=(103.53, 116.28, 123.675),
        std=(57.375, 57.12, 58.395),
        place="top-left",
    ),
    "damo-yolo": replace(_STRETCHED, divide_by=1.0),
    "pp-yoloe": replace(_STRETCHED, mean=_MEAN, std=_STD, filter="cubic"),
    "pp-yoloe-plus": replace(_STRETCHED, filter="cubic"),
}
"""by name; all values of a recipe belong together"""

RECIPE_HELP = {
    "yolo": "Ultralytics YOLO, YOLOv5, v7, v9, v10: RGB, 0..1, letterbox",
    "yolox": "YOLOX: BGR, 0..255, letterbox in the top left corner",
    "yolo-nas": "YOLO-NAS without its own preparation: RGB, 0..1, letterbox",
    "ultralytics-rt-detr": "RT-DETR of Ultralytics: RGB, 0..1, stretched",
    "rt-detr": "RT-DETR, D-FINE, DEIM: RGB, 0..1, stretched with antialiasing",
    "rf-detr": "RF-DETR, DEIMv2 with DINOv3: RGB, ImageNet's mean and std, stretched",
    "detr": "DETR, YOLOS: RGB, ImageNet's mean and std, stretched",
    "rtmdet": "RTMDet: BGR, its own mean and std, letterbox in the top left corner",
    "damo-yolo": "DAMO-YOLO: RGB, 0..255, stretched",
    "pp-yoloe": "PP-YOLOE, PicoDet: RGB, ImageNet's mean and std, stretched, cubic",
    "pp-yoloe-plus": "PP-YOLOE+: RGB, 0..1, stretched, cubic",
}


def recipe(name: str, *, source: str) -> Layer:
    """The values of a recipe. Raises InputError for a name that is not known."""
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}; the known ones are {', '.join(RECIPES)}")
    return replace(RECIPES[name], source=source)
