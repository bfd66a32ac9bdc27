"""The demo network's routes as plain graphs: float pictures RGB 0..1 to decoded rows."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import onnx
import torch
from filelock import FileLock
from onnx import version_converter
from torch import Tensor, nn

import dynamicdet
from dynamicdet.networks.network import DynamicDetector, Route

CHECKPOINT = Path(__file__).parents[3] / "benchmarks" / "demo" / "dy-yolov7-pico-cutpaste.safetensors"
STRIDES = (8, 16, 32)
ANCHORS = 3
CLASS_NAMES = ("animal", "fish", "food", "flower", "vehicle", "sign")
"""of the demo network"""
VALUES = 4 + 1 + len(CLASS_NAMES)
"""of a row: cx cy w h objectness class..."""
_NEWEST = 20  # of the exporter below; onnx converts its graphs further up, which is safe, unlike further down


@cache
def network() -> DynamicDetector:
    """The demo network, fused."""
    return dynamicdet.load(CHECKPOINT).deploy()


class _Rows(nn.Module):
    """Pictures (B, 3, H, W) to rows (B, N, 5 + classes). With half weights, decoding is in single precision."""

    def __init__(self, model: DynamicDetector, route: Route) -> None:
        super().__init__()
        self.model, self.route = model, route

    def forward(self, pictures: Tensor) -> Tensor:
        features = self.model.features(pictures)
        maps = self.model.head1(features) if self.route == "easy" else self.model.detector2(pictures, features)
        return self.model.decode([one.float() for one in maps])


@cache
def _exported(route: Route, size: tuple[int, int], opset: int, half: bool) -> onnx.ModelProto:
    """The graph, exported by one of the test processes, where they share a folder."""
    shared = os.environ.get("DYNDET_TEST_FOLDER")
    if not shared:
        return _export(route, size, opset, half)
    file = Path(shared) / f"core-{route}-{size[0]}x{size[1]}-{opset}-{half}.onnx"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            onnx.save(_export(route, size, opset, half), f"{file}.part")
            Path(f"{file}.part").replace(file)
        return onnx.load(file)


def _export(route: Route, size: tuple[int, int], opset: int, half: bool) -> onnx.ModelProto:
    model = network()
    if half:
        model = model.deploy().half()
        model.anchors = model.anchors.float()
    file = io.BytesIO()
    pictures = torch.zeros(2, 3, *size, dtype=torch.float16 if half else torch.float32)
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            _Rows(model, route),
            (pictures,),
            file,
            dynamo=False,
            opset_version=min(opset, _NEWEST),
            input_names=["pictures"],
            output_names=["rows"],
            dynamic_axes={"pictures": {0: "batch"}, "rows": {0: "batch"}},
        )
    exported = onnx.load_from_string(file.getvalue())
    return exported if opset <= _NEWEST else version_converter.convert_version(exported, opset)


def core(route: Route, size: tuple[int, int], *, opset: int = 18, half: bool = False) -> onnx.ModelProto:
    """A copy of the route's graph at an input size (height, width): `pictures` to `rows`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(_exported(route, size, opset, half))
    return copy


def rows_of(size: tuple[int, int]) -> int:
    """Number of rows at an input size."""
    return ANCHORS * sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes about deprecation and tracing."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        yield
