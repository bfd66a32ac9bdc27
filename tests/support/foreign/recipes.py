"""What a detector of others looks like: how it takes pictures, how it writes answers, and who has written the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from dynamicdet.class_names import COCO
from dyndet_builder.bundle.spec import Family
from tests.support.foreign.core import CLASS_NAMES

Boxes = Literal["xyxy", "cxcywh", "yxyx", "xywh"]
Unit = Literal["pixels", "normalised"]


@dataclass(frozen=True, kw_only=True)
class Writer:
    """An exporter: the names and forms it uses when a recipe asks for nothing else."""

    family: Family
    input: str
    outputs: tuple[str, ...]
    """in the order of `roles`"""
    roles: tuple[Literal["all", "boxes", "scores", "labels", "logits", "count"], ...]
    boxes: Boxes
    unit: Unit = "pixels"
    suppress: bool = False
    metadata: Literal["none", "ultralytics", "yolov5"] = "none"
    cells: bool = False
    """one row per cell of the grid instead of one per anchor"""


WRITERS: Mapping[str, Writer] = {
    "ultralytics": Writer(
        family="yolo",
        input="images",
        outputs=("output0",),
        roles=("all",),
        boxes="cxcywh",
        suppress=True,
        cells=True,
        metadata="ultralytics",
    ),
    "yolov5": Writer(
        family="yolo-objectness",
        input="images",
        outputs=("output0",),
        roles=("all",),
        boxes="cxcywh",
        suppress=True,
        metadata="yolov5",
    ),
    "yolov7": Writer(
        family="yolo-objectness", input="images", outputs=("output",), roles=("all",), boxes="cxcywh", suppress=True
    ),
    "yolox-decoded": Writer(
        family="yolo-objectness",
        input="images",
        outputs=("output",),
        roles=("all",),
        boxes="cxcywh",
        suppress=True,
        cells=True,
    ),
    "yolox": Writer(
        family="yolox-raw",
        input="images",
        outputs=("output",),
        roles=("all",),
        boxes="cxcywh",
        suppress=True,
        cells=True,
    ),
    "yolo26": Writer(
        family="rows", input="images", outputs=("output0",), roles=("all",), boxes="xyxy", metadata="ultralytics"
    ),
    "counted": Writer(
        family="counted",
        input="images",
        outputs=("num_dets", "det_boxes", "det_scores", "det_classes"),
        roles=("count", "boxes", "scores", "labels"),
        boxes="xyxy",
    ),
    "tf": Writer(
        family="counted",
        input="input_tensor",
        outputs=("num_detections", "detection_boxes", "detection_scores", "detection_classes"),
        roles=("count", "boxes", "scores", "labels"),
        boxes="yxyx",
        unit="normalised",
    ),
    "transformers": Writer(
        family="detr",
        input="pixel_values",
        outputs=("logits", "pred_boxes"),
        roles=("logits", "boxes"),
        boxes="cxcywh",
        unit="normalised",
    ),
    "rf-detr": Writer(
        family="detr",
        input="input",
        outputs=("dets", "labels"),
        roles=("boxes", "logits"),
        boxes="cxcywh",
        unit="normalised",
    ),
    "tao": Writer(
        family="detr",
        input="inputs",
        outputs=("pred_logits", "pred_boxes"),
        roles=("logits", "boxes"),
        boxes="cxcywh",
        unit="normalised",
    ),
    "ultralytics-rtdetr": Writer(
        family="joined",
        input="images",
        outputs=("output0",),
        roles=("all",),
        boxes="cxcywh",
        unit="normalised",
        metadata="ultralytics",
    ),
    "rt-detr": Writer(
        family="triple",
        input="images",
        outputs=("labels", "boxes", "scores"),
        roles=("labels", "boxes", "scores"),
        boxes="xyxy",
    ),
    "mmdeploy": Writer(
        family="dets-labels", input="input", outputs=("dets", "labels"), roles=("boxes", "labels"), boxes="xyxy"
    ),
    "yolo-nas": Writer(
        family="boxes-scores",
        input="images",
        outputs=("boxes", "scores"),
        roles=("boxes", "scores"),
        boxes="xyxy",
        suppress=True,
        cells=True,
    ),
}
WRITER_OF: Mapping[Family, str] = {
    "yolo": "ultralytics",
    "yolo-objectness": "yolov7",
    "yolox-raw": "yolox",
    "rows": "yolo26",
    "counted": "counted",
    "detr": "transformers",
    "joined": "ultralytics-rtdetr",
    "triple": "rt-detr",
    "dets-labels": "mmdeploy",
    "boxes-scores": "yolo-nas",
}
"""whose form a family has when a recipe names no writer"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a detector takes pictures and writes answers. Fields are those of InputSpec and OutputSpec."""

    writer: str | None = None
    """a key of WRITERS"""
    size: tuple[int, int] = (320, 320)
    colour: Literal["RGB", "BGR"] = "RGB"
    divide_by: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resize: Literal["letterbox", "stretch"] = "letterbox"
    place: Literal["centre", "top-left"] = "centre"
    pad: int = 114
    filter: Literal["antialias", "linear", "cubic"] = "linear"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    """float16: the weights and all outputs too"""
    batch: Literal["dynamic", "one"] = "dynamic"
    opset: int = 18
    undo: tuple[float, float] | None = None
    """height and width, as shares of the larger, of the pictures for which the graph undoes its own resize rule, so
    that the network sees them as it was trained to; None: it sees what it gets"""

    boxes: Boxes | None = None
    """None: as the writer does"""
    unit: Unit | None = None
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """of detectors that give logits"""
    background: Literal["none", "first", "last"] = "none"
    class_offset: int = 0
    class_names: tuple[str, ...] = CLASS_NAMES
    shows: tuple[int | None, ...] | None = None
    """class of the demo network that each name stands for, None: never found; by default found by name"""
    class_ids: tuple[int, ...] | None = None
    slots: int | None = None
    """number of columns for classes, with `class_ids`"""

    def writer_for(self, family: Family) -> Writer:
        """Raises ValueError for a writer of another family."""
        writer = WRITERS[self.writer or WRITER_OF[family]]
        if writer.family != family:
            raise ValueError(f"{self.writer} does not write {family}")
        return writer

    @property
    def network_classes(self) -> tuple[int | None, ...]:
        """Class of the demo network for each name."""
        if self.shows is not None:
            return self.shows
        return tuple(CLASS_NAMES.index(name) if name in CLASS_NAMES else None for name in self.class_names)

    def columns(self) -> tuple[int | None, ...]:
        """Class of the demo network in each slot, background not counted."""
        if self.class_ids is None:
            return self.network_classes
        found: list[int | None] = [None] * (self.slots or max(self.class_ids) + 1)
        for slot, shown in zip(self.class_ids, self.network_classes, strict=True):
            found[slot] = shown
        return tuple(found)


