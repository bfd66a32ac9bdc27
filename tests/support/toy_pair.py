"""A tiny bundle of two detectors that share nothing: real ONNX graphs for the real server, commanded by the pixels.

The upper left corner of an image commands what the stages do; see `pair_image`:

| pixel [0, 0] | meaning |
| --- | --- |
| red | difficulty = red / 255; red 255 gives NaN |
| green | 200 makes detector 2 fail, 201 detector 1 |
| blue | `scores[0]` = blue / 255 |

Detector 1 answers one object of class 0, detector 2 answers two of class 1. `pair_box` says where the first one lies:
its right side depends on the mean of the pixels that the detector reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import parser

from dynamicdet.letterbox import Fit
from dyndet_builder.bundle.manifest import (
    FILE_NAME,
    OWN,
    AdapterCheck,
    Bundle,
    Detector,
    Nms,
    Picture,
    Router,
    Source,
    Stage,
    StageName,
    Tensor,
    file_sha256,
)
from dyndet_builder.bundle.spec import DetectorSpec, InputSpec, OutputSpec

ROWS = 4
FAIL_DETECTOR2, FAIL_DETECTOR1 = 200, 201
NAN = 255
CLASSES = ("cat", 'quoted "dog"', "Größe")

SQUARE = Fit.square(32)
STRETCHED = Fit(height=32, width=32, resize="stretch", filter="linear")
OBLONG = Fit(height=24, width=40, place="top-left", pad=0, filter="linear")
SMALL = Fit(height=16, width=16, place="top-left", filter="linear")
"""detector 1's own rule in `TWO_RULES`"""

