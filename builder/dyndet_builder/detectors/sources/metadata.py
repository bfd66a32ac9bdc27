"""What an ONNX file's own metadata say: Ultralytics, YOLOv5 and v9, LibreYOLO and LightlyTrain write some."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.detectors.facts import GraphFacts
from dyndet_builder.detectors.layers import Classes, Layer
from dyndet_builder.detectors.sources.class_lists import classes_of_text
from dyndet_builder.detectors.sources.recipes import RECIPES

_NAMES = ("names", "class_names", "classes")
_NORMALISATION = ("image_normalize", "image_normalization", "normalization", "normalize")
_LIBRE = {
    "yolox": "yolox",
    "yolonas": "yolo-nas",
    "rfdetr": "rf-detr",
    "rtmdet": "rtmdet",
    **dict.fromkeys(("rtdetr", "rtdetrv2", "rtdetrv4", "dfine", "deim"), "rt-detr"),
    **dict.fromkeys(("picodet", "ec"), "rf-detr"),
}
"""recipes of LibreYOLO's model families, by their names in its metadata"""
_LONGEST = 4000


def layer_of_metadata(facts: GraphFacts) -> tuple[Layer, tuple[str, ...]]:
    """What the metadata say, and notes on what of them cannot be read."""
    data = facts.metadata
    notes: list[str] = []
    found = Layer(source="the file's metadata")
    if (name := _maker(facts)) is not None:
        found = replace(RECIPES[name], source=found.source)
    found = replace(found, size=_size(data), licence=_licence(data), classes=_classes(data, notes))
    return _normalised(found, data), tuple(notes)


def _maker(facts: GraphFacts) -> str | None:
    """The recipe of the tool that wrote the metadata, if it is known."""
    data = facts.metadata
    if is_ultralytics(data):
        flat = data.get("description", "").lower().replace("-", "")
        return "ultralytics-rt-detr" if "rtdetr" in flat else "yolo"
    if "model_family" in data:
        return _LIBRE.get(data["model_family"].strip().lower())
    return "yolo" if {"stride", "names"} <= {*data} else None


def is_ultralytics(metadata: Mapping[str, str]) -> bool:
    """Whether Ultralytics' exporter, or a fork of it, wrote the metadata."""
    return "ultralytics" in (metadata.get("author", "") + metadata.get("description", "")).lower()


def _size(data: Mapping[str, str]) -> tuple[int, int] | None:
    if "imgsz_h" in data and "imgsz_w" in data:
        return _pair([_literal(data["imgsz_h"]), _literal(data["imgsz_w"])])
    for key in ("imgsz", "image_size"):
        if key in data:
            return _pair(_literal(data[key]))
    return None


def _pair(value: Any) -> tuple[int, int] | None:
    sides = [value, value] if isinstance(value, int) else value
    if isinstance(sides, list | tuple) and len(sides) == 2 and all(isinstance(one, int) for one in sides):
        return (int(sides[0]), int(sides[1])) if all(8 <= one <= 4096 for one in sides) else None
    return None


def _literal(text: str) -> Any:
    """A value as JSON or Python writes it; None for anything else."""
    try:
        return ast.literal_eval(text) if len(text) <= _LONGEST else None
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _licence(data: Mapping[str, str]) -> str | None:
    text = data.get("license") or data.get("licence")
    return printable(text, limit=200) if text else None


def _classes(data: Mapping[str, str], notes: list[str]) -> Classes | None:
    for key in _NAMES:
        if key in data:
            try:
                return classes_of_text(data[key])
            except (ValueError, InputError) as error:
                notes.append(f"the metadata {key!r} cannot be used: {printable(error, limit=200)}")
    return None


def _normalised(found: Layer, data: Mapping[str, str]) -> Layer:
    """With the mean and standard deviation of LightlyTrain, which are those of pixels in 0..1."""
    for key in _NORMALISATION:
        value = _literal(data[key]) if key in data else None
        if isinstance(value, dict) and {"mean", "std"} <= {*value}:
            mean, std = _three(value["mean"]), _three(value["std"])
            if mean is not None and std is not None and min(std) > 0:
                return replace(found, divide_by=255.0, mean=mean, std=std)
    return found


def _three(value: Any) -> tuple[float, float, float] | None:
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    if not all(isinstance(one, int | float) and abs(one) < 1e6 for one in value):
        return None
    first, second, third = (float(one) for one in value)
    return first, second, third
