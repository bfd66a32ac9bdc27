"""Traces: one from the caller's span to the stages, through both protocols, both topologies and the encoded model."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from PIL import Image
from tritonclient.utils import InferenceServerException

from dynamicdet.errors import ServerError
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.tracing import Tracing
from dyndet_builder.server.triton import TritonServer
from dyndet_client import AsyncDetector, Detector
from tests.support.programs.span_receiver import ERROR, Span, SpanReceiver, receiving_spans, tree
from tests.support.toy_bundle import FAIL_BACKBONE1, FAIL_DETECTOR2, image, write_toy_bundle

EASY, HARD = 10, 250
_CALLER = "00f067aa0ba902b7"
_STAGES = {"easy": ["backbone1", "head1"], "hard": ["backbone1", "detector2"]}


@dataclass(frozen=True)
class Traced:
    """A server whose spans are received, with the models `toy` (bls), `toy_encoded` and `fused`."""

    server: TritonServer
    spans: SpanReceiver
    tracer: trace.Tracer


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    bundle = write_toy_bundle(folder / "bundle")
    render(bundle, folder / "bls", RenderOptions(encoded=True))
    render(bundle, folder / "fused", RenderOptions(topology="fused", name="fused", preferred_batches=(3,)))
    with receiving_spans() as spans, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")  # ms until Triton and the models send their spans
        provider = TracerProvider(resource=Resource.create({"service.name": "caller"}))
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(spans.url)))
        patch.setattr(trace, "_TRACER_PROVIDER", provider)
        options = ServerOptions(
            tracing=Tracing(url=spans.url), extra_arguments=(f"--model-repository={folder / 'fused'}",)
        )
        with TritonServer(folder / "bls", options) as server:
            yield Traced(server, spans, provider.get_tracer("test"))


def _images(found: list[Span]) -> list[Span]:
    return [span for span in found if span.name == "image"]


def _below(found: list[Span], parent: Span) -> list[Span]:
    return [span for span in found if span.parent_id == parent.span_id]


@pytest.mark.parametrize("model", ["toy", "fused"])
@pytest.mark.parametrize("how", ["http", "grpc", "asyncio http", "asyncio grpc", "many"])
def test_a_detection_is_one_trace_from_its_caller_to_the_stages(traced: Traced, model: str, how: str) -> None:
    url = f"http://{traced.server.http_url}" if "http" in how else traced.server.grpc_url
    wanted = {"easy": EASY, "hard": HARD}

    async def detect_async() -> None:
        async with AsyncDetector(url, model) as detector:
            for red in wanted.values():
                await detector.detect(image(red), threshold=0.25)

    with traced.tracer.start_as_current_span("caller") as caller:
        if "asyncio" in how:
            asyncio.run(detect_async())
        else:
            with Detector(url, model) as detector:
                if how == "many":
                    list(detector.detect_many([image(red) for red in wanted.values()], threshold=0.25))
                else:
                    for red in wanted.values():
                        detector.detect(image(red), threshold=0.25)
    found = _complete(traced, caller, images=2)
    (first,) = (span for span in found if span.name == "caller")
    assert [span.name for span in _below(found, first)] == ["detect", "detect"]
    for call in _below(found, first):
        assert call.attributes["dyndet.model"] == model
        (one,) = _images(_descendants(found, call))
        route = one.attributes["dyndet.route"]
        assert one.attributes["dyndet.difficulty"] == pytest.approx(wanted.pop(route) / 255)
        assert (one.attributes["dyndet.threshold"], one.attributes["dyndet.model"]) == (0.25, model)
        assert [span.name for span in _below(found, one)] == _STAGES[route]
        assert one.status != ERROR
        for stage in _below(found, one):
            assert call.started_ns < one.started_ns <= stage.started_ns < stage.ended_ns <= one.ended_ns < call.ended_ns
    assert not wanted
    assert {span.service for span in found} == {"caller", "dyndet"}


def _descendants(found: list[Span], top: Span) -> list[Span]:
    return [span for child in _below(found, top) for span in (child, *_descendants(found, child))]


def _complete(traced: Traced, caller: trace.Span, *, images: int) -> list[Span]:
    """The trace once it has all its images, and every span's parent: Triton, the models and the caller send apart."""

    def complete(found: list[Span]) -> bool:
        lacking = {span.parent_id for span in found} - {span.span_id for span in found}
        return len(_images(found)) == images and lacking == {""}

    return traced.spans.wait(f"{caller.get_span_context().trace_id:032x}", complete)


