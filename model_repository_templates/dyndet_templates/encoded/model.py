"""Answers image files: decodes and fits them, calls the detector (Triton BLS), and maps its boxes back.

Decoding and fitting are the client's own code, in `dynamicdet/` beside this file. Requests with pictures that take long
are put aside, so that others do not wait for them. A pair of detectors with different rules of fitting is called a
second time for hard images: with those, fitted for detector 2. Needs numpy, Pillow, simplejpeg (without it, Pillow
decodes JPEGs, more slowly) and Triton's own module.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from pictures import Fitted, bound_free_memory, is_slow, open_file, simplejpeg  # type: ignore[import-not-found]
from pools import Pools, Room  # type: ignore[import-not-found]
from refusals import RequestError, error_of_call, read_parameters, unexpected  # type: ignore[import-not-found]
from threads import map_all  # type: ignore[import-not-found]
from tracing import Tracing, request_span, work_span  # type: ignore[import-not-found]
from waiting import Waiting  # type: ignore[import-not-found]

from dynamicdet.errors import InputError, PictureTooLargeError
from dynamicdet.letterbox import Fit, Letterboxed

_COUNT, _BOXES, _IMAGE_SIZE = "num_detections", "boxes", "image_size"
_IMAGE, _OWN_IMAGE, _DIFFICULTY, _ROUTE = "image", "own_image", "difficulty", "route"
_DUE, _FALLBACK = 0, -2  # values of `route`: detector 2 is due, and could not answer
_POINTS = "operating_points"  # only a request that wants nothing else gets this output
_STAGE_ERRORS = ("stage-failed", "not-ready")
_OWN_PARAMETERS, _PROBE = "dyndet_", "dyndet_probe"
_THREADS_ASIDE, _BYTES_ASIDE = 16, 256 << 20
"""for requests with slow pictures, and their files at a time: these are in /dev/shm, which grows and never shrinks"""
_NICENESS = 10
"""of threads that decode slow pictures: a thread of the others gets most of a core that both want"""


class TritonPythonModel:
    """Takes image files and returns boxes in pixels of the original images."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the detector's name and its rules of fitting from the configuration, and decode once."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._detector = parameters["dyndet_detector"]
        of_detector = _fit_of(parameters)
        own = parameters.get("dyndet_own_fit")
        self._second_fit = None if own is None else of_detector
        """of detector 2, if detector 1 has a rule of its own"""
        self._first_fit = of_detector if own is None else Fit.of_json(own)
        # The detector's boxes are small and are read here.
        self._memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)
        bound_free_memory()
        self._max_bytes = int(parameters["dyndet_max_file_bytes"])
        self._ordinary = Pools(int(config["max_batch_size"]))
        self._slow = Pools(_THREADS_ASIDE, niceness=_NICENESS)
        self._aside = Room(_BYTES_ASIDE)
        if simplejpeg is None:
            pb_utils.Logger.log_warn("simplejpeg is not installed: Pillow decodes JPEGs, up to 3 times slower")
        self._decode(_small_jpeg())
        self._arrivals = Arrivals()
        self._failed = FailedRequests(args["model_name"])
        self._counting = CountingThread(self._failed)
        self.tracing = Tracing(args["model_name"], pb_utils.Logger.log_warn)

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer requests at the same time, each as soon as it is ready; none waits for the others of the same call.

        Those with slow pictures are put aside and answered later, also after this call.
        """
        asked = [one for one in map(self._asked, requests) if one is not None]
        at_once = [one for one in asked if not self._takes_long(one)]
        if len(at_once) == 1:  # faster without another thread
            self._answer(at_once[0])
        else:
            list(self._ordinary.requests.map(self._answer, at_once))
        for one in asked:
            if one not in at_once:
                self._aside.enter(one.size)
                one.pools = self._slow
                self._slow.requests.submit(self._answer_aside, one)
        self._arrivals.free()

    def finalize(self) -> None:
        """Answer what was put aside, stop the threads, and wait until everything is counted."""
        self._ordinary.close()
        self._slow.close()
        self._counting.close()
        self.tracing.close()

    def _asked(self, request: Any) -> _Asked | None:
        """Read a request; None if it was refused."""
        asked = _Asked(request, Waiting(request), self._ordinary)
        try:
            asked.parameters = read_parameters(request)
            asked.waiting.has_waited(self._arrivals.waited_us(asked.parameters.get(SENT, "")))
            files = pb_utils.get_input_tensor_by_name(request, "image_bytes")
            if files is None:  # Triton accepts a request that has only the optional input
                raise RequestError("missing-input", "the input image_bytes is missing")
            asked.files = files.as_numpy().reshape(-1)
        except Exception as error:
            _send(asked, self._failure(asked, error))
            return None
        return asked

    def _takes_long(self, asked: _Asked) -> bool:
        """Whether to put a request aside; a file that is too large is refused without decoding, and takes no time."""
        return any(len(file) <= self._max_bytes and is_slow(file) for file in asked.files)

    def _answer_aside(self, asked: _Asked) -> None:
        try:
            self._answer(asked)
        finally:
            self._aside.leave(asked.size)

    @request_span  # type: ignore[untyped-decorator]
    def _answer(self, asked: _Asked) -> None:
        try:
            response = pb_utils.InferenceResponse(output_tensors=self._outputs(asked))
        except Exception as error:
            response = self._failure(asked, error)
        _send(asked, response)

    def _failure(self, asked: _Asked, error: Exception) -> Any:
        """The response to a request that failed, and count it, unless it is a probe or the detector has counted it."""
        refusal: Any = error if isinstance(error, RequestError) else unexpected(error)
        if refusal.detail:
            pb_utils.Logger.log_warn(refusal.explained)
        if not (refusal.was_counted or asked.parameters.get(_PROBE)):
            reason = refusal.reason
            self._counting.later(lambda: self._failed.count(reason))
        _forget_frames(error)
        sent = pb_utils.TritonError(str(refusal), getattr(pb_utils.TritonError, refusal.status))
        return pb_utils.InferenceResponse(error=sent)

    def _outputs(self, asked: _Asked) -> list[Any]:
        """The outputs that a request wants."""
        wanted = set(asked.request.requested_output_names())
        if wanted == {_POINTS}:
            return list(self._call(asked, [self._no_pictures(len(asked.files))], wanted).values())
        pictures = self._pictures(asked)
        boxed, tensors = [one.first for one in pictures], {}
        if answered := wanted - {_IMAGE_SIZE}:
            detect = self._detect if self._second_fit is None else self._detect_twice
            tensors = detect(asked, pictures, boxed, answered | {_COUNT} if _BOXES in answered else answered)
        if _BOXES in wanted:
            counts = tensors[_COUNT].as_numpy().reshape(-1)
            tensors[_BOXES] = pb_utils.Tensor(_BOXES, _to_original(tensors[_BOXES].as_numpy(), counts, boxed))
        if _IMAGE_SIZE in wanted:
            sizes = [(one.original_width, one.original_height) for one in boxed]
            tensors[_IMAGE_SIZE] = pb_utils.Tensor(_IMAGE_SIZE, np.array(sizes, np.int32))
        return [tensor for name, tensor in tensors.items() if name in wanted]

    def _no_pictures(self, count: int) -> Any:
        """What the detector gets in place of pictures, when it is asked for something else."""
        name = _IMAGE if self._second_fit is None else _OWN_IMAGE
        return pb_utils.Tensor(name, np.zeros((count, *self._first_fit.shape), np.uint8))

    @work_span("pictures")  # type: ignore[untyped-decorator]
    def _pictures(self, asked: _Asked) -> list[Fitted]:
        """Images as the input of the detector."""
        files, several = asked.files, len(asked.files) > 1
        places = [f"image {row} of {len(files)}: " if several else "" for row in range(1, len(files) + 1)]

        def decode(file: bytes, place: str) -> Fitted:
            asked.waiting.check()
            return self._decode(file, place)

        pictures: list[Fitted] = map_all(asked.pools.pictures, decode, files, places)
        return pictures

    def _decode(self, file: bytes, place: str = "") -> Fitted:
        try:
            return Fitted(open_file(file, max_bytes=self._max_bytes), self._first_fit, self._second_fit)
        except InputError as error:
            code = "picture-too-large" if isinstance(error, PictureTooLargeError) else "bad-picture"
            raise RequestError(code, f"{place}{error}") from error

    def _detect(
        self, asked: _Asked, _pictures: Sequence[Fitted], boxed: Sequence[Letterboxed], wanted: set[str]
    ) -> dict[str, Any]:
        """The detector's answer to all images of a request, in one call."""
        return self._call(asked, [_stacked(_IMAGE, boxed), *_threshold_of(asked)], wanted)

    def _detect_twice(
        self, asked: _Asked, pictures: Sequence[Fitted], boxed: list[Letterboxed], wanted: set[str]
    ) -> dict[str, Any]:
        """The same with a second call for the hard images; what lies in `boxed` is then their fit for detector 2.

        If detector 2 cannot answer them, the objects that detector 1 has found are their answer.
        """
        wanted = wanted | {_DIFFICULTY, _ROUTE}
        tensors = self._call(asked, [_stacked(_OWN_IMAGE, boxed), *_threshold_of(asked)], wanted)
        rows = np.flatnonzero(tensors[_ROUTE].as_numpy() == _DUE)
        if not rows.size:
            return tensors
        arrays = {name: tensor.as_numpy().copy() for name, tensor in tensors.items()}
        fitted = self._fit_again(asked, [pictures[row] for row in rows])
        given = pb_utils.Tensor(_DIFFICULTY, arrays[_DIFFICULTY][rows])
        try:
            found = self._call(asked, [_stacked(_IMAGE, fitted), given], wanted)
        except RequestError as error:
            if error.code not in _STAGE_ERRORS:
                raise
            pb_utils.Logger.log_warn(f"detector 1 answers {rows.size} images instead of detector 2: {error.explained}")
            arrays[_ROUTE][rows] = _FALLBACK
        else:
            for name, tensor in found.items():
                arrays[name][rows] = tensor.as_numpy()
            for row, one in zip(rows, fitted, strict=True):
                boxed[row] = one
        return {name: pb_utils.Tensor(name, array) for name, array in arrays.items()}

    @work_span("pictures")  # type: ignore[untyped-decorator]
    def _fit_again(self, asked: _Asked, pictures: Sequence[Fitted]) -> list[Letterboxed]:
        """Images as the input of detector 2."""
        fitted: list[Letterboxed] = map_all(asked.pools.pictures, Fitted.second, pictures)
        return fitted

    def _call(self, asked: _Asked, inputs: list[Any], wanted: set[str]) -> dict[str, Any]:
        """The detector's answer to these inputs."""
        asked.waiting.check()
        own = {key: _plain(value) for key, value in asked.parameters.items() if key.startswith(_OWN_PARAMETERS)}
        response = pb_utils.InferenceRequest(
            model_name=self._detector,
            inputs=inputs,
            requested_output_names=sorted(wanted),
            request_id=asked.request.request_id(),
            parameters={**own, SENT: self._arrivals.stamp()},
            trace=asked.request.trace(),
            timeout=asked.waiting.left_us,
            preferred_memory=self._memory,
        ).exec()
        if response.has_error():
            raise error_of_call(f"model {self._detector}", response.error().message())
        return {tensor.name(): tensor for tensor in response.output_tensors()}


