"""The models' own spans (OpenTelemetry): what Triton's spans do not show.

A traced request gets a span `image` for each of its images, with a child for each stage that ran:

| attribute of `image` | value |
| --- | --- |
| `dyndet.model` | the model's name |
| `dyndet.route` | easy, hard, fallback, degraded, or due: detector 2 gets its picture with another request |
| `dyndet.difficulty`, `dyndet.threshold` | the two numbers that decided the route |
| `error.type` | if there is no answer: the code of the refusal, such as stage-failed; then the span's status is ERROR |

A request that waited in the model's own queue also has a span `queue`. Their parent is Triton's span of this model.
Nothing is imported, and a request costs a comparison, unless the
environment variable OTEL_EXPORTER_OTLP_TRACES_ENDPOINT says where spans go. Only then the packages opentelemetry-sdk
and opentelemetry-exporter-otlp-proto-http are needed; OpenTelemetry's other variables have their usual meaning.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
TRACEPARENT = "dyndet_traceparent"
"""The request parameter in which a client repeats the header `traceparent`.

Triton (2.51) reads the values of gRPC headers beyond their end. So it takes the header of one call in 4 to 30 for
damaged, and the call for one that nobody traces. It loses `tracestate` nearly always. HTTP has no such fault.
"""

_ROUTES = {1: "easy", 2: "hard", -2: "fallback", -3: "degraded", 0: "due"}
_LONGEST_TEXT = 300


@dataclass(frozen=True)
class StageCall:
    """When a stage ran; seconds, `time.perf_counter`."""

    stage: str
    started: float
    ended: float
    error: BaseException | None


_calls: ContextVar[list[StageCall] | None] = ContextVar("calls", default=None)
"""of the image or the batch that this thread computes; None: nobody traces it"""


class Tracing:
    """Makes and sends the spans of one model. It never raises: a request that cannot be traced is answered."""

    def __init__(
        self, model: str, warn: Callable[[str], None], *, not_run: Mapping[int, str | None] | None = None
    ) -> None:
        """`not_run` is the stage that images of a route leave out, where a batch runs the stages of both."""
        self._spans: _Spans | None = None
        self._not_run = not_run or {}
        self._batch: list[StageCall] = []
        endpoint = os.environ.get(ENDPOINT)
        if not endpoint:
            return
        try:
            self._spans = _Spans(model, endpoint)
        except ImportError as error:
            warn(
                f"no spans are made: {error.name or error} is not installed for this server; "
                "`python3 -m pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http` installs it"
            )
        except Exception as error:
            warn(f"no spans are made: tracing cannot be set up: {type(error).__name__}: {error}")

    def of(self, request: Any) -> Trace | None:
        """The trace that a request belongs to; None if nobody traces it."""
        if self._spans is None:
            return None
        try:
            return _trace_of(request, self._spans)
        except Exception:  # the context comes from a client and may be anything
            return None

    def answered(self, trace: Trace | None, answers: Sequence[Any], thresholds: Sequence[float]) -> None:
        """Make the spans of images that ran as one batch; `image_span` makes those of single images."""
        if trace is None or trace.images or not self._batch:
            return
        for answer, threshold in zip(answers, thresholds, strict=True):
            ran = [call for call in self._batch if call.stage != self._not_run.get(answer.route)]
            trace.image(threshold, ran, ran[0].started, ran[-1].ended, answer=answer)

    def waited(self, trace: Trace | None, since: float) -> None:
        """Make the span of the time that a request has waited in the model's own queue until now."""
        if trace is not None:
            trace.work(StageCall("queue", since, time.perf_counter(), None))

    def failed(self, trace: Trace | None, error: Exception) -> None:
        """Make the span of a refused request, unless one of its images has told the error."""
        if trace is not None and not trace.failed:
            trace.image(None, (), trace.started, time.perf_counter(), error=error)

    def close(self, *, flush_s: float = 2.0) -> None:
        """Send the spans that wait, for at most `flush_s` seconds."""
        if self._spans is not None:
            self._spans.close(flush_s)

    def collect_batch(self) -> list[StageCall] | None:
        """A list for the stages of the images that `answered` reports next; None without tracing."""
        if self._spans is None:
            return None
        self._batch = []
        return self._batch


