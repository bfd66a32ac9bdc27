"""The part of the public detector that both topologies share: reads requests, sends answers, counts them.

A topology's `model.py` derives from `PublicModel` and answers images. Needs numpy and Triton's own module; the other
files that it reads (`dyndet.json`, `operating_points.json`) are beside it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from arrivals import SENT, Arrivals  # type: ignore[import-not-found]
from metrics import Metrics  # type: ignore[import-not-found]
from operating_points import FILE_NAME, OperatingPoints  # type: ignore[import-not-found]
from refusals import RequestError, read_parameters, unexpected  # type: ignore[import-not-found]
from tracing import Trace, Tracing  # type: ignore[import-not-found]
from waiting import Waiting  # type: ignore[import-not-found]

EASY, HARD, FALLBACK = 1, 2, -2  # values of the output `route`
DUE = 0
"""the value of the output `route` of an image that detector 1 has answered by its own picture, and that is hard: the
caller sends the picture of detector 2 with the difficulty, and the answer to that call is what counts"""
ROUTE_NAMES = {EASY: "easy", HARD: "hard", FALLBACK: "fallback"}
IMAGE, OWN_IMAGE, DIFFICULTY, ROUTE = "image", "own_image", "difficulty", "route"
STAGE_ERRORS = ("stage-failed", "not-ready")
"""codes for which a stage is to blame; otherwise nobody waits for it, or the server stops"""
OPERATING_POINT, PROBE = "dyndet_operating_point", "dyndet_probe"
POINTS = "operating_points"
"""the output with the operating points; only a request that wants nothing else gets it"""


@dataclass(frozen=True)
class Answer:
    """The answer to one image. `tensors` has the wanted outputs of the stage that answered, batch size 1."""

    route: int
    difficulty: float
    tensors: Mapping[str, Any]


@dataclass
class Asked:
    """A request, and what metrics and log need to know about it once it is answered."""

    request: Any
    waiting: Waiting
    first: str = ""
    """the stage that gives the difficulty of its images"""
    image: Any = None
    """(B, H, W, 3) uint8, Triton's tensor: what its first stage reads"""
    thresholds: Sequence[float] = ()
    """of each image"""
    difficulties: Sequence[float | None] = ()
    """of each image, if detector 1 has given it to an earlier request and only detector 2 is due"""
    wanted: frozenset[str] = frozenset()
    """names of the outputs to send back"""
    detections: tuple[str, ...] = ()
    """those of them that come from a detector; empty: no detector has to run"""
    warnings: list[str] = field(default_factory=list)
    failed_stages: list[str] = field(default_factory=list)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """of the request, without Triton's own"""
    returned: bool = False
    """whether `execute` returns the response; if a call has one request, this saves a message to the server"""
    response: Any = None
    trace: Trace | None = None
    """None: nobody traces the request"""

    @property
    def counted(self) -> bool:
        """Whether metrics count it as a request: probes are counted apart."""
        return not self.parameters.get(PROBE)

    @property
    def is_second(self) -> bool:
        """Whether only detector 2 is asked, for images that detector 1 has answered."""
        return any(one is not None for one in self.difficulties)