Batch = Literal["dynamic", "one"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How the two detectors of a toy pair read pictures."""

    first: Fit = SQUARE
    second: Fit = SQUARE
    first_batch: Batch = "dynamic"
    second_batch: Batch = "dynamic"


SAME_RULE = Variant()
STRETCH = Variant(first=STRETCHED, second=STRETCHED)
NOT_SQUARE = Variant(first=OBLONG, second=OBLONG)
TWO_RULES = Variant(first=SMALL, second=STRETCHED)
FIRST_ONE_BY_ONE = Variant(first_batch="one")
SECOND_ONE_BY_ONE = Variant(second_batch="one")


def pair_image(red: int, green: int = 0, blue: int = 0, *, fit: Fit = SQUARE, seed: int = 0) -> np.ndarray[Any, Any]:
    """An image (H, W, 3) whose corner commands a difficulty, a failure and a score; the other pixels are noise.

    The corner is a quarter of each side, so that it outlasts the resizing in a graph and in a fit to the top left.
    """
    pixels = np.random.default_rng(seed).integers(0, 256, fit.shape, dtype=np.uint8)
    pixels[: fit.height // 4, : fit.width // 4] = red, green, blue
    return pixels


def pair_box(mean: float, fit: Fit, *, second: bool) -> list[float]:
    """The first box in an image of this fit, whose detector has read pixels of this mean, 0..255."""
    lower = 0.75 - (2 if second else 1) / 8
    return [fit.width / 4, fit.height / 4, fit.width * (0.25 + mean / 510), fit.height * lower]


def write_toy_pair(folder: Path, name: str = "toy", variant: Variant = SAME_RULE) -> Path:
    """Write the bundle and return its folder."""
    folder.mkdir(parents=True)
    first, second = variant.first, variant.second
    stages: dict[StageName, Stage] = {
        "detector1": _stage(folder, "detector1", reads=first, given=second, batch=variant.first_batch),
        "detector2": _stage(folder, "detector2", reads=second, given=second, batch=variant.second_batch),
    }
    if first != second:
        stages[OWN] = _stage(folder, OWN, reads=first, given=first, batch=variant.first_batch)
    bundle = Bundle(
        kind="pair",
        name=name,
        input_size=max(second.height, second.width),
        layout="uint8 HWC RGB, fitted as `picture` says",
        picture=None if second.is_own else Picture(**second.__dict__),
        class_names=CLASSES,
        precision="fp32",
        opset=_OPSETS["detector2"],
        stages=stages,
        nms=Nms(max_detections=ROWS),
        tool_versions={"onnx": onnx.__version__},
        router=Router(kind="count", images=0, by_labels=True),
    )
    (folder / FILE_NAME).write_text(bundle.model_dump_json(indent=2))
    return folder


_OPSETS: Mapping[StageName, int] = {"detector1": 16, OWN: 16, "detector2": 17}
_TYPES = {"uint8": "uint8", "int32": "int32", "float32": "float"}
_DETECTIONS = (
    Tensor(name="num_detections", dtype="int32", shape=(1,)),
    Tensor(name="boxes", dtype="float32", shape=(ROWS, 4)),
    Tensor(name="scores", dtype="float32", shape=(ROWS,)),
    Tensor(name="classes", dtype="int32", shape=(ROWS,)),
)
_DIFFICULTY = Tensor(name="difficulty", dtype="float32", shape=(1,))


def _stage(folder: Path, name: StageName, *, reads: Fit, given: Fit, batch: Batch) -> Stage:
    """Write the graph of a detector that `reads` pictures by one rule and is `given` those of another."""
    second = name == "detector2"
    image = Tensor(name="image", dtype="uint8", shape=given.shape)
    outputs = _DETECTIONS if second else (*_DETECTIONS, _DIFFICULTY)
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {_OPSETS[name]}]>\n'
        f"{name} ({_declared(image, batch)}) => ({', '.join(_declared(each, batch) for each in outputs)}) {{\n"
        + "\n".join([*_pixels(reads, given), *_detections(given, second=second), *([] if second else _ROUTER)])
        + "\n}"
    )
    onnx.checker.check_model(model, full_check=True)
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    spec = DetectorSpec(input=_input(reads, batch), output=_OUTPUT, class_names=CLASSES)
    return Stage(
        file=path.name,
        sha256=file_sha256(path),
        inputs=(image,),
        outputs=outputs,
        opset=_OPSETS[name],
        batch=batch,
        detector=Detector(
            spec=spec,
            source=Source(checkpoint=f"{'large' if second else 'small'}.onnx", sha256="0" * 64),
            classes=tuple(range(len(CLASSES))),
            check=AdapterCheck(images=0, batch_sizes=(1,), box_px=0, score=0),
        ),
    )


_OUTPUT = OutputSpec(
    family="counted",
    tensors={"count": "num_detections", "boxes": "boxes", "scores": "scores", "labels": "classes"},
    suppress=False,
)


def _input(fit: Fit, batch: Batch) -> InputSpec:
    return InputSpec(
        name="image",
        dtype="uint8",
        layout="NHWC",
        size=(fit.height, fit.width),
        batch=batch,
        divide_by=1,
        resize=fit.resize,
        place=fit.place,
        pad=fit.pad,
        filter=fit.filter,
    )


def _declared(tensor: Tensor, batch: Batch) -> str:
    sides = ",".join(map(str, ("batch" if batch == "dynamic" else 1, *tensor.shape)))
    return f"{_TYPES[tensor.dtype]}[{sides}] {tensor.name}"


def _pixels(reads: Fit, given: Fit) -> list[str]:
    """What the detector reads, (B, 3, h, w), and the three numbers of its corner, (B, 1) each."""
    scales = f"{{1, 1, {reads.height / given.height}, {reads.width / given.width}}}"
    resized = [
        f"scales = Constant<value=float[4] {scales}>()",
        'pixels = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(channels, , scales)',
    ]
    return [
        "float_image = Cast<to=1>(image)",
        "channels = Transpose<perm=[0, 3, 1, 2]>(float_image)",
        *(["pixels = Identity(channels)"] if reads.shape == given.shape else resized),
        "from = Constant<value=int64[2] {0, 0}>()",
        "to = Constant<value=int64[2] {1, 1}>()",
        "axes = Constant<value=int64[2] {2, 3}>()",
        "corner = Slice(pixels, from, to, axes)",
        "rounded = Round(corner)",
        "three = Constant<value=int64[2] {-1, 3}>()",
        "command = Reshape(rounded, three)",
        "ones = Constant<value=int64[3] {1, 1, 1}>()",
        "red, green, blue = Split<axis=1>(command, ones)",
    ]


def _detections(given: Fit, *, second: bool) -> list[str]:
    """The four outputs; an index out of range makes the graph fail when the green of any image commands it."""
    base, slope = np.zeros((ROWS, 4)), np.zeros((ROWS, 4))
    base[0], slope[0, 2] = pair_box(0, given, second=second), given.width / 510
    return [
        f"fatal = Constant<value=float[1] {{{FAIL_DETECTOR2 if second else FAIL_DETECTOR1}}}>()",
        "asked = Equal(green, fatal)",
        "index = Cast<to=7>(asked)",
        "only = Constant<value=float[1] {0}>()",
        "zero = Gather(only, index)",
        f"count = Constant<value=float[1] {{{2 if second else 1}}}>()",
        "counts = Add(zero, count)",
        "num_detections = Cast<to=6>(counts)",
        "mean = ReduceMean<axes=[1, 2, 3], keepdims=0>(pixels)",
        "box_shape = Constant<value=int64[3] {-1, 1, 1}>()",
        "means = Reshape(mean, box_shape)",
        f"slope = Constant<value=float[1,{ROWS},4] {_numbers(slope)}>()",
        f"base = Constant<value=float[1,{ROWS},4] {_numbers(base)}>()",
        "grown = Mul(means, slope)",
        "boxes = Add(grown, base)",
        "full = Constant<value=float[1] {255}>()",
        "share = Div(blue, full)",
        f"shares = Constant<value=float[1,{ROWS}] {_numbers(np.array([1, 0.5 if second else 0, 0, 0]))}>()",
        "scores = Mul(share, shares)",
        f"numbers = Constant<value=float[1,{ROWS}] {_numbers(np.full(ROWS, 1 if second else 0))}>()",
        "float_classes = Add(zero, numbers)",
        "classes = Cast<to=6>(float_classes)",
    ]


_ROUTER = [
    "part = Div(red, full)",
    f"nan_red = Constant<value=float[1] {{{NAN}}}>()",
    "is_nan = Equal(red, nan_red)",
    "nothing = Div(only, only)",
    "value = Where(is_nan, nothing, part)",
    "difficulty = Add(value, zero)",
]


def _numbers(values: Any) -> str:
    return "{" + ", ".join(str(float(value)) for value in np.ravel(values)) + "}"