@dataclass(eq=False)
class _Asked:
    """A request."""

    request: Any
    waiting: Waiting
    pools: Pools
    """where it is answered"""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """without Triton's own"""
    files: Sequence[bytes] = ()

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(map(len, self.files))


def _fit_of(parameters: Mapping[str, str]) -> Fit:
    """How the detector's images are fitted: as by our own networks, at a size, or by another rule."""
    if "dyndet_fit" in parameters:
        return Fit.of_json(parameters["dyndet_fit"])
    return Fit.square(int(parameters["dyndet_input_size"]))


def _threshold_of(asked: _Asked) -> list[Any]:
    threshold = pb_utils.get_input_tensor_by_name(asked.request, "threshold")
    return [] if threshold is None else [threshold]


def _stacked(name: str, boxed: Sequence[Letterboxed]) -> Any:
    return pb_utils.Tensor(name, np.stack([one.image for one in boxed]))


def _plain(value: Any) -> bool | int | str:
    """A parameter as a model can pass it on: Triton's Python backend takes no decimals."""
    return value if isinstance(value, bool | int | str) else str(value)


def _forget_frames(error: BaseException | None) -> None:
    """Let the files and pixels go that the frames of an error hold, which would wait for the garbage collector."""
    while error is not None:
        error.__traceback__, error = None, error.__cause__ or error.__context__


def _send(asked: _Asked, response: Any) -> None:
    asked.request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


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
