"""The bundle: the exported stages and everything that another tool needs to know about them (`bundle.json`)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicdet.errors import InputError

FILE_NAME = "bundle.json"
StageName = Literal["backbone1", "head1", "detector2"]
STAGES: tuple[StageName, ...] = ("backbone1", "head1", "detector2")
Precision = Literal["fp32", "fp16", "int8"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tensor(_Record):
    """A stage's input or output. `shape` leaves the batch dimension out; every dimension is static."""

    name: str
    dtype: Literal["uint8", "int32", "float16", "float32"]
    shape: tuple[int, ...]


class Stage(_Record):
    """One exported network and its file inside the bundle."""

    file: str
    sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Nms(_Record):
    """Suppression inside the graphs, per class: of `pre_top_k` best candidates, at most `max_detections` stay."""

    iou_threshold: float = 0.65
    score_floor: float = 0.001
    pre_top_k: int = 1000
    max_detections: int = 100


class Parity(_Record):
    """Largest differences between the exported graphs and the PyTorch network on real images.

    In an int8 bundle: between its graphs and those of the fp32 bundle; see `Quantization`.
    """

    images: int = Field(description="number of real images compared")
    batch_sizes: tuple[int, ...]
    box_px: float = Field(description="largest box coordinate difference, pixels of the letterboxed image")
    score: float
    difficulty: float
    route_flip_share: float = Field(description="share of images that change their route at a tested threshold")
    route_images: int = Field(default=0, description="number of images for route_flip_share; 0: the same as `images`")
    route_thresholds: tuple[float, ...] = Field(default=(), description="the given ones; empty: the images' deciles")
    suppression_differences: int = Field(
        default=0, description="images where graph and plain suppression kept different candidates"
    )


class AveragePrecision(_Record):
    """COCO AP of both routes, percent."""

    easy: float
    hard: float


class Quantization(_Record):
    """How an int8 bundle was made from an fp32 one, and the cost on images that did not calibrate it.

    `parity` of its bundle compares detections with a score of at least `from_score` that overlap by half or more.
    """

    method: str = Field(description="how the ranges of activations were found")
    calibration_images: int
    convolutions: int
    quantized: int = Field(description="number of int8 convolutions; everything else stays fp32")
    source_sha256: str = Field(description="hash of the fp32 bundle's bundle.json")
    from_score: float
    unmatched_share: float = Field(description="share of detections without a match in the other bundle")
    box_px_median: float
    data: str | None = Field(default=None, description="data set of the average precision")
    ap_before: AveragePrecision | None = None
    ap_after: AveragePrecision | None = None


class Source(_Record):
    """Where the weights came from."""

    checkpoint: str = Field(description="file name, without its folder")
    sha256: str


class Bundle(_Record):
    """Contents of `bundle.json`."""

    schema_version: Literal[1] = 1
    name: str
    architecture: str
    input_size: int = Field(description="side of the square input, pixels")
    layout: Literal["uint8 HWC RGB, letterboxed with 114"] = "uint8 HWC RGB, letterboxed with 114"
    class_names: tuple[str, ...]
    precision: Precision
    opset: int
    exporter: Literal["dynamo", "torchscript"]
    stages: dict[StageName, Stage]
    nms: Nms
    source: Source
    tool_versions: dict[str, str]
    parity: Parity
    quantization: Quantization | None = Field(default=None, description="only in an int8 bundle")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check its schema version and the hash of each stage.

    Raises InputError if the folder is not a bundle, has another schema version, or has a changed file.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise InputError(f"{folder} is not a bundle: it has no {FILE_NAME}; `dyndet export` writes one")
    bundle = read_manifest(path)
    for name in STAGES:
        file = folder / bundle.stages[name].file
        if not file.is_file():
            raise InputError(f"bundle {folder} lacks the file {file.name} of stage {name!r}; export it again")
        if file_sha256(file) != bundle.stages[name].sha256:
            raise InputError(f"{file} has changed since it was exported (its SHA-256 differs); export the bundle again")
    return bundle


def read_manifest(path: Path) -> Bundle:
    """Read only `bundle.json`. Raises InputError if it has another schema version or lacks a stage."""
    try:
        bundle = Bundle.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} does not describe a bundle of schema version 1: {where}: {first['msg']}") from error
    for name in STAGES:
        if name not in bundle.stages:
            raise InputError(f"{path} lacks stage {name!r}; a bundle has {', '.join(STAGES)}")
    return bundle
