"""Routes each image of a request through the stages of a dynamic detector (Triton BLS).

backbone1 -> difficulty -> head1 where difficulty <= threshold, else detector2. Threshold 0 sends every image to
detector 2, also one whose difficulty was rounded to 0. Images are routed one by one and wait for their stages in
threads; the stages' dynamic batching merges them. Needs numpy and Triton's own module; everything else that it reads
(`dyndet.json`, `operating_points.json`) lies beside it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))

from metrics import Metrics  # type: ignore[import-not-found]
from operating_points import FILE_NAME, OperatingPoints  # type: ignore[import-not-found]

EASY, HARD, FALLBACK = 1, 2, -2  # values of the output `route`
ROUTE_NAMES = {EASY: "easy", HARD: "hard", FALLBACK: "fallback"}
DIFFICULTY, ROUTE = "difficulty", "route"
OPERATING_POINT = "dyndet_operating_point"


class _RequestError(Exception):
    """This request gets an error; the others of the same call do not."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class _Cancelled(_RequestError):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__("the request was cancelled", pb_utils.TritonError.CANCELLED)


@dataclass(frozen=True)
class _Answer:
    """What one image got. `tensors` holds the wanted outputs of the stage that answered, batch size 1."""

    route: int
    difficulty: float
    tensors: Mapping[str, Any]


@dataclass
class _Record:
    """What metrics and log are told about a request, just before it is answered."""

    warnings: list[str] = field(default_factory=list)
    answers: Sequence[_Answer] = ()
    failed_stages: list[str] = field(default_factory=list)
    latency_ms: float = 0.0


