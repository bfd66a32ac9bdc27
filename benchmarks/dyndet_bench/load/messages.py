"""Encodes requests once for many systems, and reads answers and refusals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from dynamicdet.aliases import Float32Array, IntArray, UInt8Array
from dynamicdet.errors import ServerError
from dyndet_client.codec import OPERATING_POINT, OUTPUTS

EASY, HARD, DEGRADED = 1, 2, -3
"""values of the output `route`"""

_TYPES: dict[str, Any] = {"FP32": np.float32, "INT32": np.int32}
_CODE = re.compile(r"dyndet/([a-z-]+):")
_OVERLOADED = "overloaded"


@dataclass(frozen=True, kw_only=True)
class System:
    """A way to decide the route: the threshold of each request, or an operating point that follows the load."""

    name: str
    threshold: float | None = None
    """sent with every request, so that nothing follows the load; None: the operating point decides"""
    operating_point: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """The detections of one answer, boxes (n, 4) as x1 y1 x2 y2 in pixels of the fitted image."""

    boxes: Float32Array
    scores: Float32Array
    classes: IntArray
    difficulty: float
    route: int


def image_message(model: str, image: UInt8Array) -> bytes:
    """A request for one fitted image (H, W, 3), to which `system_message` is appended."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="image", datatype="UINT8", shape=[1, *image.shape])
    request.raw_input_contents.append(image.tobytes())
    for name in OUTPUTS:
        request.outputs.add(name=name)
    encoded: bytes = request.SerializeToString()
    return encoded


def system_message(system: System) -> bytes:
    """What a system adds to a request. Two encoded messages, one after the other, are one with the fields of both."""
    request = service_pb2.ModelInferRequest()
    if system.threshold is not None:
        request.inputs.add(name="threshold", datatype="FP32", shape=[1, 1])
        request.raw_input_contents.append(np.float32(system.threshold).tobytes())
    if system.operating_point is not None:
        request.parameters[OPERATING_POINT].string_param = system.operating_point
    encoded: bytes = request.SerializeToString()
    return encoded


def read_answer(encoded: bytes, *, model: str) -> Found:
    """The detections of an answer. Raises ServerError if it is malformed."""
    response = service_pb2.ModelInferResponse.FromString(encoded)
    try:
        tensors = {
            output.name: np.frombuffer(raw, _TYPES[output.datatype])
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }
        count = int(tensors["num_detections"][0])
        boxes = tensors["boxes"].reshape(-1, 4)
        if not 0 <= count <= len(boxes):
            raise ValueError(f"{count} detections in {len(boxes)} rows")
        return Found(
            boxes=boxes[:count],
            scores=tensors["scores"][:count],
            classes=tensors["classes"][:count].astype(np.int64),
            difficulty=float(tensors["difficulty"][0]),
            route=int(tensors["route"][0]),
        )
    except (IndexError, KeyError, ValueError) as error:
        raise ServerError(f"model {model!r} gave a malformed answer: {error}") from error


def is_refusal(sentence: str) -> bool:
    """Whether an error says that the server has too much to do."""
    found = _CODE.search(sentence)
    return found is not None and found[1] == _OVERLOADED


def is_from_detector(sentence: str) -> bool:
    """Whether an error comes from the model itself, and not from a connection or server that is gone."""
    return _CODE.search(sentence) is not None
