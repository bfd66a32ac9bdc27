"""The bundle: the exported stages and everything that another tool needs to know about them (`bundle.json`).

Bundles come from others, too. So every field has a pattern or a range, and a bundle whose stages do not fit together is
refused as it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from dynamicdet.class_names import check_class_names
from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit
from dynamicdet.masks import SIDE as MASK_SIDE
from dynamicdet.records import (
    Name,
    Record,
    Text,
    Version,
    check_regular,
    inside,
    read_record,
)
from dynamicdet.text import printable
from dyndet_builder.bundle.parts import (
    ALL_STAGES,
    DETECTION_OUTPUTS,
    DIFFICULTY,
    IMAGE,
    LARGEST_SIDE,
    MASKS,
    OWN,
    PAIR_STAGES,
    STAGES,
    AdapterCheck,
    AveragePrecision,
    Detector,
    Difference,
    Nms,
    Opset,
    Parity,
    Picture,
    Quantization,
    Resizing,
    Router,
    Source,
    Stage,
    StageName,
    Tensor,
    Tensors,
    TwoStage,
    without_absent,
)
from dyndet_builder.bundle.spec import Precision

__all__ = [
    "ALL_STAGES",
    "DETECTION_OUTPUTS",
    "DIFFICULTY",
    "FILE_NAME",
    "IMAGE",
    "LARGEST_GRAPH",
    "LARGEST_SIDE",
    "MASKS",
    "OWN",
    "PAIR_STAGES",
    "STAGES",
    "AdapterCheck",
    "AveragePrecision",
    "Bundle",
    "Detector",
    "Difference",
    "Nms",
    "Opset",
    "Parity",
    "Picture",
    "Precision",
    "Quantization",
    "Resizing",
    "Router",
    "Source",
    "Stage",
    "StageName",
    "Tensor",
    "Tensors",
    "check_detections",
    "check_stage",
    "file_sha256",
    "read_bundle",
    "read_manifest",
]

FILE_NAME = "bundle.json"
LARGEST_GRAPH = 2 << 30
"""bytes; the format of ONNX files holds no more"""
_LARGEST = 4 << 20
_LAYOUT = "uint8 HWC RGB, letterboxed with 114"
_SMALLEST_SIDE = 32
_STATIC = "static.json"  # see `static.py`
_REPOSITORY = "dyndet.json"  # see `repository/marker.py`
_ADVICE = "export the bundle again with `dyndet export`"


class Bundle(Record):
    """Contents of `bundle.json`. Version 1 knew dynamic detectors alone.

    Masks need no version of their own: readers that do not know them serve the boxes, which are the same.
    """

    schema_version: Literal[1, 2] = 2
    kind: Literal["dynamic", "pair"] = "dynamic"
    name: Name
    architecture: Name | None = Field(default=None, description="of a dynamic detector")
    input_size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] = Field(
        description="side of the square input, the longer one if it is no square, pixels"
    )
    layout: Text = _LAYOUT
    picture: Picture | None = Field(default=None, description="how pictures are fitted; None: as `layout` says")
    class_names: Annotated[tuple[str, ...], AfterValidator(check_class_names)]
    precision: Precision
    opset: Opset
    exporter: Literal["dynamo", "torchscript"] | None = Field(default=None, description="of a dynamic detector")
    stages: dict[StageName, Stage]
    nms: Nms
    two_stage: TwoStage | None = Field(default=None, description="of a two-stage dynamic detector")
    source: Source | None = Field(default=None, description="of a dynamic detector")
    tool_versions: Annotated[dict[Name, Version], Field(max_length=50)]
    parity: Parity | None = Field(default=None, description="of a dynamic detector, and of int8 stages")
    quantization: Quantization | None = Field(default=None, description="only in an int8 bundle")
    router: Router | None = Field(default=None, description="of a pair")
    resizing: Resizing | None = Field(default=None, description="of a pair whose detectors fit pictures differently")

    @property
    def fit(self) -> Fit:
        """How pictures become the public model's input."""
        if self.picture is None:
            return Fit.square(self.input_size)
        return Fit(**self.picture.model_dump())

    @property
    def first(self) -> StageName:
        """The stage that gives the difficulty."""
        return "backbone1" if self.kind == "dynamic" else "detector1"

    @property
    def easy(self) -> StageName | None:
        """The stage that answers easy images after the first one; None: the first one has answered them."""
        return "head1" if self.kind == "dynamic" else None

    @property
    def served(self) -> tuple[StageName, ...]:
        """The stages of a request, in their order. The others, `detector1_own`, serve image files."""
        return STAGES if self.kind == "dynamic" else PAIR_STAGES

    @property
    def has_masks(self) -> bool:
        """Whether both detectors also give a mask of each object."""
        return any(tensor.name == MASKS for tensor in self.stages["detector2"].outputs)

    @property
    def detection_outputs(self) -> tuple[str, ...]:
        """Names of what a detector of the bundle answers to an image."""
        return (*DETECTION_OUTPUTS, MASKS) if self.has_masks else DETECTION_OUTPUTS

    @property
    def answers(self) -> tuple[Tensor, ...]:
        """The outputs that both routes give: `DETECTION_OUTPUTS`, and what a detector adds to them."""
        hard = {tensor.name: tensor for tensor in self.stages["detector2"].outputs}
        easy = self.stages[self.easy or self.first].outputs
        return tuple(tensor for tensor in easy if tensor.name != DIFFICULTY and hard.get(tensor.name) == tensor)

    def opset_of(self, stage: StageName) -> int:
        """The opset of a stage's graph."""
        return self.stages[stage].opset or self.opset

    def precision_of(self, stage: StageName) -> Precision:
        """The precision of a stage's graph; that of a pair's bundle is the lowest of its stages."""
        return self.stages[stage].precision or self.precision

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_absent(write(self), "two_stage")

    @model_validator(mode="after")
    def _check_kind(self) -> Bundle:
        if self.kind == "dynamic":
            lacks = [name for name in ("architecture", "source", "parity", "exporter") if getattr(self, name) is None]
            if self.input_size < _SMALLEST_SIDE or self.input_size % 32:
                raise ValueError(f"input_size must be a multiple of 32 from {_SMALLEST_SIDE} to {LARGEST_SIDE}")
            if self.picture is not None or self.layout != _LAYOUT:
                raise ValueError(f"the images of a dynamic detector are {_LAYOUT}")
            if self.router is not None or self.resizing is not None or any(map(_is_of_a_pair, self.stages.values())):
                raise ValueError("a dynamic bundle describes a part of a pair")
        else:
            lacks = ["router"] if self.router is None else []
            if self.two_stage is not None:
                raise ValueError("a pair describes a part of a two-stage detector")
            if self.schema_version < 2:
                raise ValueError("a pair needs schema version 2")
            if self.resizing is not None and OWN not in self.stages:
                raise ValueError("it tells what resizing costs, but both detectors fit pictures by the same rule")
        if lacks:
            raise ValueError(f"it lacks {lacks[0]!r}")
        return self

    @model_validator(mode="after")
    def _check_stages(self) -> Bundle:
        for stage in self.served:
            if stage not in self.stages:
                raise ValueError(f"it lacks stage {stage!r}; such a bundle has {', '.join(self.served)}")
        allowed = {*self.served, *([OWN] if self.kind == "pair" else [])}
        if foreign := set(self.stages) - allowed:
            raise ValueError(f"it has the stage {min(foreign)!r}, which a {self.kind} bundle has not")
        if len({stage.file for stage in self.stages.values()}) != len(self.stages):
            raise ValueError("two stages have the same file")
        if self.kind == "pair":
            _check_pair(self)
        else:
            _check_wiring(self)
        return self


