"""Answers image files: decodes and letterboxes them, calls the detector (Triton BLS), and maps its boxes back.

Decoding and letterbox are the client's own code, in `dynamicdet/` beside this file. Needs numpy, Pillow, simplejpeg
(without it, Pillow decodes JPEGs, more slowly) and Triton's own module.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))

try:
    from PIL import Image
except ModuleNotFoundError as error:
    raise RuntimeError(
        "decoding images needs Pillow, which is not installed for this server; "
        "`python3 -m pip install pillow simplejpeg` installs it and the fast JPEG decoder"
    ) from error

from arrivals import SENT, Arrivals  # type: ignore[import-not-found]
from counting import CountingThread, FailedRequests  # type: ignore[import-not-found]
from pictures import fit_picture, simplejpeg  # type: ignore[import-not-found]
from refusals import RequestError, error_of_call  # type: ignore[import-not-found]
from threads import map_all  # type: ignore[import-not-found]
from tracing import Tracing, request_span, work_span  # type: ignore[import-not-found]
from waiting import Waiting  # type: ignore[import-not-found]

from dynamicdet.errors import InputError, PictureTooLargeError
from dynamicdet.letterbox import Letterboxed

_COUNT, _BOXES, _IMAGE_SIZE = "num_detections", "boxes", "image_size"
_OWN_PARAMETERS, _PROBE = "dyndet_", "dyndet_probe"


class TritonPythonModel:
    """Takes image files and returns boxes in pixels of the original images."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the detector's name and size from the configuration, and decode once."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._detector = parameters["dyndet_detector"]
        self._side = int(parameters["dyndet_input_size"])
        # The detector's boxes are small and are read here.
        self._memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)
        # Two pools: a request that waits for its images must not take the threads that they need. Decoding occupies a
        # core and holds large images in memory, so it gets one thread per core, whatever the batch size.
        self._request_pool = ThreadPoolExecutor(int(config["max_batch_size"]), "request")
        self._picture_pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "picture")
        if simplejpeg is None:
            pb_utils.Logger.log_warn("simplejpeg is not installed: Pillow decodes JPEGs, up to 3 times slower")
        self._fit(_small_jpeg())
        self._arrivals = Arrivals()
        self._failed = FailedRequests(args["model_name"])
        self._counting = CountingThread(self._failed)
        self.tracing = Tracing(args["model_name"], pb_utils.Logger.log_warn)

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer requests at the same time, each as soon as it is ready; none waits for the others of the same call."""
        asked = [self._asked(request) for request in requests]
        if len(asked) == 1:  # faster without another thread
            self._answer(asked[0])
        else:
            list(self._request_pool.map(self._answer, asked))
        self._arrivals.free()

    def finalize(self) -> None:
        """Stop the threads, and wait until everything is counted."""
        self._request_pool.shutdown()
        self._picture_pool.shutdown()
        self._counting.close()
        self.tracing.close()

    def _asked(self, request: Any) -> _Asked:
        asked = _Asked(request, Waiting(request), json.loads(request.parameters() or "{}"))
        asked.waiting.has_waited(self._arrivals.waited_us(asked.parameters.get(SENT, "")))
        return asked

    @request_span  # type: ignore[untyped-decorator]
    def _answer(self, asked: _Asked) -> None:
        try:
            response = pb_utils.InferenceResponse(output_tensors=self._outputs(asked))
        except Exception as error:
            response = self._failure(asked, error)
        asked.request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _failure(self, asked: _Asked, error: Exception) -> Any:
        """The response to a request that failed, and count it, unless it is a probe or the detector has counted it."""
        refusal: Any = error
        if not isinstance(error, RequestError):
            refusal = RequestError("internal-error", f"answering the images failed: {type(error).__name__}: {error}")
            pb_utils.Logger.log_warn(refusal.sentence)
        if not (refusal.was_counted or asked.parameters.get(_PROBE)):
            self._counting.later(lambda: self._failed.count(refusal.reason))
        sent = pb_utils.TritonError(str(refusal), getattr(pb_utils.TritonError, refusal.status))
        return pb_utils.InferenceResponse(error=sent)

    def _outputs(self, asked: _Asked) -> list[Any]:
        """The outputs that a request wants."""
        wanted = set(asked.request.requested_output_names())
        files = pb_utils.get_input_tensor_by_name(asked.request, "image_bytes")
        if files is None:  # Triton accepts a request that has only the optional input
            raise RequestError("missing-input", "the input image_bytes is missing")
        boxed = self._letterboxed(asked, files.as_numpy().reshape(-1))
        tensors = self._detect(asked, boxed, wanted - {_IMAGE_SIZE}) if wanted - {_IMAGE_SIZE} else {}
        if _BOXES in wanted:
            counts = tensors[_COUNT].as_numpy().reshape(-1)
            tensors[_BOXES] = pb_utils.Tensor(_BOXES, _to_original(tensors[_BOXES].as_numpy(), counts, boxed))
        if _IMAGE_SIZE in wanted:
            sizes = [(one.original_width, one.original_height) for one in boxed]
            tensors[_IMAGE_SIZE] = pb_utils.Tensor(_IMAGE_SIZE, np.array(sizes, np.int32))
        return [tensor for name, tensor in tensors.items() if name in wanted]

    @work_span("pictures")  # type: ignore[untyped-decorator]
    def _letterboxed(self, asked: _Asked, files: Sequence[bytes]) -> list[Letterboxed]:
        """Images in the network's square; the original pixels are not kept."""
        several = len(files) > 1
        places = [f"image {row} of {len(files)}: " if several else "" for row in range(1, len(files) + 1)]

        def fit(file: bytes, place: str) -> Letterboxed:
            asked.waiting.check()
            return self._fit(file, place)

        boxed: list[Letterboxed] = map_all(self._picture_pool, fit, files, places)
        return boxed

    def _fit(self, file: bytes, place: str = "") -> Letterboxed:
        try:
            found: Letterboxed = fit_picture(file, self._side)
        except InputError as error:
            code = "picture-too-large" if isinstance(error, PictureTooLargeError) else "bad-picture"
            raise RequestError(code, f"{place}{error}") from error
        return found

    def _detect(self, asked: _Asked, boxed: Sequence[Letterboxed], wanted: set[str]) -> dict[str, Any]:
        """The detector's own answer to all images of a request, in one call."""
        asked.waiting.check()
        images = pb_utils.Tensor("image", np.stack([one.image for one in boxed]))
        threshold = pb_utils.get_input_tensor_by_name(asked.request, "threshold")
        own = {key: value for key, value in asked.parameters.items() if key.startswith(_OWN_PARAMETERS)}
        response = pb_utils.InferenceRequest(
            model_name=self._detector,
            inputs=[images] if threshold is None else [images, threshold],
            requested_output_names=sorted(wanted | {_COUNT} if _BOXES in wanted else wanted),
            request_id=asked.request.request_id(),
            parameters={**own, SENT: self._arrivals.stamp()},
            trace=asked.request.trace(),
            timeout=asked.waiting.left_us,
            preferred_memory=self._memory,
        ).exec()
        if response.has_error():
            raise error_of_call(f"model {self._detector}", response.error().message())
        return {tensor.name(): tensor for tensor in response.output_tensors()}


@dataclass(frozen=True)
class _Asked:
    """A request."""

    request: Any
    waiting: Waiting
    parameters: Mapping[str, Any]
    """without Triton's own"""


def _to_original(boxes: Any, counts: Any, boxed: Sequence[Letterboxed]) -> Any:
    """Boxes (B, N, 4) in pixels of the images; rows without a detection stay zero."""
    mapped = np.zeros_like(boxes)
    for row, (count, one) in enumerate(zip(counts, boxed, strict=True)):
        mapped[row, :count] = one.to_original(boxes[row, :count])
    return mapped


def _small_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 120, 150)).save(file, "JPEG")
    return file.getvalue()