class TritonPythonModel:
    """The public detector."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the stages' names, the thresholds and the outputs from the model's own folder."""
        folder = Path(__file__).parent
        settings = json.loads((folder / "dyndet.json").read_bytes())
        self._stages = {role: _Stage(**stage) for role, stage in settings["stages"].items()}
        self._detections = tuple(settings["detection_outputs"])
        self._points = OperatingPoints(folder / FILE_NAME, pb_utils.Logger.log_warn)
        self._metrics = Metrics(args["model_name"], tuple(self._stages), settings["latency_buckets_ms"])
        self._metrics.threshold_is(self._points.default)
        self._memory = _preferred_memory(settings["stage_memory"])
        # Metrics that two threads change at once crash the server (Triton 2.51).
        self._telling = threading.Lock()
        # Requests, and the images of one request, wait for their stages in threads of their own: two pools, because
        # a request that waits for its images must not take the threads that they need.
        workers = int(json.loads(args["model_config"])["max_batch_size"])
        self._request_pool = ThreadPoolExecutor(workers, "request")
        self._image_pool = ThreadPoolExecutor(workers, "image")

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer requests, each on its own and as soon as it is ready: none waits for the others of the same call."""
        if self._points.refresh():
            with self._telling:
                self._metrics.threshold_is(self._points.default)
        _map(self._request_pool, self._serve, requests)

    def finalize(self) -> None:
        """Stop the threads and give the metrics back."""
        self._request_pool.shutdown()
        self._image_pool.shutdown()
        self._metrics.close()

    def _serve(self, request: Any) -> None:
        record = _Record()
        response = self._respond(request, record)
        with self._telling:  # before the answer leaves, so that who reads the metrics next finds it counted
            try:
                self._tell(record)
            except Exception as error:  # an answer is worth more than its count
                pb_utils.Logger.log_warn(f"metrics are not counted: {type(error).__name__}: {error}")
        request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _respond(self, request: Any, record: _Record) -> Any:
        started = time.perf_counter()
        try:
            wanted = set(request.requested_output_names())
            image = pb_utils.get_input_tensor_by_name(request, "image")
            thresholds = self._thresholds(request, image.shape()[0])

            def answer(single: Any, threshold: float) -> _Answer:
                return self._answer(request, record, single, threshold, wanted)

            answers = _map(self._image_pool, answer, _single_images(image), thresholds)
            response = pb_utils.InferenceResponse(output_tensors=_outputs(answers, wanted))
        except _RequestError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), error.code))
        except Exception as error:
            text = f"the detector failed: {type(error).__name__}: {error}"
            record.warnings.append(text)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(text))
        record.answers = answers
        record.latency_ms = 1e3 * (time.perf_counter() - started)
        return response

    def _tell(self, record: _Record) -> None:
        for text in record.warnings:
            pb_utils.Logger.log_warn(text)
        for stage in record.failed_stages:
            self._metrics.stage_failed(stage)
        for answer in record.answers:
            self._metrics.routed(ROUTE_NAMES[answer.route], answer.difficulty)
        if record.answers:
            self._metrics.answered(record.latency_ms)

    def _thresholds(self, request: Any, images: int) -> list[float]:
        """The threshold of each image: the input, else the named operating point, else the default."""
        tensor = pb_utils.get_input_tensor_by_name(request, "threshold")
        if tensor is not None:
            thresholds = [float(value) for value in tensor.as_numpy().reshape(-1)]
            for threshold in thresholds:
                if not 0 <= threshold <= 1:  # true for NaN
                    raise _RequestError(
                        f"threshold must be a finite number from 0 to 1, not {threshold:g}; "
                        "0 sends every image to detector 2, 1 none",
                        pb_utils.TritonError.INVALID_ARG,
                    )
            return thresholds
        parameters = json.loads(request.parameters() or "{}")
        if OPERATING_POINT not in parameters:
            return [self._points.default] * images
        try:
            return [self._points.threshold(str(parameters[OPERATING_POINT]))] * images
        except ValueError as error:
            raise _RequestError(str(error), pb_utils.TritonError.INVALID_ARG) from error

    def _answer(self, request: Any, record: _Record, image: Any, threshold: float, wanted: set[str]) -> _Answer:
        """Route one image, batch size 1. No stage runs, and no feature is asked for, whose output is not used."""
        detections = [name for name in self._detections if name in wanted]
        backbone1 = self._stages["backbone1"]
        needed = backbone1.outputs if detections else (DIFFICULTY,)
        tensors = self._run(backbone1, request, record, {"image": image}, needed)
        difficulty = _difficulty(tensors.get(DIFFICULTY))
        route = EASY if 0 < threshold and difficulty <= threshold else HARD  # NaN is hard
        if not detections:
            return _Answer(route, difficulty, {})
        tensors["image"] = image
        if route == HARD:
            if request.is_cancelled():
                raise _Cancelled
            try:
                return _Answer(
                    HARD, difficulty, self._run(self._stages["detector2"], request, record, tensors, detections)
                )
            except _RequestError as error:
                record.warnings.append(f"detector 1 answers an image that was due to detector 2: {error}")
                route = FALLBACK
        return _Answer(route, difficulty, self._run(self._stages["head1"], request, record, tensors, detections))

    def _run(
        self, stage: _Stage, request: Any, record: _Record, tensors: Mapping[str, Any], outputs: Sequence[str]
    ) -> dict[str, Any]:
        """Call a stage with tensors that go on as they are, without passing through numpy."""
        response = pb_utils.InferenceRequest(
            model_name=stage.model,
            inputs=[tensors[name] for name in stage.inputs],
            requested_output_names=list(outputs),
            request_id=request.request_id(),
            trace=request.trace(),
            **self._memory,
        ).exec()
        if response.has_error():
            error = response.error()
            record.failed_stages.append(stage.role)
            raise _RequestError(f"stage {stage.model} failed: {error.message()}", error.code())
        return {tensor.name(): tensor for tensor in response.output_tensors()}


@dataclass(frozen=True)
class _Stage:
    """A stage model of the repository."""

    role: str
    model: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def _map(pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
    """What `map` gives, all at once; a single call runs in this thread, which is quicker."""
    if len(arguments[0]) == 1:
        return [function(*(argument[0] for argument in arguments))]
    return list(pool.map(function, *arguments))


def _preferred_memory(kind: str) -> dict[str, Any]:
    """Where stages leave their outputs: where they make them, unless nothing here could read the difficulty there."""
    if kind == "gpu" and importlib.util.find_spec("cupy") is None:
        pb_utils.Logger.log_warn("cupy is not installed: features go from stage to stage through the CPU's memory")
        return {"preferred_memory": pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)}
    return {}


def _difficulty(tensor: Any) -> float:
    """The router's output; NaN, which is routed hard, where there is none."""
    if tensor is None:
        return math.nan
    values = _array(tensor).reshape(-1)
    return float(values[0]) if values.size else math.nan


def _array(tensor: Any) -> Any:
    if tensor.is_cpu():
        return tensor.as_numpy()
    import cupy  # type: ignore[import-not-found]

    return cupy.asnumpy(cupy.from_dlpack(tensor))


def _single_images(batch: Any) -> list[Any]:
    if batch.shape()[0] == 1:
        return [batch]
    return [pb_utils.Tensor("image", image[None]) for image in batch.as_numpy()]


def _outputs(answers: Sequence[_Answer], wanted: set[str]) -> list[Any]:
    """The wanted outputs of a request's images, in their order."""
    if len(answers) == 1:
        tensors = list(answers[0].tensors.values())
    else:
        tensors = [
            pb_utils.Tensor(name, np.concatenate([_array(answer.tensors[name]) for answer in answers]))
            for name in answers[0].tensors
        ]
    if DIFFICULTY in wanted:
        tensors.append(pb_utils.Tensor(DIFFICULTY, np.array([[answer.difficulty] for answer in answers], np.float32)))
    if ROUTE in wanted:
        tensors.append(pb_utils.Tensor(ROUTE, np.array([[answer.route] for answer in answers], np.int32)))
    return tensors