def _ask(traced: Traced, model: str, name: str, values: np.ndarray, *, as_parameter: bool = False) -> str:
    """Send a request with a `traceparent` over HTTP, as any client does; returns the id of its trace."""
    trace_id = np.random.default_rng().bytes(16).hex()
    traceparent = f"00-{trace_id}-{_CALLER}-01"
    sent: dict[str, Any] = {"headers": {"traceparent": traceparent}}
    if as_parameter:
        sent = {"parameters": {"dyndet_traceparent": traceparent}}
    with triton_http.InferenceServerClient(traced.server.http_url) as client:
        tensor = triton_http.InferInput(name, list(values.shape), "UINT8" if name == "image" else "BYTES")
        tensor.set_data_from_numpy(values)
        try:
            client.infer(model, [tensor], **sent)
        except InferenceServerException:
            pass
    return trace_id


@pytest.mark.parametrize("model", ["toy", "fused"])
def test_tritons_spans_are_between_the_caller_and_the_images(traced: Traced, model: str) -> None:
    """Triton shows the request, the models and their computation; a stage that is a model has a span of its own."""
    images = np.stack([image(EASY), image(HARD), image(HARD, FAIL_DETECTOR2)])
    trace_id = _ask(traced, model, "image", images)
    stages = {"toy_backbone1", "toy_head1", "toy_detector2"} if model == "toy" else set()
    wanted = {"InferRequest", model, "compute", "image", *stages}
    found = traced.spans.wait(
        trace_id, lambda spans: wanted <= {one.name for one in spans} and len(_images(spans)) == 3
    )
    (request,) = (span for span in found if span.name == "InferRequest")
    (served,) = (span for span in found if span.name == model)
    assert request.parent_id == _CALLER
    assert served.parent_id == request.span_id
    assert {span.parent_id for span in found if span.name in {"image", *stages}} == {served.span_id}
    routes = sorted(span.attributes["dyndet.route"] for span in _images(found))
    assert routes == ["easy", "fallback", "hard"]
    (fallback,) = (span for span in _images(found) if span.attributes["dyndet.route"] == "fallback")
    assert [span.name for span in _below(found, fallback)] == ["backbone1", "detector2", "head1"]
    assert [span.status == ERROR for span in (fallback, *_below(found, fallback))] == [False, False, True, False]


def test_a_batch_that_runs_as_one_has_a_span_for_each_image(traced: Traced) -> None:
    trace_id = _ask(traced, "fused", "image", np.stack([image(red) for red in (EASY, HARD, EASY)]))
    found = traced.spans.wait(trace_id, lambda spans: len(_images(spans)) == 3)
    assert [span.attributes["dyndet.route"] for span in _images(found)] == ["easy", "hard", "easy"]
    for one in _images(found):
        assert [span.name for span in _below(found, one)] == _STAGES[one.attributes["dyndet.route"]]
    assert len({(span.started_ns, span.ended_ns) for span in found if span.name == "backbone1"}) == 1


