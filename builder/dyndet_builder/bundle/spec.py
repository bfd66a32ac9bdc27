"""What a detector of others reads and gives: `detector.yaml`, and the same inside the bundle of a pair.

Most of it is not in an ONNX file. `dyndet inspect` finds what it can, asks for the rest, and writes it down here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dynamicdet.class_names import check_class_names
from dynamicdet.letterbox import Filter, Fit, Place, Resize
from dynamicdet.records import Label, Positive, Record, Text

Precision = Literal["fp32", "fp16", "int8"]
Family = Literal[
    "yolo", "yolo-objectness", "yolox-raw", "rows", "counted", "detr", "joined", "triple", "dets-labels", "boxes-scores"
]
"""The form of a detector's answer.

- `yolo`: one tensor [B, 4 + classes, N]; Ultralytics v8 to v12, YOLOv9, v26 without its end-to-end head
- `yolo-objectness`: one tensor [B, N, 5 + classes], decoded; YOLOv5, YOLOv7 with its grid, YOLOX decoded
- `yolox-raw`: the same, not decoded; YOLOX as it is exported by default
- `rows`: one tensor [B, K, 6] of x1 y1 x2 y2 score class; YOLOv10, YOLO26, Ultralytics with nms=True
- `counted`: four tensors, count, boxes, scores, classes, without plugins
- `detr`: two tensors, logits [B, Q, classes (+ 1)] and boxes [B, Q, 4]; Hugging Face, RF-DETR, TAO
- `joined`: one tensor [B, Q, 4 + classes] with normalised boxes; Ultralytics RT-DETR
- `triple`: labels, boxes, scores, with the picture's size as a second input; RT-DETR, D-FINE, DEIM
- `dets-labels`: two tensors, boxes with scores [B, K, 5] and labels [B, K]; mmdeploy
- `boxes-scores`: two tensors, boxes [B, N, 4] and scores [B, N, classes], before suppression; YOLO-NAS, DAMO-YOLO
"""
Role = Literal["all", "boxes", "scores", "labels", "logits", "count"]
Colour = Literal["RGB", "BGR"]
BoxForm = Literal["xyxy", "cxcywh", "yxyx", "xywh"]
Unit = Literal["pixels", "normalised"]
Activation = Literal["none", "sigmoid", "softmax"]
Background = Literal["none", "first", "last"]
ExtraKind = Literal["width-height", "height-width", "scale-yx", "scale-xy", "mask"]

Side = Annotated[int, Field(ge=8, le=4096)]
Slot = Annotated[int, Field(ge=0, le=9999)]
Channels = Annotated[tuple[float, float, float], Field(description="one number per channel, in the detector's order")]


class ExtraInput(Record):
    """An input beside the picture. It gets a constant: boxes then come in pixels of the detector's input."""

    name: Label
    dtype: Literal["int64", "int32", "float32", "float16", "bool", "uint8"]
    kind: ExtraKind = Field(description="width-height, height-width: of the input; scale-*: ones; mask: all ones")


class InputSpec(Record):
    """How a picture becomes the detector's input tensor."""

    name: Label
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    size: tuple[Side, Side] = Field(description="height and width, pixels")
    batch: Literal["dynamic", "one"] = Field(description="`one`: the file takes one picture at a time")
    colour: Colour = "RGB"
    divide_by: Positive = Field(default=255.0, description="pixels are divided by this first; 1 leaves 0..255")
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    resize: Resize = "letterbox"
    place: Place = "centre"
    pad: Annotated[int, Field(ge=0, le=255)] = 114
    filter: Filter = Field(default="linear", description="linear: OpenCV's; antialias: Pillow's BILINEAR")
    extra: Annotated[tuple[ExtraInput, ...], Field(max_length=4)] = ()

    @property
    def fit(self) -> Fit:
        """The rule by which a picture is fitted into the input."""
        height, width = self.size
        return Fit(height=height, width=width, resize=self.resize, place=self.place, pad=self.pad, filter=self.filter)

    @model_validator(mode="after")
    def _check_numbers(self) -> InputSpec:
        if not all(one > 0 for one in self.std):
            raise ValueError("std must be above 0")
        if self.dtype == "uint8" and (self.divide_by, {*self.mean}, {*self.std}) != (1, {0}, {1}):
            raise ValueError("an input of type uint8 takes pixels as they are: divide_by 1, mean 0, std 1")
        return self


class OutputSpec(Record):
    """How the detector's output tensors become boxes, scores and classes."""

    family: Family
    tensors: Annotated[dict[Role, Label], Field(min_length=1, max_length=4)] = Field(
        description="name of the tensor in each role; `all` in families with a single one"
    )
    boxes: BoxForm = "xyxy"
    unit: Unit = Field(default="pixels", description="of the detector's input")
    activation: Activation = "none"
    background: Background = Field(default="none", description="slot that means no object")
    class_offset: Annotated[int, Field(ge=-1, le=1)] = Field(
        default=0, description="number of the first class; with `background` first, 0 means 1"
    )
    class_ids: Annotated[tuple[Slot, ...], Field(max_length=1000)] | None = Field(
        default=None,
        description="slot or label of each class name, such as COCO's 91 slots for 80 names; None: 0, 1, 2, ...",
    )
    strides: Annotated[tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(max_length=8)] = (8, 16, 32)
    suppress: bool = Field(description="whether overlapping boxes are still to be suppressed")


class DetectorSpec(Record):
    """Contents of `detector.yaml`."""

    schema_version: Literal[1] = 1
    input: InputSpec
    output: OutputSpec
    class_names: Annotated[tuple[str, ...], AfterValidator(check_class_names)]
    licence: Text | None = Field(default=None, description="as the file's metadata name it")

    @model_validator(mode="after")
    def _check_classes(self) -> DetectorSpec:
        ids = self.output.class_ids
        if ids is not None and (len(ids) != len(self.class_names) or len(set(ids)) != len(ids)):
            raise ValueError("class_ids must give a slot of its own to each of the class names")
        if ids is not None and self.output.class_offset:
            raise ValueError("class_ids are slots as they stand in the tensor, so class_offset must be 0")
        return self

    @property
    def slots(self) -> tuple[int, ...]:
        """Where each class stands: its slot in the scores, or its number among the labels."""
        if self.output.class_ids is not None:
            return self.output.class_ids
        first = self.output.class_offset or int(self.output.background == "first")
        return tuple(range(first, first + len(self.class_names)))