def image_span(answer_image: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a method `(model, asked, image, threshold, ...) -> Answer`: a span for the image and its stages."""

    @functools.wraps(answer_image)
    def traced(model: Any, asked: Any, image: Any, threshold: float, *more: Any) -> Any:
        if asked.trace is None:
            return answer_image(model, asked, image, threshold, *more)
        started = time.perf_counter()
        calls: list[StageCall] = []
        answer = failure = None
        token = _calls.set(calls)
        try:
            answer = answer_image(model, asked, image, threshold, *more)
            return answer
        except BaseException as error:
            failure = error
            raise
        finally:
            _calls.reset(token)
            asked.trace.image(threshold, calls, started, time.perf_counter(), answer=answer, error=failure)

    return traced


def batch_span(route: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a method that runs the stages for a batch; `Tracing.answered` makes the spans of its images."""

    @functools.wraps(route)
    def traced(model: Any, *arguments: Any) -> Any:
        calls = model.tracing.collect_batch()
        token = _calls.set(calls)
        try:
            return route(model, *arguments)
        finally:
            _calls.reset(token)

    return traced


def stage_span(run: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a method `(owner, stage, ...)` that runs a stage, given by name or as an object with a `role`."""

    @functools.wraps(run)
    def traced(owner: Any, stage: Any, *arguments: Any, **named: Any) -> Any:
        calls = _calls.get()
        if calls is None:
            return run(owner, stage, *arguments, **named)
        with _noted(calls, getattr(stage, "role", stage)):
            return run(owner, stage, *arguments, **named)

    return traced


def work_span(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a method of a model whose `execute` part has `request_span`: a span for what it does."""

    def decorate(work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def traced(*arguments: Any) -> Any:
            calls = _calls.get()
            if calls is None:
                return work(*arguments)
            with _noted(calls, name):
                return work(*arguments)

        return traced

    return decorate


def request_span(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a method `(model, asked)` that answers the request `asked.request`: spans for the work inside it."""

    @functools.wraps(answer)
    def traced(model: Any, asked: Any) -> Any:
        trace = model.tracing.of(asked.request)
        if trace is None:
            return answer(model, asked)
        calls: list[StageCall] = []
        token = _calls.set(calls)
        try:
            return answer(model, asked)
        finally:
            _calls.reset(token)
            for call in calls:
                trace.work(call)

    return traced


@contextlib.contextmanager
def _noted(calls: list[StageCall], name: str) -> Iterator[None]:
    started, failure = time.perf_counter(), None
    try:
        yield
    except BaseException as error:
        failure = error
        raise
    finally:
        calls.append(StageCall(name, started, time.perf_counter(), failure))


class Trace:
    """The trace of one request. Its spans are made when their work is done, with the times that were noted."""

    def __init__(self, spans: _Spans, parent: Mapping[str, str], linked: Mapping[str, str]) -> None:
        self._spans = spans
        self._parent = spans.context(parent)
        self._links = spans.links(linked)
        self._to_epoch_ns = _to_epoch_ns()
        self.started = time.perf_counter()
        self.images = 0
        """images with a span"""
        self.failed = False
        """whether a span has an error"""

    def image(
        self,
        threshold: float | None,
        calls: Sequence[StageCall],
        started: float,
        ended: float,
        *,
        answer: Any = None,
        error: BaseException | None = None,
    ) -> None:
        """Make the spans of an image and its stages. It has an answer or an error; times are those of perf_counter."""
        self.images += 1
        self.failed = self.failed or error is not None
        attributes: dict[str, Any] = {} if threshold is None else {"dyndet.threshold": threshold}
        if answer is not None:
            attributes["dyndet.route"] = _ROUTES.get(answer.route, str(answer.route))
            if not math.isnan(answer.difficulty):
                attributes["dyndet.difficulty"] = answer.difficulty
        whole = StageCall("image", started, ended, error)
        inside = self._spans.make(whole, self._parent, self._to_epoch_ns, attributes, self._links)
        for call in calls:
            self.work(call, inside)

    def work(self, call: StageCall, parent: Any = None) -> None:
        """Make the span of a stage, or of other work for the request."""
        self._spans.make(call, parent or self._parent, self._to_epoch_ns, {})


class _Spans:
    """OpenTelemetry's SDK, whose own thread sends the spans."""

    def __init__(self, model: str, endpoint: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {"service.name": "triton-inference-server"})  # as Triton's spans
        # Every span has a parent, so the default sampler does what the parent's did. At exit there is no time limit.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter(OTLPSpanExporter(), endpoint)))
        self._tracer = self._provider.get_tracer("dyndet")
        self._api, self._extract = trace, TraceContextTextMapPropagator().extract
        self._model = model

    def context(self, carrier: Mapping[str, str]) -> Any:
        """The span context in W3C headers."""
        return self._extract(carrier)

    def links(self, carrier: Mapping[str, str]) -> list[Any]:
        """A link to the span in W3C headers; none if there is no span in them."""
        found = self._api.get_current_span(self._extract(carrier)).get_span_context()
        return [self._api.Link(found)] if found.is_valid else []

    def make(
        self, call: StageCall, parent: Any, to_epoch_ns: int, attributes: dict[str, Any], links: Sequence[Any] = ()
    ) -> Any:
        """Make a span, and return the context for its children."""
        attributes["dyndet.model"] = self._model
        if call.error is not None:
            attributes["error.type"] = getattr(call.error, "code", "internal-error")
        started_ns, ended_ns = (to_epoch_ns + int(1e9 * moment) for moment in (call.started, call.ended))
        span = self._tracer.start_span(
            call.stage, context=parent, attributes=attributes, links=links, start_time=started_ns
        )
        if call.error is not None:
            span.set_status(self._api.StatusCode.ERROR, str(call.error)[:_LONGEST_TEXT])
        span.end(ended_ns)
        return self._api.set_span_in_context(span)

    def close(self, flush_s: float) -> None:
        """Send what waits. The SDK itself would wait up to a minute for a collector that does not answer."""
        ending = threading.Thread(target=self._provider.shutdown, name="trace-end", daemon=True)
        ending.start()
        ending.join(flush_s)


class _Exporter:
    """Says once, in one line of the log, that spans cannot be sent; the SDK prints a traceback every few seconds."""

    def __init__(self, exporter: Any, endpoint: str) -> None:
        self._exporter, self._endpoint = exporter, endpoint
        self._failing = False
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)

    def export(self, spans: Any) -> Any:
        """Send spans; those that cannot be sent are dropped."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            result, reason = self._exporter.export(spans), "it refused them"
        except Exception as error:
            result, reason = SpanExportResult.FAILURE, type(error).__name__
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            # Not through Triton's logger, which must not be used once the model has ended.
            sys.stderr.write(f"dyndet: spans are lost, {self._endpoint} does not take them: {reason}\n")
            sys.stderr.flush()
        self._failing = failed
        return result

    def shutdown(self) -> None:
        """End the connection."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """There is nothing to flush here."""
        return True


def _trace_of(request: Any, spans: _Spans) -> Trace | None:
    triton = _headers(json.loads(request.trace().get_context() or "{}"))
    parameters = request.parameters() or ""
    sent = json.loads(parameters).get(TRACEPARENT) if TRACEPARENT in parameters else None
    client = _headers({"traceparent": sent})
    if client and not spans.links(client):
        client = {}  # the SDK would begin a trace
    if not (triton or client):
        return None
    if not client or _trace_id(triton) == _trace_id(client):
        return Trace(spans, triton, {})
    return Trace(spans, client, triton)  # Triton has lost the client's header and, by its rate, begun a trace


def _to_epoch_ns() -> int:
    """What makes a time since the epoch of `perf_counter`. Of a few readings, the one that was interrupted least."""
    readings = []
    for _ in range(3):
        before, epoch, after = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
        readings.append((after - before, epoch - (before + after) // 2))
    return min(readings)[1]


def _headers(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _trace_id(headers: Mapping[str, str]) -> str:
    return headers.get("traceparent", "")[3:35]
