"""Encodes requests once for many systems, and reads answers and refusals."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamicdet.aliases import Float32Array, IntArray
from dynamicdet.errors import ServerError
from dynamicdet.text import printable
from dyndet_client.codec import OPERATING_POINT, OUTPUTS

EASY, HARD, DEGRADED = 1, 2, -3
"""values of the output `route`"""

_TYPES: dict[str, Any] = {"FP32": np.float32, "INT32": np.int32}
JSON_LENGTH = struct.Struct("<I")
"""before an answer: how many of its bytes are JSON; the tensors follow"""
_CODE = re.compile(r"dyndet/([a-z-]+):")
_OVERLOADED = "overloaded"
_LONGEST = 300


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


def request_head(system: System, *, model: str, address: str, shape: tuple[int, ...]) -> bytes:
    """What stands before the pixels of one fitted image (H, W, 3) in a request of Triton's HTTP protocol."""
    size = int(np.prod(shape))
    inputs: list[dict[str, Any]] = [
        {"name": "image", "datatype": "UINT8", "shape": [1, *shape], "parameters": {"binary_data_size": size}}
    ]
    if system.threshold is not None:
        inputs.append({"name": "threshold", "datatype": "FP32", "shape": [1, 1], "data": [system.threshold]})
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]
    content: dict[str, Any] = {"inputs": inputs, "outputs": outputs}
    if system.operating_point is not None:
        content["parameters"] = {OPERATING_POINT: system.operating_point}
    encoded = json.dumps(content).encode()
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"Host: {address}",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {len(encoded)}",
        f"Content-Length: {len(encoded) + size}",
    )
    return "\r\n".join((*lines, "", "")).encode() + encoded


def read_answer(encoded: bytes, *, model: str) -> Found:
    """The detections of an answer. Raises ServerError if it is malformed."""
    try:
        tensors = _tensors(encoded)
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
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError, struct.error) as error:
        said = printable(error, limit=_LONGEST)
        raise ServerError(f"model {model!r} gave a malformed answer: {said}") from error


def _tensors(encoded: bytes) -> dict[str, Any]:
    """The outputs by name, flat. The tensors follow the JSON in their order."""
    (of_json,) = JSON_LENGTH.unpack_from(encoded)
    place = JSON_LENGTH.size + of_json
    found = {}
    for output in json.loads(encoded[JSON_LENGTH.size : place])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = np.frombuffer(encoded[place : place + size], _TYPES[output["datatype"]])
        place += size
    return found


def is_refusal(sentence: str) -> bool:
    """Whether an error says that the server has too much to do."""
    found = _CODE.search(sentence)
    return found is not None and found[1] == _OVERLOADED


def is_from_detector(sentence: str) -> bool:
    """Whether an error comes from the model itself, and not from a connection or server that is gone."""
    return _CODE.search(sentence) is not None