class PublicModel:
    """The public detector without the code that runs its stages."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the stages' names, the thresholds and the outputs from the model's own folder."""
        folder = Path(__file__).parent
        self.settings = json.loads((folder / "dyndet.json").read_bytes())
        self._detections = tuple(self.settings["detection_outputs"])
        self.first: str = self.settings["first"]
        """the stage that gives the difficulty"""
        self.easy: str | None = self.settings["easy"]
        """the stage that answers easy images; None: the first one has answered them"""
        self.hard: str = self.settings["hard"]
        self.own: str | None = self.settings["own"]
        """the first stage for pictures that its own rule has fitted; None: all stages read the same pictures"""
        self._arrivals = Arrivals()
        self._points = OperatingPoints(folder / FILE_NAME, pb_utils.Logger.log_warn)
        self.metrics = Metrics(
            args["model_name"],
            tuple(self.settings["stages"]),
            latency_buckets_ms=self.settings["latency_buckets_ms"],
            threshold=self._points.default,
            has_due=self.own is not None,
        )
        self.tracing = Tracing(
            args["model_name"], pb_utils.Logger.log_warn, not_run={EASY: self.hard, HARD: self.easy, DUE: self.hard}
        )

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer requests, each as soon as it is ready; none waits for the others of the same call."""
        if self._points.refresh():
            self.metrics.threshold_is(self._points.default)
        alone = len(requests) == 1
        traces = map(self.tracing.of, requests)
        asked = [
            Asked(request, Waiting(request), returned=alone, trace=trace)
            for request, trace in zip(requests, traces, strict=True)
        ]
        self.answer([one for one in asked if self._read(one)])
        self._arrivals.free()
        return [asked[0].response] if alone else None

    def answer(self, asked: Sequence[Asked]) -> None:
        """Compute the answers to each request's images; call `send` or `fail` once for every request."""
        raise NotImplementedError

    def finalize(self) -> None:
        """Wait until everything is counted."""
        self.metrics.close()
        self.tracing.close()

    def send(self, asked: Asked, answers: Sequence[Answer]) -> None:
        """Send the answers to a request's images, in their order, and count them."""
        try:
            response = pb_utils.InferenceResponse(output_tensors=_outputs(answers, asked.wanted))
        except Exception as error:
            self.fail(asked, error)
            return
        _respond(asked, response)
        self.tracing.answered(asked.trace, answers, asked.thresholds)
        self._count(asked, [(answer.route, answer.difficulty) for answer in answers])
        _log(asked.warnings)

    def fail(self, asked: Asked, error: Exception) -> None:
        """Send an error."""
        refusal: Any = error if isinstance(error, RequestError) else unexpected(error)
        if refusal.detail:
            asked.warnings.append(refusal.explained)
        sent = pb_utils.TritonError(str(refusal), getattr(pb_utils.TritonError, refusal.status))
        _respond(asked, pb_utils.InferenceResponse(error=sent))
        self.tracing.failed(asked.trace, refusal)
        if asked.is_second and refusal.code in STAGE_ERRORS:  # the caller has the answer of detector 1
            self._count(asked, [(FALLBACK, float(one or 0)) for one in asked.difficulties])
        elif asked.counted:
            self.metrics.failed(refusal.reason, asked.failed_stages)
        _log(asked.warnings)

    def _count(self, asked: Asked, found: Sequence[tuple[int, float]]) -> None:
        """Count a request by route and difficulty of its images."""
        if self.own is not None:
            self.metrics.due(sum(route == DUE for route, _ in found))
        routed = [(ROUTE_NAMES[route], difficulty) for route, difficulty in found if route != DUE]
        if not asked.counted:
            self.metrics.probed([route for route, _ in routed])
        elif routed:
            self.metrics.answered(routed, 1e3 * (time.perf_counter() - asked.waiting.started), asked.failed_stages)

    def _read(self, asked: Asked) -> bool:
        """Read what a request wants; False if it has its answer, or was refused."""
        request = asked.request
        try:
            asked.parameters = read_parameters(request)
            if SENT in asked.parameters:
                asked.waiting.has_waited(self._arrivals.waited_us(asked.parameters[SENT]))
            asked.first, asked.image = self.first, pb_utils.get_input_tensor_by_name(request, IMAGE)
            if self.own is not None:
                self._read_own(asked)
            if asked.image is None:  # Triton accepts a request that has only the optional input
                raise RequestError("missing-input", "the input image is missing")
            asked.wanted = frozenset(request.requested_output_names())
            if asked.wanted == {POINTS}:
                told = np.full((asked.image.shape()[0], 1), self._points.told, np.object_)
                _respond(asked, pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(POINTS, told)]))
                return False
            asked.thresholds = self._thresholds(asked)
            asked.difficulties = asked.difficulties or [None] * len(asked.thresholds)
            asked.detections = tuple(name for name in self._detections if name in asked.wanted)
        except Exception as error:
            self.fail(asked, error)
            return False
        return True

    def _read_own(self, asked: Asked) -> None:
        """Read the inputs that only pairs have whose detectors fit pictures by different rules."""
        assert self.own is not None
        own, given = (pb_utils.get_input_tensor_by_name(asked.request, name) for name in (OWN_IMAGE, DIFFICULTY))
        if own is not None and (given is not None or asked.image is not None):
            raise RequestError("bad-parameter", "own_image comes without image and difficulty")
        if own is not None:
            asked.first, asked.image = self.own, own
        elif given is not None and asked.image is not None:
            asked.difficulties = [float(one) for one in given.as_numpy().reshape(-1)]

    def _thresholds(self, asked: Asked) -> list[float]:
        """The threshold of each image: the input, else the named operating point, else the default."""
        tensor = pb_utils.get_input_tensor_by_name(asked.request, "threshold")
        if tensor is not None:
            thresholds = tensor.as_numpy().reshape(-1)
            for threshold in thresholds:
                if not 0 <= threshold <= 1:  # true for NaN
                    raise RequestError(
                        "bad-threshold",
                        f"threshold must be a finite number from 0 to 1, not {threshold}; "
                        "0 sends every image to detector 2, 1 sends none",
                    )
            return [float(threshold) for threshold in thresholds]
        images = asked.image.shape()[0]
        if OPERATING_POINT not in asked.parameters:
            return [self._points.default] * images
        try:
            return [self._points.threshold(str(asked.parameters[OPERATING_POINT]))] * images
        except ValueError as error:
            raise RequestError("unknown-operating-point", str(error)) from error


def route_of(difficulty: float, threshold: float) -> int:
    """HARD if the difficulty exceeds the threshold or is NaN; at threshold 0 always, even if it was rounded to 0."""
    return EASY if 0 < threshold and difficulty <= threshold else HARD


def array_of(tensor: Any) -> Any:
    """The numbers of a tensor, which may be on a GPU."""
    if tensor.is_cpu():
        return tensor.as_numpy()
    import cupy  # type: ignore[import-not-found]

    return cupy.asnumpy(cupy.from_dlpack(tensor))


def _respond(asked: Asked, response: Any) -> None:
    if asked.returned:
        asked.response = response
        return
    asked.request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _log(warnings: Sequence[str]) -> None:
    for text in warnings:
        pb_utils.Logger.log_warn(text)


def _outputs(answers: Sequence[Answer], wanted: frozenset[str]) -> list[Any]:
    """The wanted outputs of a request's images, in their order."""
    if len(answers) == 1:
        tensors = list(answers[0].tensors.values())
    else:
        tensors = [
            pb_utils.Tensor(name, np.concatenate([array_of(answer.tensors[name]) for answer in answers]))
            for name in answers[0].tensors
        ]
    if DIFFICULTY in wanted:
        tensors.append(pb_utils.Tensor(DIFFICULTY, np.array([[answer.difficulty] for answer in answers], np.float32)))
    if ROUTE in wanted:
        tensors.append(pb_utils.Tensor(ROUTE, np.array([[answer.route] for answer in answers], np.int32)))
    return tensors


def first_number(values: Any) -> float:
    """The first number as a float; NaN, which is routed hard, if there is none."""
    flat = values.reshape(-1)
    return float(flat[0]) if flat.size else math.nan
