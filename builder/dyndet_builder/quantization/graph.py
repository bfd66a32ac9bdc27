"""One stage's graph in int8 with explicit Q/DQ pairs, as TensorRT wants them.

Activations are symmetric, weights are symmetric per output channel, biases stay in fp32. Only convolutions are
quantized: TensorRT and ONNX Runtime move the pairs over the layers between two convolutions. The router's convolutions
stay in fp32. So do the last convolutions of a detector, which give boxes and scores, and decoding and suppression.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from dyndet_builder.bundle.runner import Tensors

PERCENTILE = 99.99
"""Values beyond it saturate. With the largest value instead, the demo model lost 1.3 AP on the hard route."""
CHUNK = 2
"""images with activations in memory at the same time; the number of calibration images is a multiple of it"""
_DIFFICULTY = "difficulty"
_SAMPLING = {"RoiAlign", "GridSample"}
"""operators that read their first input at the places that the others say"""


@dataclass(frozen=True)
class Counts:
    """The number of convolutions in a graph, and of quantized ones."""

    convolutions: int
    quantized: int


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    """Inputs of a stage, a few images at a time."""

    def __init__(self, feeds: Sequence[Tensors]) -> None:
        self._feeds = feeds
        self.set_range(0, len(feeds))

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Set the range that `get_next` returns from now on."""
        self._left = iter(self._feeds[start_index:end_index])

    def get_next(self) -> Tensors | None:
        """The next image's inputs."""
        return next(self._left, None)


def quantize_graph(source: Path, target: Path, feeds: Sequence[Tensors]) -> Counts:
    """Write the int8 form of a stage's graph. `feeds`: its inputs for each calibration image, a multiple of `CHUNK`."""
    model = onnx.load(source)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    kept = _router(model) | _last_convolutions(model)
    chosen = [name for name in convolutions if name not in kept]
    with _quiet():
        quantize_static(
            source,
            target,
            _Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,  # TensorRT has no int32 biases
                "OpTypesToExcludeOutputQuantization": ["Conv"],  # a pair before each convolution is enough
                "CalibPercentile": PERCENTILE,
                "CalibStridedMinMax": CHUNK,
            },
        )
    return Counts(len(convolutions), len(chosen))


def _router(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that only the difficulty needs."""
    outputs = [value.name for value in model.graph.output]
    if _DIFFICULTY not in outputs:
        return set()
    features = _needed(model, {name for name in outputs if name != _DIFFICULTY})
    return _needed(model, {_DIFFICULTY}) - features


def _needed(model: onnx.ModelProto, tensors: set[str]) -> set[str]:
    """Names of the nodes that the tensors depend on; a graph's nodes are in order."""
    wanted, found = set(tensors), set[str]()
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.add(node.name)
    return found


def _last_convolutions(model: onnx.ModelProto) -> set[str]:
    """In a graph that ends in detections: the convolutions that no other one reads, directly or indirectly.

    Where features of boxes are read, the boxes do not count: what found them gave boxes and scores.
    """
    if not any(node.op_type == "TopK" for node in model.graph.node):
        return set()
    read: set[str] = set()  # tensors that some convolution depends on
    found: set[str] = set()
    for node in reversed(model.graph.node):
        reaches = bool(read.intersection(node.output))
        if node.op_type == "Conv" and not reaches:
            found.add(node.name)
        if reaches or node.op_type == "Conv":
            read.update(node.input[:1] if node.op_type in _SAMPLING else node.input)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Hide the quantizer's output: it advises to simplify a graph that is already simple."""
    with contextlib.redirect_stdout(io.StringIO()):
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