def _is_of_a_pair(stage: Stage) -> bool:
    return (stage.opset, stage.batch, stage.detector, stage.precision) != (None, "dynamic", None, None)


def _check_pair(bundle: Bundle) -> None:
    """Raise ValueError if the stages of a pair are not what its rule of fitting and its classes need."""
    _check_rules(bundle)
    rows = bundle.nms.max_detections
    for name, stage in bundle.stages.items():
        detector = _detector_of(bundle, name)
        if stage.opset is None:
            raise ValueError(f"stage {name} does not say its opset")
        if len(detector.classes) != len(detector.spec.class_names):
            raise ValueError(f"stage {name} does not map each of its classes")
        if max(detector.classes) >= len(bundle.class_names):
            raise ValueError(f"stage {name} maps a class beyond the {len(bundle.class_names)} class names")
        shape = detector.spec.input.fit.shape if name == OWN else bundle.fit.shape
        image = Tensor(name=IMAGE, dtype="uint8", shape=shape)
        if stage.inputs != (image,):
            raise ValueError(f"stage {name} must read the image ({image}) and nothing else")
        outputs = {tensor.name: tensor for tensor in stage.outputs}
        if name != "detector2" and outputs.get(DIFFICULTY) != Tensor(name=DIFFICULTY, dtype="float32", shape=(1,)):
            raise ValueError(f"stage {name} has no output {DIFFICULTY!r} of type float32 and shape [1]")
        check_detections(outputs, name, rows)
        if MASKS in outputs:
            raise ValueError(f"stage {name} gives {MASKS!r}, which a pair has not")


