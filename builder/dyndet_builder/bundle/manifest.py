"""The bundle: the exported stages and everything that another tool needs to know about them (`bundle.json`).

Bundles come from others, too. So every field has a pattern or a range, and a bundle whose stages do not fit together is
refused as it is read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from dynamicdet.class_names import check_class_names
from dynamicdet.errors import InputError
from dynamicdet.records import (
    Count,
    FileName,
    Finite,
    Name,
    NotNegative,
    Ordinal,
    Record,
    Sha256,
    Share,
    Text,
    Version,
    check_regular,
    inside,
    read_record,
)
from dynamicdet.text import printable

FILE_NAME = "bundle.json"
StageName = Literal["backbone1", "head1", "detector2"]
STAGES: tuple[StageName, ...] = ("backbone1", "head1", "detector2")
Precision = Literal["fp32", "fp16", "int8"]

IMAGE, DIFFICULTY = "image", "difficulty"
DETECTION_OUTPUTS = ("num_detections", "boxes", "scores", "classes")

LARGEST_GRAPH = 2 << 30
"""bytes; the format of ONNX files holds no more"""
_LARGEST = 4 << 20
_MOST_ELEMENTS = 1 << 30
_SMALLEST_SIDE, _LARGEST_SIDE = 32, 4096
_ADVICE = "export the bundle again with `dyndet export`"


def _checked_in_files(value: float, info: ValidationInfo) -> float:
    if info.mode == "json" and not 0 <= value <= 1e12:
        raise ValueError("the number must be finite and not below 0")
    return value


Difference = Annotated[float, Field(allow_inf_nan=True), AfterValidator(_checked_in_files)]
"""a largest difference; NaN if an answer was NaN, which `check_parity` refuses before a file is written"""
Side = Annotated[int, Field(ge=1, le=1 << 20)]
Tensors = Annotated[tuple["Tensor", ...], Field(min_length=1, max_length=64)]


class Tensor(Record):
    """A stage's input or output. `shape` leaves the batch dimension out; every dimension is static."""

    name: Name
    dtype: Literal["uint8", "int32", "float16", "float32"]
    shape: Annotated[tuple[Side, ...], Field(min_length=1, max_length=6)]

    @field_validator("shape")
    @classmethod
    def _check_size(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(shape) > _MOST_ELEMENTS:
            raise ValueError(f"a tensor has at most {_MOST_ELEMENTS:,} elements")
        return shape

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.shape)}"


