"""Makes a detection part of its caller's trace (OpenTelemetry).

A program that has a current span, or has set up a tracer provider, has imported opentelemetry's API itself. So nothing
is imported here, and a program without it pays for a look into `sys.modules`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, TypeVar

from dyndet_client.codec import Request

T = TypeVar("T")

TRACEPARENT = "dyndet_traceparent"
"""The request parameter that repeats the header `traceparent` over gRPC.

Triton (2.51) reads the values of gRPC headers beyond their end, so it loses the header in one call of 4 to 30. Then the
detector's own spans still find their parent, but Triton makes none.
"""

_API = "opentelemetry.trace"


def trace_headers() -> dict[str, str]:
    """Headers for the current span: `traceparent`, `tracestate`, and what else the program's propagator writes.

    There are none for a span that is not sampled: Triton (2.51) traces every request that has a `traceparent`, also one
    that says that its caller does not trace it.
    """
    if _API not in sys.modules:
        return {}
    from opentelemetry import propagate, trace

    if not trace.get_current_span().get_span_context().trace_flags.sampled:
        return {}
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return {name.lower(): value for name, value in headers.items()}  # gRPC refuses capitals


def inference_span(infer: Callable[..., Generator[Any, Any, T]]) -> Callable[..., Generator[Any, Any, T]]:
    """Decorates a session's `infer`: a client span for each attempt, if the program has a tracer provider."""

    @functools.wraps(infer)
    def traced(session: Any, request: Request, *arguments: Any) -> Generator[Any, Any, T]:
        if _API not in sys.modules:
            return infer(session, request, *arguments)
        return _in_span(functools.partial(infer, session), request, *arguments, session=session)

    return traced


def _in_span(
    infer: Callable[..., Generator[Any, Any, T]], request: Request, *arguments: Any, session: Any
) -> Generator[Any, Any, T]:
    from opentelemetry import trace

    attributes = {"dyndet.model": session.model, "server.address": str(session.address)}
    tracer = trace.get_tracer("dyndet_client")
    with tracer.start_as_current_span("detect", kind=trace.SpanKind.CLIENT, attributes=attributes):
        if session.address.protocol == "grpc" and (sent := trace_headers().get("traceparent")):
            request = replace(request, parameters={**request.parameters, TRACEPARENT: sent})
        return (yield from infer(request, *arguments))
