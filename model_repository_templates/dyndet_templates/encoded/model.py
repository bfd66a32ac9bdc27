"""Answers image files: decodes and fits them, calls the detector (Triton BLS), and maps its boxes back.

Decoding and fitting are the client's own code, in `dynamicdet/` beside this file. Requests with pictures that take long
wait in a queue of their own, so that others do not wait for them. A pair of detectors with different rules of fitting
is called a second time for hard images: with those, fitted for detector 2. Needs numpy, Pillow, simplejpeg (without it,
Pillow decodes JPEGs, more slowly) and Triton's own module.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Mapping, Sequence
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
from asked import Asked, job_of, threshold_of  # type: ignore[import-not-found]
from backlog import Job  # type: ignore[import-not-found]
from counting import CountingThread, FailedRequests, QueueLength  # type: ignore[import-not-found]
from lanes import Lane, Promises  # type: ignore[import-not-found]
from load import Refusal  # type: ignore[import-not-found]
from pictures import Fitted, bound_free_memory, is_slow, open_file, simplejpeg  # type: ignore[import-not-found]
from refusals import (  # type: ignore[import-not-found]
    PROBE,
    RequestError,
    error_of_call,
    overloaded_by,
    read_parameters,
    unexpected,
)
from terms import DEADLINE_MS, WAITED_US, read_terms  # type: ignore[import-not-found]
from threads import map_all  # type: ignore[import-not-found]
from tracing import Tracing, request_span, work_span  # type: ignore[import-not-found]
from waiting import Waiting  # type: ignore[import-not-found]

from dynamicdet.errors import InputError, PictureTooLargeError
from dynamicdet.letterbox import Fit, Letterboxed

_COUNT, _BOXES, _IMAGE_SIZE = "num_detections", "boxes", "image_size"
_MASK_BOXES = "mask_boxes"
"""the boxes that masks span, which may leave the image; `boxes` are clipped to it"""
_IMAGE, _OWN_IMAGE, _DIFFICULTY, _ROUTE = "image", "own_image", "difficulty", "route"
_DUE, _FALLBACK, _DEGRADED = 0, -2, -3  # values of `route`: detector 2 is due; it could not answer; it had no time
_POINTS = "operating_points"  # only a request that wants nothing else gets this output
_STAGE_ERRORS = ("stage-failed", "not-ready")
_OWN_PARAMETERS = "dyndet_"
_THREADS = 16
"""for requests of each queue: most wait for the detector, whose queue is to know of them"""
_SLOW_BYTES = 256 << 20
"""of the files of waiting requests with slow pictures; they are in /dev/shm, which grows and never shrinks"""
_ONLY_WAY = 1  # as a value of `route`: to this model's own queue, all images are alike
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
        bound = int(parameters["dyndet_queue"])
        threads = max(_THREADS, int(config["max_batch_size"]))
        self._ordinary = Lane(self._answer_waiting, self._refuse, threads=threads, bound=bound)
        self._slow = Lane(
            self._answer_waiting,
            self._refuse,
            threads=_THREADS,
            bound=bound,
            most_bytes=_SLOW_BYTES,
            niceness=_NICENESS,
        )
        beside = Path(args["model_repository"]).parent / self._detector / args["model_version"]
        self._promises = Promises(beside, pb_utils.Logger.log_warn)
        if simplejpeg is None:
            pb_utils.Logger.log_warn("simplejpeg is not installed: Pillow decodes JPEGs, up to 3 times slower")
        self._decode(_small_jpeg())
        self._arrivals = Arrivals()
        self._failed = FailedRequests(args["model_name"])
        self._queue = QueueLength(args["model_name"], lambda: self._ordinary.waiting + self._slow.waiting)
        self._counting = CountingThread(self._failed, watch=self._queue.show)
        self.tracing = Tracing(args["model_name"], pb_utils.Logger.log_warn)

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer a request, or let requests wait in a queue, whose workers answer each as soon as it is ready."""
        self._arrivals.enter()
        self._promises.refresh()
        computed = False
        for one in [one for one in map(self._asked, requests) if one is not None]:
            if one.job is None:
                self._answer(one)
            elif len(requests) == 1 and one.came_at_once and one.lane is self._ordinary and one.lane.load.idle():
                computed = self._answer_now(one)
            else:
                self._let_wait(one)
        self._arrivals.free(computed=computed)

    def finalize(self) -> None:
        """Answer what waits, stop the threads, and wait until everything is counted."""
        self._ordinary.close()
        self._slow.close()
        self._counting.later(self._queue.leave)
        self._counting.close()
        self.tracing.close()

    def _asked(self, request: Any) -> Asked | None:
        """Read a request; None if it was refused."""
        asked = Asked(request, Waiting(request), self._ordinary)
        try:
            asked.parameters = read_parameters(request)
            sent = asked.parameters.get(SENT)
            if sent is not None:
                asked.waiting.has_waited(self._arrivals.waited_us(sent))
            asked.came_at_once = self._arrivals.came_at_once(sent)
            asked.terms = read_terms(asked.parameters)
            asked.arrived = asked.waiting.arrived - asked.terms.waited_s
            files = pb_utils.get_input_tensor_by_name(request, "image_bytes")
            if files is None:  # Triton accepts a request that has only the optional input
                raise RequestError("missing-input", "the input image_bytes is missing")
            asked.files = files.as_numpy().reshape(-1)
            asked.wanted = frozenset(request.requested_output_names())
            if asked.wanted != {_POINTS}:
                asked.lane = self._slow if self._takes_long(asked) else self._ordinary
                asked.job = job_of(asked, self._promises)
        except Exception as error:
            self._send(asked, self._failure(asked, error))
            return None
        return asked

    def _answer_now(self, asked: Asked) -> bool:
        """Answer a request in this thread, which is faster, since nothing waits; False if it was refused."""
        refusal = asked.lane.load.enter(asked.job)
        if refusal is None:
            self._answer(asked)
        else:
            self._refuse(asked.job, refusal)
        return refusal is None

    def _let_wait(self, asked: Asked) -> None:
        """Let a request wait for the workers, or refuse it at once, if it would wait for too long."""
        asked.held = asked.size
        refusal = asked.lane.admit(asked.job, asked.size)
        self._counting.show()
        if refusal is not None:
            asked.held = None
            self._refuse(asked.job, refusal)

    def _answer_waiting(self, jobs: Sequence[Job]) -> None:
        """Answer requests that have waited."""
        for job in jobs:
            self._answer(job.payload)

    def _refuse(self, job: Job, refusal: Refusal) -> None:
        self._send(job.payload, self._failure(job.payload, overloaded_by(refusal, job.due - job.arrived)))

    def _takes_long(self, asked: Asked) -> bool:
        """Whether to put a request aside; a file that is too large is refused without decoding, and takes no time."""
        return any(len(file) <= self._max_bytes and is_slow(file) for file in asked.files)

    @request_span  # type: ignore[untyped-decorator]
    def _answer(self, asked: Asked) -> None:
        try:
            if asked.job is not None:
                asked.lane.begins(asked.job)
            response = pb_utils.InferenceResponse(output_tensors=self._outputs(asked))
        except Exception as error:
            self._send(asked, self._failure(asked, error))
        else:
            self._send(asked, response, is_answer=True)

    def _send(self, asked: Asked, response: Any, *, is_answer: bool = False) -> None:
        """Send the response to a request, and let its queue know."""
        if asked.job is not None:
            asked.lane.load.done(asked.job, routes=[_ONLY_WAY] * asked.job.images if is_answer else [])
            asked.job.payload = None  # or both would wait for the garbage collector, and the files with them
        if asked.held is not None:
            asked.lane.send(asked.request, response, asked.held)
        else:
            asked.request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _failure(self, asked: Asked, error: Exception) -> Any:
        """The response to a request that failed, and count it, unless it is a probe or the detector has counted it."""
        refusal: Any = error if isinstance(error, RequestError) else unexpected(error)
        if refusal.detail:
            pb_utils.Logger.log_warn(refusal.explained)
        if not (refusal.was_counted or asked.parameters.get(PROBE)):
            reason = refusal.reason
            self._counting.later(lambda: self._counting.add(self._failed.counter(reason)))
        _forget_frames(error)
        sent = pb_utils.TritonError(str(refusal), getattr(pb_utils.TritonError, refusal.status))
        return pb_utils.InferenceResponse(error=sent)

    def _outputs(self, asked: Asked) -> list[Any]:
        """The outputs that a request wants."""
        wanted = set(asked.wanted)
        if wanted == {_POINTS}:
            return list(self._call(asked, [self._no_pictures(len(asked.files))], wanted).values())
        pictures = self._pictures(asked)
        boxed, tensors = [one.first for one in pictures], {}
        placed = wanted & {_BOXES, _MASK_BOXES}
        if answered := wanted - {_IMAGE_SIZE, _MASK_BOXES} | ({_BOXES, _COUNT} if placed else set()):
            detect = self._detect if self._second_fit is None else self._detect_twice
            tensors = detect(asked, pictures, boxed, answered)
        if placed:
            counts, boxes = tensors[_COUNT].as_numpy().reshape(-1), tensors[_BOXES].as_numpy()
            for name in placed:
                mapped = _to_original(boxes, counts, boxed, clipped=name == _BOXES)
                tensors[name] = pb_utils.Tensor(name, mapped)
        if _IMAGE_SIZE in wanted:
            sizes = [(one.original_width, one.original_height) for one in boxed]
            tensors[_IMAGE_SIZE] = pb_utils.Tensor(_IMAGE_SIZE, np.array(sizes, np.int32))
        return [tensor for name, tensor in tensors.items() if name in wanted]

    def _no_pictures(self, count: int) -> Any:
        """What the detector gets in place of pictures, when it is asked for something else."""
        name = _IMAGE if self._second_fit is None else _OWN_IMAGE
        return pb_utils.Tensor(name, np.zeros((count, *self._first_fit.shape), np.uint8))

    @work_span("pictures")  # type: ignore[untyped-decorator]
    def _pictures(self, asked: Asked) -> list[Fitted]:
        """Images as the input of the detector."""
        files, several = asked.files, len(asked.files) > 1
        places = [f"image {row} of {len(files)}: " if several else "" for row in range(1, len(files) + 1)]

        def decode(file: bytes, place: str) -> Fitted:
            asked.waiting.check()
            return self._decode(file, place)

        pictures: list[Fitted] = map_all(asked.lane.pictures, decode, files, places)
        return pictures

    def _decode(self, file: bytes, place: str = "") -> Fitted:
        try:
            return Fitted(open_file(file, max_bytes=self._max_bytes), self._first_fit, self._second_fit)
        except InputError as error:
            code = "picture-too-large" if isinstance(error, PictureTooLargeError) else "bad-picture"
            raise RequestError(code, f"{place}{error}") from error

    def _detect(
        self, asked: Asked, _pictures: Sequence[Fitted], boxed: Sequence[Letterboxed], wanted: set[str]
    ) -> dict[str, Any]:
        """The detector's answer to all images of a request, in one call."""
        return self._call(asked, [_stacked(_IMAGE, boxed), *threshold_of(asked)], wanted)

    def _detect_twice(
        self, asked: Asked, pictures: Sequence[Fitted], boxed: list[Letterboxed], wanted: set[str]
    ) -> dict[str, Any]:
        """The same with a second call for the hard images; what lies in `boxed` is then their fit for detector 2.

        If detector 2 cannot answer them, the objects that detector 1 has found are their answer.
        """
        wanted = wanted | {_DIFFICULTY, _ROUTE}
        tensors = self._call(asked, [_stacked(_OWN_IMAGE, boxed), *threshold_of(asked)], wanted)
        rows = np.flatnonzero(tensors[_ROUTE].as_numpy() == _DUE)
        if not rows.size:
            return tensors
        arrays = {name: tensor.as_numpy().copy() for name, tensor in tensors.items()}
        fitted = self._fit_again(asked, [pictures[row] for row in rows])
        given = pb_utils.Tensor(_DIFFICULTY, arrays[_DIFFICULTY][rows])
        try:
            found = self._call(asked, [_stacked(_IMAGE, fitted), given], wanted)
        except RequestError as error:
            if error.code not in (*_STAGE_ERRORS, "overloaded"):
                raise
            if error.code != "overloaded":
                instead = f"detector 1 answers {rows.size} images instead of detector 2"
                pb_utils.Logger.log_warn(f"{instead}: {error.explained}")
            arrays[_ROUTE][rows] = _DEGRADED if error.code == "overloaded" else _FALLBACK
        else:
            for name, tensor in found.items():
                arrays[name][rows] = tensor.as_numpy()
            for row, one in zip(rows, fitted, strict=True):
                boxed[row] = one
        return {name: pb_utils.Tensor(name, array) for name, array in arrays.items()}

    @work_span("pictures")  # type: ignore[untyped-decorator]
    def _fit_again(self, asked: Asked, pictures: Sequence[Fitted]) -> list[Letterboxed]:
        """Images as the input of detector 2."""
        fitted: list[Letterboxed] = map_all(asked.lane.pictures, Fitted.second, pictures)
        return fitted

    def _call(self, asked: Asked, inputs: list[Any], wanted: set[str]) -> dict[str, Any]:
        """The detector's answer to these inputs."""
        asked.waiting.check()
        own = {key: _plain(value) for key, value in asked.parameters.items() if key.startswith(_OWN_PARAMETERS)}
        if asked.terms.deadline_s is not None:
            own[DEADLINE_MS] = f"{1e3 * asked.terms.deadline_s:.6f}"
        own[WAITED_US] = max(0, round(1e6 * (time.monotonic() - asked.arrived)))
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