IMAGENET = Recipe(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_ABSENT = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = tuple(number for number in range(1, 91) if number not in _ABSENT)
"""of COCO's 80 classes"""
_SHOWN = {
    "dog": "animal",
    "apple": "food",
    "potted plant": "flower",
    "car": "vehicle",
    "stop sign": "sign",
}
_COCO_SHOWS = tuple(CLASS_NAMES.index(_SHOWN[name]) if name in _SHOWN else None for name in COCO)

INPUTS: Mapping[str, Recipe] = {
    "plain": Recipe(),
    "bgr": Recipe(colour="BGR"),
    "0..255": Recipe(divide_by=1.0),
    "yolox": Recipe(colour="BGR", divide_by=1.0, place="top-left"),
    "mean-std": IMAGENET,
    "mmdet": Recipe(
        colour="BGR", divide_by=1.0, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), place="top-left"
    ),
    "stretch": Recipe(resize="stretch"),
    "top-left": Recipe(place="top-left"),
    "pad-0": Recipe(pad=0),
    "nhwc-uint8": Recipe(layout="NHWC", dtype="uint8", divide_by=1.0, resize="stretch"),
    "fp16": Recipe(dtype="float16"),
    "batch-one": Recipe(batch="one"),
    "opset-11": Recipe(opset=11),
    "opset-13": Recipe(opset=13),
    "opset-16": Recipe(opset=16),
    "opset-22": Recipe(opset=22),
    "160": Recipe(size=(160, 160)),
    "256x320": Recipe(size=(256, 320)),
    "cubic": Recipe(size=(160, 160), filter="cubic", resize="stretch"),
    "antialias": Recipe(size=(160, 160), filter="antialias"),
}
"""For every family: ways to take pictures."""
_REORDERED = tuple(reversed(CLASS_NAMES))
_PARTLY = ("sign", "animal", "lorry", "food")
CLASSES: Mapping[str, Recipe] = {
    "reordered": Recipe(class_names=_REORDERED),
    "partly": Recipe(class_names=_PARTLY),
    "coco": Recipe(class_names=COCO, shows=_COCO_SHOWS),
}
"""For every family: class lists. `partly` lacks some of the demo's and has one it never finds."""
COCO_91 = Recipe(class_names=COCO, shows=_COCO_SHOWS, class_ids=COCO_IDS, slots=91)
OUTPUTS: Mapping[Family, Mapping[str, Recipe]] = {
    "yolo": {"normalised": Recipe(unit="normalised"), "xyxy": Recipe(boxes="xyxy")},
    "yolo-objectness": {
        "yolov5": Recipe(writer="yolov5"),
        "yolox-decoded": replace(INPUTS["yolox"], writer="yolox-decoded"),
    },
    "yolox-raw": {"yolox": INPUTS["yolox"]},
    "rows": {"normalised": Recipe(unit="normalised"), "xywh": Recipe(boxes="xywh")},
    "counted": {
        "tf": replace(COCO_91, writer="tf", layout="NHWC", dtype="uint8", divide_by=1.0, resize="stretch", batch="one"),
        "1-based": Recipe(class_offset=1),
        "yxyx": Recipe(boxes="yxyx"),
    },
    "detr": {
        "softmax": Recipe(activation="softmax", background="last"),
        "background-first": Recipe(background="first", writer="tao"),
        "background-last": replace(IMAGENET, background="last", writer="rf-detr", resize="stretch"),
        "coco-91": replace(COCO_91, writer="rf-detr", mean=IMAGENET.mean, std=IMAGENET.std, resize="stretch"),
        "hf-detr": replace(
            COCO_91, activation="softmax", background="last", mean=IMAGENET.mean, std=IMAGENET.std, resize="stretch"
        ),
        "rf-detr-batch-one": replace(IMAGENET, writer="rf-detr", batch="one", resize="stretch"),
    },
    "joined": {"stretch": Recipe(resize="stretch")},
    "triple": {"stretch": Recipe(resize="stretch"), "coco-91": replace(COCO_91, resize="stretch")},
    "dets-labels": {"mmdet": INPUTS["mmdet"]},
    "boxes-scores": {"damo-yolo": Recipe(divide_by=1.0, resize="stretch")},
}
"""Ways to write answers, by family."""


def recipes_of(family: Family) -> Mapping[str, Recipe]:
    """Every recipe that a family can have, by name."""
    return {**INPUTS, **CLASSES, **{f"{family}/{name}": one for name, one in OUTPUTS[family].items()}}