class Stage(Record):
    """One exported network and its file inside the bundle."""

    file: FileName
    sha256: Sha256
    inputs: Tensors
    outputs: Tensors

    @field_validator("inputs", "outputs")
    @classmethod
    def _check_names(cls, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise ValueError("two tensors have the same name")
        return tensors


class Nms(Record):
    """Suppression inside the graphs, per class: of `pre_top_k` best candidates, at most `max_detections` stay."""

    iou_threshold: Share = 0.65
    score_floor: Share = 0.001
    pre_top_k: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    max_detections: Annotated[int, Field(ge=1, le=1000)] = 100


class Parity(Record):
    """Largest differences between the exported graphs and the PyTorch network on real images.

    In an int8 bundle: between its graphs and those of the fp32 bundle; see `Quantization`.
    """

    images: Count = Field(description="number of real images compared")
    batch_sizes: Annotated[tuple[Ordinal, ...], Field(max_length=20)]
    box_px: Difference = Field(description="largest box coordinate difference, pixels of the letterboxed image")
    score: Difference
    difficulty: Difference
    route_flip_share: Share = Field(description="share of images that change their route at a tested threshold")
    route_images: Count = Field(default=0, description="number of images for route_flip_share; 0: the same as `images`")
    route_thresholds: Annotated[tuple[Share, ...], Field(max_length=1000)] = Field(
        default=(), description="the given ones; empty: the images' deciles"
    )
    suppression_differences: Count = Field(
        default=0, description="images where graph and plain suppression kept different candidates"
    )


class AveragePrecision(Record):
    """COCO AP of both routes, percent."""

    easy: Finite
    hard: Finite


class Quantization(Record):
    """How an int8 bundle was made from an fp32 one, and the cost on images that did not calibrate it.

    `parity` of its bundle compares detections with a score of at least `from_score` that overlap by half or more.
    """

    method: Text = Field(description="how the ranges of activations were found")
    calibration_images: Count
    convolutions: Count
    quantized: Count = Field(description="number of int8 convolutions; everything else stays fp32")
    source_sha256: Sha256 = Field(description="hash of the fp32 bundle's bundle.json")
    from_score: Share
    unmatched_share: Share = Field(description="share of detections without a match in the other bundle")
    box_px_median: NotNegative
    data: Text | None = Field(default=None, description="data set of the average precision")
    ap_before: AveragePrecision | None = None
    ap_after: AveragePrecision | None = None


class Source(Record):
    """Where the weights came from."""

    checkpoint: Text = Field(description="file name, without its folder")
    sha256: Sha256


class Bundle(Record):
    """Contents of `bundle.json`."""

    schema_version: Literal[1] = 1
    name: Name
    architecture: Name
    input_size: Annotated[int, Field(ge=_SMALLEST_SIDE, le=_LARGEST_SIDE, multiple_of=32)] = Field(
        description="side of the square input, pixels"
    )
    layout: Literal["uint8 HWC RGB, letterboxed with 114"] = "uint8 HWC RGB, letterboxed with 114"
    class_names: Annotated[tuple[str, ...], AfterValidator(check_class_names)]
    precision: Precision
    opset: Annotated[int, Field(ge=7, le=30)]
    exporter: Literal["dynamo", "torchscript"]
    stages: dict[StageName, Stage]
    nms: Nms
    source: Source
    tool_versions: Annotated[dict[Name, Version], Field(max_length=50)]
    parity: Parity
    quantization: Quantization | None = Field(default=None, description="only in an int8 bundle")

    @model_validator(mode="after")
    def _check_stages(self) -> Bundle:
        for stage in STAGES:
            if stage not in self.stages:
                raise ValueError(f"it lacks stage {stage!r}; a bundle has {', '.join(STAGES)}")
        if len({stage.file for stage in self.stages.values()}) != len(STAGES):
            raise ValueError("two stages have the same file")
        _check_wiring(self)
        return self


def _check_wiring(bundle: Bundle) -> None:
    """Raise ValueError if a stage reads what backbone1 does not produce, or lacks an output of the contract."""
    image = Tensor(name=IMAGE, dtype="uint8", shape=(bundle.input_size, bundle.input_size, 3))
    first = bundle.stages["backbone1"]
    given = {image.name: image} | {tensor.name: tensor for tensor in first.outputs}
    if first.inputs != (image,) or given[IMAGE] != image:
        raise ValueError(f"stage backbone1 must read the image ({image}) and nothing else")
    if given.get(DIFFICULTY) != Tensor(name=DIFFICULTY, dtype="float32", shape=(1,)):
        raise ValueError(f"stage backbone1 has no output {DIFFICULTY!r} of type float32 and shape [1]")
    rows = bundle.nms.max_detections
    for stage in ("head1", "detector2"):
        for tensor in bundle.stages[stage].inputs:
            if tensor != given.get(tensor.name):
                raise ValueError(f"stage {stage} reads {tensor}, which backbone1 does not produce")
        _check_detections({tensor.name: tensor for tensor in bundle.stages[stage].outputs}, stage, rows)


def _check_detections(outputs: Mapping[str, Tensor], stage: str, rows: int) -> None:
    wanted = (
        Tensor(name="num_detections", dtype="int32", shape=(1,)),
        Tensor(name="boxes", dtype="float32", shape=(rows, 4)),
        Tensor(name="scores", dtype="float32", shape=(rows,)),
        Tensor(name="classes", dtype="int32", shape=(rows,)),
    )
    for tensor in wanted:
        if tensor.name not in outputs:
            raise ValueError(f"stage {stage} lacks the output {tensor.name!r}")
        if outputs[tensor.name] != tensor:
            raise ValueError(f"stage {stage} gives {outputs[tensor.name]} instead of {tensor}")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check its description, and the hash and the content of each stage's file.

    Raises InputError if the folder is not a bundle, has another schema version, has a file that was changed or that
    leaves the folder, or has a graph that is not what the description says (see `check_stage`).
    """
    path = folder / FILE_NAME
    if not path.exists():
        raise InputError(f"{printable(folder)} is not a bundle: it has no {FILE_NAME}; `dyndet export` writes one")
    bundle = read_manifest(path)
    for name in STAGES:
        described = bundle.stages[name]
        file = inside(folder, described.file)
        if not file.exists():
            raise InputError(
                f"bundle {printable(folder)} lacks the file {described.file} of stage {name!r}; export it again"
            )
        check_regular(file, advice=_ADVICE, largest=LARGEST_GRAPH)
        if file_sha256(file) != described.sha256:
            raise InputError(
                f"{printable(file)} has changed since it was exported (its SHA-256 differs); export the bundle again"
            )
        check_stage(file, described, opset=bundle.opset)
    return bundle


def check_stage(file: Path, stage: Stage, *, opset: int) -> None:
    """Raise InputError if a file is not a graph with the stage's tensors, or not complete in itself: `check_graph`."""
    from dyndet_builder.bundle.graph_files import check_graph  # onnx takes time to load, and a description needs none

    inputs, outputs = ([str(tensor) for tensor in tensors] for tensors in (stage.inputs, stage.outputs))
    check_graph(file, inputs=inputs, outputs=outputs, opset=opset)


def read_manifest(path: Path) -> Bundle:
    """Read only `bundle.json`. Raises InputError if it is damaged, or if its stages do not fit together."""
    return read_record(path, Bundle, described="a bundle of schema version 1", advice=_ADVICE, largest=_LARGEST)