def _fit_of(parameters: Mapping[str, str]) -> Fit:
    """How the detector's images are fitted: as by our own networks, at a size, or by another rule."""
    if "dyndet_fit" in parameters:
        return Fit.of_json(parameters["dyndet_fit"])
    return Fit.square(int(parameters["dyndet_input_size"]))


def _stacked(name: str, boxed: Sequence[Letterboxed]) -> Any:
    return pb_utils.Tensor(name, np.stack([one.image for one in boxed]))


def _plain(value: Any) -> bool | int | str:
    """A parameter as a model can pass it on: Triton's Python backend takes no decimals."""
    return value if isinstance(value, bool | int | str) else str(value)


def _forget_frames(error: BaseException | None) -> None:
    """Let the files and pixels go that the frames of an error hold, which would wait for the garbage collector."""
    while error is not None:
        error.__traceback__, error = None, error.__cause__ or error.__context__


def _to_original(boxes: Any, counts: Any, boxed: Sequence[Letterboxed], *, clipped: bool) -> Any:
    """Boxes (B, N, 4) in pixels of the images; rows without a detection stay zero."""
    mapped = np.zeros_like(boxes)
    for row, (count, one) in enumerate(zip(counts, boxed, strict=True)):
        mapped[row, :count] = one.to_original(boxes[row, :count], clipped=clipped)
    return mapped


def _small_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 120, 150)).save(file, "JPEG")
    return file.getvalue()
