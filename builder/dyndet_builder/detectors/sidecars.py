"""What files beside an ONNX file say: those of Hugging Face, PaddleDetection, mmdeploy, Roboflow and TAO.

A file counts only where the graph has the form of its maker, since a folder can hold several detectors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from dynamicdet.errors import InputError
from dynamicdet.letterbox import Filter
from dynamicdet.records import UNREADABLE, Positive, read_bytes, read_record, reason_of
from dynamicdet.text import printable
from dyndet_builder.detectors.facts import GraphFacts
from dyndet_builder.detectors.layers import Classes, Layer
from dyndet_builder.detectors.sources.class_lists import classes_of, classes_of_file
from dyndet_builder.detectors.sources.yaml_files import yaml_of

_LARGEST = 4 << 20
_ADVICE = "repair or move it, or describe the detector with `--input-spec`"
_SIGMOIDS = {"rt_detr", "rt_detr_v2", "d_fine", "deformable_detr", "conditional_detr", "rf_detr", "dab-detr"}
_SOFTMAXES = {"detr", "yolos", "table-transformer"}
_FILTERS: dict[int, Filter] = {2: "antialias", 3: "cubic"}  # Pillow's numbers, as Hugging Face stores them

Side = Annotated[int, Field(ge=1, le=16_384)]
Grey = Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]
Three = Annotated[tuple[Grey, Grey, Grey], Field(strict=False)]
Above = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Stds = Annotated[tuple[Above, Above, Above], Field(strict=False)]


class _Foreign(BaseModel):
    """A part of a file of another program: only known keys are looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Sides(_Foreign):
    height: Side | None = None
    width: Side | None = None
    shortest_edge: Side | None = None


class _Preprocessor(_Foreign):
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    size: _Sides | None = None
    rescale_factor: Positive = 1 / 255
    image_mean: Three | None = None
    image_std: Stds | None = None
    resample: int = 2


class _Config(_Foreign):
    model_type: str = ""
    id2label: dict[str, str] | None = None


class _Resizing(_Foreign):
    height: Side
    width: Side


class _NetworkInput(_Foreign):
    training_input_size: _Resizing | None = None
    color_mode: Literal["rgb", "bgr"]
    resize_mode: str
    padding_value: Annotated[int, Field(ge=0, le=255)] | None = None
    scaling_factor: Positive | None = None
    normalization: tuple[Three, Stds] | None = None


class _InferenceConfig(_Foreign):
    network_input: _NetworkInput


class _Step(_Foreign):
    """A step of a pipeline, of PaddleDetection or of mmdeploy."""

    type: str
    keep_ratio: bool = False
    interp: int = 1
    is_scale: bool = True
    norm_type: str = "mean_std"
    mean: Three | None = None
    std: Stds | None = None
    to_rgb: bool = True


class _InferConfig(_Foreign):
    preprocess: tuple[_Step, ...] = Field(alias="Preprocess", max_length=50)
    label_list: Annotated[tuple[str, ...], Field(max_length=1000)] = ()


class _Task(_Foreign):
    transforms: Annotated[tuple[_Step, ...], Field(max_length=50)] = ()


class _Tasks(_Foreign):
    tasks: Annotated[tuple[_Task, ...], Field(max_length=20)]


class _Pipeline(_Foreign):
    pipeline: _Tasks


def sidecar_layers(path: Path, facts: GraphFacts) -> tuple[Layer, ...]:
    """What the files beside an ONNX file say, each as a layer.

    Raises InputError, in one sentence, if such a file is damaged.
    """
    outputs = {one.name.lower() for one in facts.outputs}
    inputs = {one.name.lower() for one in facts.inputs}
    folder = path.parent
    makers: list[Callable[[Path], Iterator[Layer]]] = [_roboflow]
    if "pixel_values" in inputs or {"logits", "pred_boxes"} <= outputs:
        makers.append(_hugging_face)
    if {"scale_factor", "im_shape"} & inputs or "image" in inputs:
        makers.append(_paddle)
    if {"dets", "labels"} <= outputs:
        makers.append(_mmdeploy)
    if {"pred_logits", "pred_boxes"} <= outputs:
        makers.append(_tao)
    return tuple(layer for maker in makers for layer in maker(folder))


Read = TypeVar("Read", bound=BaseModel)


def _json(path: Path, kind: type[Read]) -> Read | None:
    if not path.exists():
        return None
    return read_record(path, kind, described="a file of its kind", advice=_ADVICE, largest=_LARGEST)