def _check_rules(bundle: Bundle) -> None:
    """Raise ValueError unless the pictures are fitted for detector 2, and detector 1 has the stages that this needs."""
    fit = bundle.fit
    if bundle.input_size != max(fit.height, fit.width):
        raise ValueError(f"input_size is {bundle.input_size}, but the longer side of the picture {fit.shape[:2]}")
    first, second = (_detector_of(bundle, name) for name in PAIR_STAGES)
    if second.spec.input.fit != fit:
        raise ValueError("the bundle's pictures must be fitted as detector 2 reads them")
    own = bundle.stages.get(OWN)
    if (own is not None) != (first.spec.input.fit != fit):
        raise ValueError(f"it has stage {OWN!r} if, and only if, the two detectors fit pictures by different rules")
    if own is not None and _described(own) != _described(bundle.stages["detector1"]):
        raise ValueError(f"stage {OWN!r} is not the same detector as stage 'detector1'")


def _detector_of(bundle: Bundle, name: StageName) -> Detector:
    detector = bundle.stages[name].detector
    if detector is None:
        raise ValueError(f"stage {name} does not describe its detector")
    return detector


def _described(stage: Stage) -> tuple[object, ...]:
    """What two stages of the same detector have in common."""
    assert stage.detector is not None
    same = stage.detector.model_dump(exclude={"check"})
    return stage.opset, stage.precision, stage.batch, stage.outputs, same


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
        check_detections({tensor.name: tensor for tensor in bundle.stages[stage].outputs}, stage, rows)
    _check_masks(bundle)


def _check_masks(bundle: Bundle) -> None:
    """Raise ValueError unless both detectors give masks, one for each box, or none does."""
    rows = bundle.nms.max_detections
    wanted = Tensor(name=MASKS, dtype="uint8", shape=(rows, MASK_SIDE, MASK_SIDE))
    found = {
        stage: tensor
        for stage in ("head1", "detector2")
        for tensor in bundle.stages[stage].outputs
        if tensor.name == MASKS
    }
    for stage, tensor in found.items():
        if tensor != wanted:
            raise ValueError(f"stage {stage} gives {tensor} instead of {wanted}")
    if len(found) == 1:
        (only,) = found
        raise ValueError(f"only stage {only} gives {MASKS!r}: both detectors must give it, or none")
    if any(tensor.name == MASKS for tensor in bundle.stages["backbone1"].outputs):
        raise ValueError(f"stage backbone1 gives {MASKS!r}, which only a detector can give")


def check_detections(outputs: Mapping[str, Tensor], stage: str, rows: int) -> None:
    """Raise ValueError unless a stage's outputs have `rows` boxes, scores and classes, and their number."""
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
        if (folder / _STATIC).exists():
            raise InputError(
                f"{printable(folder)} is not a bundle: it holds a static detector, which has no router; "
                "`dyndet bench frontier` compares it with a dynamic one"
            )
        if (folder / _REPOSITORY).exists():
            raise InputError(
                f"{printable(folder)} is not a bundle: it is a model repository; give the folder of `dyndet export` "
                "that it was rendered from"
            )
        raise InputError(f"{printable(folder)} is not a bundle: it has no {FILE_NAME}; `dyndet export` writes one")
    bundle = read_manifest(path)
    for name, described in bundle.stages.items():
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
        check_stage(file, described, opset=bundle.opset_of(name))
    return bundle


def check_stage(file: Path, stage: Stage, *, opset: int) -> None:
    """Raise InputError if a file is not a graph with the stage's tensors, or not complete in itself: `check_graph`."""
    from dyndet_builder.bundle.graph_files import check_graph  # onnx takes time to load, and a description needs none

    inputs, outputs = ([str(tensor) for tensor in tensors] for tensors in (stage.inputs, stage.outputs))
    check_graph(file, inputs=inputs, outputs=outputs, opset=opset, batch=1 if stage.batch == "one" else None)


def read_manifest(path: Path) -> Bundle:
    """Read only `bundle.json`. Raises InputError if it is damaged, or if its stages do not fit together."""
    return read_record(path, Bundle, described="a bundle of schema version 1 or 2", advice=_ADVICE, largest=_LARGEST)
