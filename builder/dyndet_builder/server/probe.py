"""Small inferences that tell whether a detector still answers. Their parameter keeps them out of its metrics."""

from __future__ import annotations

import io
import math
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD
from dyndet_builder.server.api import TritonApi
from dyndet_client.codec import ServedModel

PARAMETER = "dyndet_probe"
"""request parameter of a probe: answered as usual, but not counted in the metrics `dyndet_*`"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What one probe asks: an empty picture of a model, sent down one route."""

    model: str
    threshold: float
    input: Mapping[str, Any]
    """Triton's description of the input with the picture"""
    tensor: bytes

    @property
    def request(self) -> dict[str, Any]:
        """Triton's request, without the bytes of the picture."""
        picture = {**self.input, "parameters": {"binary_data_size": len(self.tensor)}}
        threshold = {"name": "threshold", "shape": [1, 1], "datatype": "FP32", "data": [self.threshold]}
        return {
            "inputs": [picture, threshold],
            "outputs": [{"name": "num_detections"}],
            "parameters": {PARAMETER: True},
        }


def questions(detector: ServedModel, encoded: Sequence[str] = ()) -> tuple[Question, ...]:
    """One for each route of a detector, and one for each of its models that take image files."""
    shape = detector.fit.shape
    empty = {"name": "image", "shape": [1, *shape], "datatype": "UINT8"}
    file = {"name": "image_bytes", "shape": [1, 1], "datatype": "BYTES"}
    png = _empty_png()
    return (
        *(
            Question(model=detector.name, threshold=threshold, input=empty, tensor=bytes(math.prod(shape)))
            for threshold in (ALL_EASY, ALL_HARD)
        ),
        *(
            Question(model=name, threshold=ALL_EASY, input=file, tensor=struct.pack("<I", len(png)) + png)
            for name in encoded
        ),
    )


class Probe:
    """A question on its way; it never blocks the one who asks. Given up after `timeout_s`."""

    def __init__(self, api: TritonApi, question: Question, *, timeout_s: float) -> None:
        self.question = question
        self.answered = False
        """whether any answer arrived, an error too"""
        self.refused = False
        """whether the answer was that there is no room or no readiness for a request"""
        self.error: str | None = None
        """the answer, if it was another error"""
        self.ended = False
        self.took_s = 0.0
        self._api, self._timeout_s = api, timeout_s
        threading.Thread(target=self._send, name="probe", daemon=True).start()

    def _send(self) -> None:
        started = time.monotonic()
        asked = self.question
        try:
            status, reason = self._api.infer(asked.model, asked.request, asked.tensor, timeout_s=self._timeout_s)
            self.refused = status == 503
            self.error = reason if status not in (200, 503) else None
            self.answered = True
        except OSError:
            pass
        finally:
            self.took_s = time.monotonic() - started
            self.ended = True


def _empty_png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()