@pytest.mark.parametrize(
    ("model", "name", "values", "code", "span"),
    [
        ("toy", "image", image(HARD, FAIL_BACKBONE1)[None], "stage-failed", "image"),
        ("fused", "image", image(HARD, FAIL_BACKBONE1)[None], "stage-failed", "image"),
        ("toy_encoded", "image_bytes", np.array([[b"no picture"]], object), "bad-picture", "pictures"),
    ],
)
def test_the_span_of_a_refused_image_has_the_code(
    traced: Traced, model: str, name: str, values: np.ndarray, code: str, span: str
) -> None:
    trace_id = _ask(traced, model, name, values)
    found = traced.spans.wait(trace_id, lambda spans: any(one.name == span for one in spans))
    (refused,) = (one for one in found if one.name == span)
    assert (refused.status, refused.attributes["error.type"]) == (ERROR, code)
    assert "dyndet.route" not in refused.attributes


def test_the_encoded_model_passes_the_trace_on_to_the_detector(traced: Traced) -> None:
    file = io.BytesIO()
    Image.fromarray(image(HARD)).save(file, "PNG")
    trace_id = _ask(traced, "toy_encoded", "image_bytes", np.array([[file.getvalue()]], object))
    wanted = {"toy_encoded", "pictures", "toy", "image", "detector2"}
    found = {one.name: one for one in traced.spans.wait(trace_id, lambda spans: wanted <= {one.name for one in spans})}
    parents = {name: found[name].parent_id for name in wanted}
    assert parents["pictures"] == parents["toy"] == found["toy_encoded"].span_id
    assert (parents["image"], parents["detector2"]) == (found["toy"].span_id, found["image"].span_id)


@pytest.mark.parametrize("model", ["toy", "fused", "toy_encoded"])
def test_where_triton_loses_the_header_the_detectors_spans_are_the_callers(traced: Traced, model: str) -> None:
    """Over gRPC it does so at random; here the header is left out, and only the client's parameter is there."""
    file = io.BytesIO()
    Image.fromarray(image(HARD)).save(file, "PNG")
    encoded = ("image_bytes", np.array([[file.getvalue()]], object))
    name, values = encoded if model == "toy_encoded" else ("image", image(HARD)[None])
    trace_id = _ask(traced, model, name, values, as_parameter=True)
    wanted = {"image", "backbone1", "detector2"} | ({"pictures"} if model == "toy_encoded" else set())
    found = traced.spans.wait(trace_id, lambda spans: wanted <= {one.name for one in spans})
    assert {span.name for span in found} == wanted
    assert {span.parent_id for span in found if span.name in ("image", "pictures")} == {_CALLER}


def test_what_its_caller_does_not_trace_is_not_traced(traced: Traced) -> None:
    """Neither without a span, nor with one that is not sampled: Triton itself traces the latter."""
    unsampled = trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(0))
    with Detector(traced.server.grpc_url, "fused") as detector:
        with trace.use_span(trace.NonRecordingSpan(unsampled)):
            detector.detect(image(EASY))
        with traced.tracer.start_as_current_span("caller") as caller:
            detector.detect(image(EASY))
    _complete(traced, caller, images=1)
    with pytest.raises(AssertionError, match="not complete"):
        traced.spans.wait(f"{0xABC:032x}", bool, timeout_s=0.5)


@pytest.mark.parametrize("model", ["toy", "fused"])
def test_the_clients_span_shows_a_refusal(traced: Traced, model: str) -> None:
    with traced.tracer.start_as_current_span("caller") as caller, Detector(traced.server.grpc_url, model) as detector:
        with pytest.raises(ServerError):
            detector.detect(image(EASY, FAIL_BACKBONE1))
    found = _complete(traced, caller, images=1)
    (call,) = (span for span in found if span.name == "detect")
    assert call.status == ERROR and "stage-failed" not in call.message and "backbone1" in call.message


def test_the_tree_in_a_message_shows_every_span(traced: Traced) -> None:
    trace_id = _ask(traced, "toy", "image", image(EASY)[None])
    found = traced.spans.wait(trace_id, lambda spans: len(spans) == 10)
    assert len(tree(found).splitlines()) == 10