def _hugging_face(folder: Path) -> Iterator[Layer]:
    places = [folder, folder.parent] if folder.name == "onnx" else [folder]
    names = ("config.json", "preprocessor_config.json")
    place = next((one for one in places if any((one / name).exists() for name in names)), None)
    if place is None:
        return
    config = _json(place / "config.json", _Config)
    if config is not None:
        kind = config.model_type
        is_known = kind in _SIGMOIDS | _SOFTMAXES
        yield Layer(
            source="config.json",
            classes=None if config.id2label is None else _classes(place / "config.json", config.id2label),
            activation=None if not is_known else "sigmoid" if kind in _SIGMOIDS else "softmax",
            background=None if not is_known else "none" if kind in _SIGMOIDS else "last",
        )
    prepared = _json(place / "preprocessor_config.json", _Preprocessor)
    if prepared is not None:
        yield _prepared(prepared)


def _prepared(found: _Preprocessor) -> Layer:
    sides = found.size
    # With a shortest edge, pictures have several sizes: which single one to use is a question.
    fixed = sides is not None and sides.height is not None and sides.width is not None and found.do_resize
    normalises = found.do_normalize and found.image_mean is not None and found.image_std is not None
    factor = 1 / found.rescale_factor if found.do_rescale else 1.0
    return Layer(
        source="preprocessor_config.json",
        size=(sides.height or 0, sides.width or 0) if fixed and sides is not None else None,
        colour="RGB",
        divide_by=round(factor) if math.isclose(factor, round(factor), rel_tol=1e-4) else factor,
        mean=found.image_mean if normalises else (0.0, 0.0, 0.0),
        std=found.image_std if normalises else (1.0, 1.0, 1.0),
        resize="stretch" if fixed else None,
        filter=_FILTERS.get(found.resample),
    )


def _roboflow(folder: Path) -> Iterator[Layer]:
    found = _json(folder / "inference_config.json", _InferenceConfig)
    if found is None:
        return
    given = found.network_input
    size, mode = given.training_input_size, given.resize_mode
    mean, std = given.normalization or ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    yield Layer(
        source="inference_config.json",
        size=None if size is None else (size.height, size.width),
        colour="RGB" if given.color_mode == "rgb" else "BGR",
        divide_by=given.scaling_factor or 1.0,
        mean=mean,
        std=std,
        resize="stretch" if mode == "stretch" else "letterbox" if mode == "letterbox" else None,
        place="centre" if mode == "letterbox" else None,
        pad=given.padding_value if mode == "letterbox" else None,
    )
    names = folder / "class_names.txt"
    if names.exists():
        yield Layer(source="class_names.txt", classes=classes_of_file(names))


def _paddle(folder: Path) -> Iterator[Layer]:
    path = folder / "infer_cfg.yml"
    if not path.exists():
        return
    try:
        content: Any = yaml_of(read_bytes(path, advice=_ADVICE, largest=_LARGEST))
        found = _InferConfig.model_validate_json(json.dumps(content, default=str))
    except UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{printable(path)} is not a file of its kind: {reason_of(error)}; {_ADVICE}") from error
    steps = {one.type: one for one in found.preprocess}
    resize, scaled = steps.get("Resize"), steps.get("NormalizeImage")
    has_mean = scaled is not None and scaled.norm_type == "mean_std"
    yield Layer(
        source="infer_cfg.yml",
        colour="RGB",
        divide_by=None if scaled is None else 255.0 if scaled.is_scale else 1.0,
        mean=scaled.mean if has_mean and scaled is not None else None,
        std=scaled.std if has_mean and scaled is not None else None,
        resize=None if resize is None or resize.keep_ratio else "stretch",
        filter=None if resize is None else "cubic" if resize.interp == 2 else "linear",
        classes=_classes(path, list(found.label_list)) if found.label_list else None,
    )


def _mmdeploy(folder: Path) -> Iterator[Layer]:
    found = _json(folder / "pipeline.json", _Pipeline)
    if found is None:
        return
    steps = {step.type: step for task in found.pipeline.tasks for step in task.transforms}
    resize, scaled = steps.get("Resize"), steps.get("Normalize")
    keeps = resize is not None and resize.keep_ratio
    yield Layer(
        source="pipeline.json",
        colour=None if scaled is None else "RGB" if scaled.to_rgb else "BGR",
        divide_by=None if scaled is None else 1.0,
        mean=None if scaled is None else scaled.mean,
        std=None if scaled is None else scaled.std,
        resize=None if resize is None else "letterbox" if keeps else "stretch",
        place="top-left" if keeps else None,
    )


def _tao(folder: Path) -> Iterator[Layer]:
    path = folder / "labels.txt"
    if path.exists():
        yield Layer(source="labels.txt", classes=classes_of_file(path))


def _classes(path: Path, names: Any) -> Classes:
    try:
        return classes_of(names)
    except ValueError as error:
        reason = printable(error, limit=200)
        raise InputError(f"{printable(path)} holds no list of classes: {reason}; {_ADVICE}") from error
