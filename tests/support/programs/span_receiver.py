"""A collector of OpenTelemetry spans on this machine: what Triton, the models and a client send over OTLP/HTTP."""

from __future__ import annotations

import base64
import gzip
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

ERROR = 2  # a span's status


@dataclass(frozen=True, kw_only=True)
class Span:
    """One span as it was received."""

    name: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    started_ns: int
    ended_ns: int
    status: int
    message: str
    attributes: Mapping[str, Any]
    links: tuple[str, ...]
    """ids of linked spans"""


class SpanReceiver:
    """The spans received so far; `url` is where to send more."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._spans: list[Span] = []
        self._changed = threading.Condition()

    def add(self, spans: Sequence[Span]) -> None:
        """Called with what arrives."""
        with self._changed:
            self._spans.extend(spans)
            self._changed.notify_all()

    def wait(self, trace_id: str, complete: Callable[[list[Span]], bool], timeout_s: float = 15) -> list[Span]:
        """The spans of a trace, by their start, once they are complete. Raises AssertionError if they never are."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                found = sorted((one for one in self._spans if one.trace_id == trace_id), key=lambda one: one.started_ns)
                if complete(found):
                    return found
                assert self._changed.wait(deadline - time.monotonic()), f"the trace is not complete:\n{tree(found)}"


@contextmanager
def receiving_spans() -> Iterator[SpanReceiver]:
    """A receiver on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.add(_read(body, is_json="json" in self.headers["Content-Type"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = SpanReceiver(f"http://127.0.0.1:{server.server_port}/v1/traces")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def tree(spans: Sequence[Span]) -> str:
    """The spans as text, children below their parents."""
    known = {one.span_id for one in spans}

    def lines(parent: str | None, depth: int) -> Iterator[str]:
        for one in spans:
            if one.parent_id == parent if parent is not None else one.parent_id not in known:
                told = " ".join(f"{key}={value}" for key, value in one.attributes.items())
                failed = f" ERROR {one.message!r}" if one.status == ERROR else ""
                took_ms = (one.ended_ns - one.started_ns) / 1e6
                yield f"{'  ' * depth}{one.name} {took_ms:.2f} ms [{one.service}] {told}{failed}"
                yield from lines(one.span_id, depth + 1)

    return "\n".join(lines(None, 0))


def _read(body: bytes, *, is_json: bool) -> list[Span]:
    """Triton sends JSON, in which OpenTelemetry writes ids as hexadecimal text; the Python SDK sends protobuf."""
    request = ExportTraceServiceRequest()
    if is_json:
        json_format.Parse(body, request, ignore_unknown_fields=True)
    else:
        request.ParseFromString(body)
    found = []
    for resource in request.resource_spans:
        service = _values(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                found.append(
                    Span(
                        name=span.name,
                        service=service,
                        trace_id=_text(span.trace_id, is_json),
                        span_id=_text(span.span_id, is_json),
                        parent_id=_text(span.parent_span_id, is_json),
                        started_ns=span.start_time_unix_nano,
                        ended_ns=span.end_time_unix_nano,
                        status=span.status.code,
                        message=span.status.message,
                        attributes=_values(span.attributes),
                        links=tuple(_text(link.span_id, is_json) for link in span.links),
                    )
                )
    return found


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _text(identity: bytes, is_json: bool) -> str:
    """The id in hexadecimal; protobuf's JSON parser takes such text for base64, which is undone here."""
    return base64.b64encode(identity).decode() if is_json else identity.hex()
