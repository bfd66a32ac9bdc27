"""The part of the public detector that both topologies share: takes requests up, sends answers, counts them.

A topology's `model.py` derives from `PublicModel` and answers images. Needs numpy and Triton's own module; the other
files that it reads (`dyndet.json`, `operating_points.json`) are beside it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from arrivals import Arrivals  # type: ignore[import-not-found]
from asked import (  # type: ignore[import-not-found]
    DEGRADED,
    DUE,
    EASY,
    FALLBACK,
    HARD,
    ROUTE_NAMES,
    Answer,
    Asked,
)
from backlog import Job  # type: ignore[import-not-found]
from following import OTHER_TENANTS  # type: ignore[import-not-found]
from load import Load, Refusal  # type: ignore[import-not-found]
from metrics import Metrics, Showing  # type: ignore[import-not-found]
from operating_points import FILE_NAME, OperatingPoints  # type: ignore[import-not-found]
from reading import DIFFICULTY, POINTS, ROUTE, Reader  # type: ignore[import-not-found]
from refusals import RequestError, overloaded, overloaded_by, unexpected  # type: ignore[import-not-found]
from tracing import Tracing  # type: ignore[import-not-found]
from waiting import Waiting  # type: ignore[import-not-found]
from workers import Workers  # type: ignore[import-not-found]

STAGE_ERRORS = ("stage-failed", "not-ready")
"""codes for which a stage is to blame; otherwise nobody waits for it, or the server stops"""
_ANSWERED_INSTEAD = {**dict.fromkeys(STAGE_ERRORS, FALLBACK), "overloaded": DEGRADED}
"""routes of images that only detector 2 was asked for, by the code with which it was not"""


class PublicModel:
    """The public detector without the code that runs its stages."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the stages' names, the thresholds and the outputs from the model's own folder."""
        folder = Path(__file__).parent
        self.settings = json.loads((folder / "dyndet.json").read_bytes())
        self.first: str = self.settings["first"]
        """the stage that gives the difficulty"""
        self.easy: str | None = self.settings["easy"]
        """the stage that answers easy images; None: the first one has answered them"""
        self.hard: str = self.settings["hard"]
        self.own: str | None = self.settings["own"]
        """the first stage for pictures that its own rule has fitted; None: all stages read the same pictures"""
        self._arrivals = Arrivals()
        self._points = OperatingPoints(folder / FILE_NAME, pb_utils.Logger.log_warn)
        self._reader = Reader(self._points, self._arrivals, self.settings)
        workers = self.settings["workers"]
        self.load = Load(workers=workers, bound=self.settings["queue"])
        self._set_tenants()
        self.metrics = Metrics(
            args["model_name"],
            tuple(self.settings["stages"]),
            latency_buckets_ms=self.settings["latency_buckets_ms"],
            showing=self._showing,
            has_due=self.own is not None,
        )
        not_run = {EASY: self.hard, DEGRADED: self.hard, HARD: self.easy, DUE: self.hard}
        self.tracing = Tracing(args["model_name"], pb_utils.Logger.log_warn, not_run=not_run)
        self._workers = Workers(
            self.load, self._answer_waiting, self._refuse, threads=workers, most=self.settings["merged"]
        )

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer a request, or let requests wait in the queue, whose workers answer each as soon as it is ready."""
        self._arrivals.enter()
        if self._points.refresh():
            self._set_tenants()
            self.metrics.show()
        alone = len(requests) == 1
        asked = [self._asked(request, alone=alone) for request in requests]
        ready = [one for one in asked if self._read(one)]
        computed = False
        if alone and ready and ready[0].came_at_once and self.load.idle():
            computed = self._answer_now(ready[0])
        elif ready:
            self._let_wait(ready)
        self._arrivals.free(computed=computed)
        return [asked[0].response] if asked[0].response is not None else None

    def answer(self, asked: Sequence[Asked]) -> None:
        """Compute the answers to each request's images; call `send` or `fail` once for every request."""
        raise NotImplementedError

    def finalize(self) -> None:
        """Answer what waits, and wait until everything is counted."""
        self._workers.close()
        self.metrics.close()
        self.tracing.close()

    def route(self, asked: Asked, difficulty: float, row: int) -> int:
        """The route of an image of a request: by its threshold, and by what the load leaves to detector 2.

        The image must be answered by that route, if a detector has to answer it.
        """
        route: int = HARD
        if asked.difficulties[row] is not None:
            return route
        threshold = asked.thresholds[row]
        if not asked.detections or (asked.is_mixed and route_of(difficulty, threshold) == EASY):
            route = route_of(difficulty, threshold)
        else:
            route = self.load.route(asked.job, difficulty, later=asked.first == self.own)
        if route == HARD and asked.first == self.own:
            route = DUE
        return route

    def send(self, asked: Asked, answers: Sequence[Answer]) -> None:
        """Send the answers to a request's images, in their order, and count them."""
        try:
            response = pb_utils.InferenceResponse(output_tensors=_outputs(answers, asked.wanted))
        except Exception as error:
            self.fail(asked, error)
            return
        self._respond(asked, response, [answer.route for answer in answers])
        self.tracing.answered(asked.trace, answers, asked.thresholds)
        self._count(asked, [(answer.route, answer.difficulty) for answer in answers])
        _log(asked.warnings)

    def fail(self, asked: Asked, error: Exception) -> None:
        """Send an error."""
        refusal: Any = error if isinstance(error, RequestError) else unexpected(error)
        if refusal.detail:
            asked.warnings.append(refusal.explained)
        sent = pb_utils.TritonError(str(refusal), getattr(pb_utils.TritonError, refusal.status))
        self._respond(asked, pb_utils.InferenceResponse(error=sent), [])
        self.tracing.failed(asked.trace, refusal)
        instead = _ANSWERED_INSTEAD.get(refusal.code)
        if asked.is_second and instead is not None:  # the caller has the answer of detector 1
            self._count(asked, [(instead, float(one or 0)) for one in asked.difficulties])
        elif asked.counted:
            tenant = self._tenant(asked) if refusal.code == "overloaded" else None
            self.metrics.failed(refusal.reason, asked.failed_stages, tenant=tenant, images=len(asked.thresholds))
        _log(asked.warnings)

    def _set_tenants(self) -> None:
        """Put the rules of tenants into force: each instance has its part of their budgets."""
        parts = self.settings["instances"]
        self.load.configure(
            tenants={
                name: replace(rule, hard_per_s=rule.hard_per_s / parts, burst=max(1.0, rule.burst / parts))
                for name, rule in self._points.tenants.items()
            }
        )

    def _showing(self) -> Showing:
        name = self._points.of_tenant("")
        threshold, follow = self._points.threshold(name), self._points.follow(name)
        state = self.load.state(threshold=threshold, follow=follow)
        return Showing(threshold=state.threshold, gear=1.0 if follow is None else state.gear, queue=state.queue)

    def _asked(self, request: Any, *, alone: bool) -> Asked:
        return Asked(request, Waiting(request), returned=alone, trace=self.tracing.of(request))

    def _read(self, asked: Asked) -> bool:
        """Read what a request wants; False if it has its answer, or was refused."""
        try:
            self._reader.read(asked)
            if asked.wanted == {POINTS}:
                told = np.full((asked.image.shape()[0], 1), self._points.told, np.object_)
                self._respond(asked, pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(POINTS, told)]), [])
                return False
            asked.job = self._reader.job_of(asked)
        except Exception as error:
            self.fail(asked, error)
            return False
        return True

    def _answer_now(self, asked: Asked) -> bool:
        """Answer a request in this thread, since nothing waits; False if it was refused."""
        refusal = self.load.enter(asked.job)
        if refusal is None:
            self._answer_all([asked])
        else:
            self._refuse(asked.job, refusal)
        return refusal is None

    def _let_wait(self, asked: Sequence[Asked]) -> None:
        """Let requests wait for the workers, and refuse at once those that would wait for too long."""
        was_returned = asked[0].returned
        for one in asked:  # now, because a worker may have it at once
            one.returned, one.held = False, one.size
        refusals = self._workers.admit([one.job for one in asked], [one.held or 0 for one in asked])
        self.metrics.show()
        for one, refusal in zip(asked, refusals, strict=True):
            if refusal is not None:
                one.returned, one.held = was_returned, None
                self._refuse(one.job, refusal)

    def _answer_waiting(self, jobs: Sequence[Job]) -> None:
        """Answer requests that have waited."""
        asked, now = [job.payload for job in jobs], time.monotonic()
        for one in asked:
            one.waited_ms = 1e3 * (now - one.waiting.started)
            self.tracing.waited(one.trace, one.waiting.started)
        self._answer_all(asked)

    def _answer_all(self, asked: Sequence[Asked]) -> None:
        for one in asked:
            if not one.sets_threshold:
                one.thresholds = [self.load.threshold(one.job)] * len(one.thresholds)
        try:
            self.answer([one for one in asked if self._has_time(one)])
        except Exception as error:  # a fault of ours: nobody may wait for ever
            for one in asked:
                if not one.is_answered:
                    self.fail(one, error)

    def _has_time(self, asked: Asked) -> bool:
        """Whether there is time for a request to detector 2 alone; it is refused otherwise."""
        if asked.is_second and self.load.route(asked.job, math.nan, images=len(asked.thresholds)) == DEGRADED:
            self.fail(asked, overloaded("there is no time for detector 2", 0.0))
            return False
        return True

    def _refuse(self, job: Job, refusal: Refusal) -> None:
        self.fail(job.payload, overloaded_by(refusal, job.due - job.arrived))

    def _respond(self, asked: Asked, response: Any, routes: Sequence[int]) -> None:
        """Send a response: through `execute`, through the queue's own thread, or here."""
        if asked.job is not None:
            self.load.done(asked.job, routes=routes)
            asked.job.payload = None  # or both would wait for the garbage collector, and the pictures with them
        asked.is_answered = True
        if asked.held is not None:
            self._workers.send(asked.request, response, asked.held)
        elif asked.returned:
            asked.response = response
        else:
            asked.request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _count(self, asked: Asked, found: Sequence[tuple[int, float]]) -> None:
        """Count a request by route and difficulty of its images."""
        if self.own is not None:
            self.metrics.due(sum(route == DUE for route, _ in found))
        routed = [(ROUTE_NAMES[route], difficulty) for route, difficulty in found if route != DUE]
        if not asked.counted:
            self.metrics.probed([route for route, _ in routed])
        elif routed:
            now = time.monotonic()
            self.metrics.answered(
                routed,
                1e3 * (now - asked.waiting.started),
                asked.failed_stages,
                tenant=self._tenant(asked),
                late=asked.job is not None and now > asked.job.due,
                waited_ms=asked.waited_ms,
            )

    def _tenant(self, asked: Asked) -> str | None:
        """The label under which the images of a request are counted; None: there are no tenants."""
        if not self._points.tenants:
            return None
        return str(asked.terms.tenant if asked.terms.tenant in self._points.tenants else OTHER_TENANTS)


def route_of(difficulty: float, threshold: float) -> int:
    """HARD if the difficulty exceeds the threshold or is NaN; at threshold 0 always, even if it was rounded to 0."""
    return int(EASY if 0 < threshold and difficulty <= threshold else HARD)


def array_of(tensor: Any) -> Any:
    """The numbers of a tensor, which may be on a GPU."""
    if tensor.is_cpu():
        return tensor.as_numpy()
    import cupy  # type: ignore[import-not-found]

    return cupy.asnumpy(cupy.from_dlpack(tensor))


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
