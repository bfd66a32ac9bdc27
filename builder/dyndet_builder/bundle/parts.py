"""The parts of a bundle's description: its stages, their tensors and detectors, and what was measured."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from dynamicdet.letterbox import Filter, Place, Resize
from dynamicdet.records import Count, FileName, Finite, Name, NotNegative, Ordinal, Record, Sha256, Share, Text
from dyndet_builder.bundle.spec import DetectorSpec, Precision

StageName = Literal["backbone1", "head1", "detector1", "detector1_own", "detector2"]
STAGES: tuple[StageName, ...] = ("backbone1", "head1", "detector2")
"""of a dynamic detector"""
PAIR_STAGES: tuple[StageName, ...] = ("detector1", "detector2")
"""of a pair of detectors that share nothing"""
Target = Literal["onnxruntime", "tensorrt"]
"""what runs the graphs of a two-stage detector: the form in which they read features of boxes depends on it"""
OWN: StageName = "detector1_own"
"""detector 1 for pictures that its own rule fitted; of a pair whose detectors fit pictures by different rules"""
ALL_STAGES: tuple[StageName, ...] = ("backbone1", "head1", "detector1", OWN, "detector2")

IMAGE, DIFFICULTY = "image", "difficulty"
DETECTION_OUTPUTS = ("num_detections", "boxes", "scores", "classes")
MASKS = "masks"
"""one more output of detectors that give the shape of each object: uint8 [max_detections, 28, 28], rows as `boxes`"""

LARGEST_SIDE = 4096
"""of an input, pixels"""
_MOST_ELEMENTS = 1 << 30


def without_absent(content: dict[str, Any], *names: str) -> dict[str, Any]:
    """A record's content without these keys where they are None: files that need them not stay as they were."""
    return {name: value for name, value in content.items() if value is not None or name not in names}


def _checked_in_files(value: float, info: ValidationInfo) -> float:
    if info.mode == "json" and not 0 <= value <= 1e12:
        raise ValueError("the number must be finite and not below 0")
    return value


Difference = Annotated[float, Field(allow_inf_nan=True), AfterValidator(_checked_in_files)]
"""a largest difference; NaN if an answer was NaN, which `check_parity` refuses before a file is written"""
Side = Annotated[int, Field(ge=1, le=1 << 20)]
Tensors = Annotated[tuple["Tensor", ...], Field(min_length=1, max_length=64)]
Opset = Annotated[int, Field(ge=7, le=30)]


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


class Source(Record):
    """Where the weights came from."""

    checkpoint: Text = Field(description="file name, without its folder")
    sha256: Sha256


class AdapterCheck(Record):
    """Largest differences between the graph of a stage and the detector's own file with numpy before and after it."""

    images: Count = Field(description="number of real images compared")
    batch_sizes: Annotated[tuple[Ordinal, ...], Field(max_length=20)]
    box_px: Difference = Field(description="largest box coordinate difference, pixels of the detector's input")
    score: Difference


class Detector(Record):
    """The detector of others inside a stage of a pair."""

    spec: DetectorSpec
    source: Source
    classes: Annotated[tuple[Annotated[int, Field(ge=-1, le=999)], ...], Field(max_length=1000)] = Field(
        description="number in the bundle's class names of each class of the detector; -1: its objects are left out"
    )
    calibration: Annotated[tuple[tuple[Share, Share], ...], Field(max_length=64)] = Field(
        default=(), description="its scores, ascending, and what the stage gives instead, linear between; empty: as is"
    )
    check: AdapterCheck

    @field_validator("calibration")
    @classmethod
    def _check_calibration(cls, table: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        for (score, given), (later, more) in itertools.pairwise(table):
            if not score < later or not given <= more:
                raise ValueError("calibrated scores must rise with the detector's scores, which must be in order")
        return table


class Router(Record):
    """The router of a pair, which lives in the graph of detector 1."""

    kind: Name = Field(description="`learned`, or the name of the free rule that was not beaten")
    images: Count = Field(description="pictures that it was fitted on")
    by_labels: bool = Field(description="whether labels said what detector 2 gains, or its own answers stood for them")
    kept_gain: Annotated[dict[Name, Finite], Field(max_length=20)] = Field(
        default_factory=dict, description="share of the gain kept on pictures that did not train it, by hard share"
    )
    cost: Finite | None = Field(default=None, description="its time, as a share of that of detector 1")


class Picture(Record):
    """The rule by which the public model's pictures are fitted; see `Fit`."""

    height: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
    width: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
    resize: Resize = "letterbox"
    place: Place = "centre"
    pad: Annotated[int, Field(ge=0, le=255)] = 114
    filter: Filter = "antialias"


class Stage(Record):
    """One exported network and its file inside the bundle."""

    file: FileName
    sha256: Sha256
    inputs: Tensors
    outputs: Tensors
    opset: Opset | None = Field(default=None, description="only in a pair, whose files keep the opset of their makers")
    batch: Literal["dynamic", "one"] = Field(default="dynamic", description="`one`: it takes one image at a time")
    detector: Detector | None = Field(default=None, description="only in a pair")
    precision: Precision | None = Field(default=None, description="in a pair, whose files can differ in it")

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


class TwoStage(Record):
    """How the graphs of a two-stage detector get their proposals: per level, then of all levels."""

    target: Target = Field(description="what runs the graphs; TensorRT has no RoiAlign without a plugin")
    per_level: Annotated[int, Field(ge=1, le=1_000_000)] = Field(description="best regions that enter the suppression")
    proposals: Annotated[int, Field(ge=1, le=1_000_000)] = Field(description="most that stay")
    iou_threshold: Share


class TwoStageParity(Record):
    """Largest differences in the steps of a two-stage detector before its boxes and scores, and those of its masks."""

    region_box_px: Difference = Field(description="of all regions, pixels of the letterboxed image")
    region_score: Difference
    proposal_box_px: Difference = Field(description="of the graph's best regions and the network's of the same rows")
    proposal_score: Difference
    mask_steps: Count = Field(default=0, description="of the 255 of a mask's pixel, in the same box")


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
    two_stage: TwoStageParity | None = Field(default=None, description="of a two-stage detector")

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_absent(write(self), "two_stage")


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
    mask_ap_before: AveragePrecision | None = Field(default=None, description="of a detector that gives masks")
    mask_ap_after: AveragePrecision | None = None


class Resizing(Record):
    """What it costs detector 1 of a pair to read pictures that were fitted for detector 2, as the public model does.

    Both numbers are COCO AP, percent; without labels, the large detector's answers stand for them.
    """

    own: Finite = Field(description="of detector 1 on pictures fitted by its own rule")
    public: Finite = Field(description="of detector 1 on pictures fitted by the bundle's rule")
    images: Count
    by_labels: bool
