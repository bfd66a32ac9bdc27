"""Pairs of detectors on the real server, in both topologies: routes, failures, pictures of two rules, counters."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from PIL import Image
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from dynamicdet.letterbox import Fit, Letterboxed
from dyndet_bench.comparisons.bare import BareStages
from dyndet_bench.comparisons.baselines import write_baselines
from dyndet_bench.measuring.served import Served
from dyndet_builder.operating_points import points_file
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.tracing import Tracing
from dyndet_builder.server.triton import TritonServer
from dyndet_client import Detector
from tests.support.counting import settled
from tests.support.programs.span_receiver import SpanReceiver, receiving_spans
from tests.support.toy_pair import (
    CLASSES,
    FAIL_DETECTOR1,
    FAIL_DETECTOR2,
    FIRST_ONE_BY_ONE,
    SAME_RULE,
    SECOND_ONE_BY_ONE,
    SMALL,
    SQUARE,
    STRETCHED,
    TWO_RULES,
    Variant,
    pair_box,
    pair_image,
    write_toy_pair,
)

EASY, HARD, FALLBACK, DUE = 1, 2, -2, 0
DETECTIONS = ("num_detections", "boxes", "scores", "classes")
OUTPUTS = (*DETECTIONS, "difficulty", "route")
_MODELS: dict[str, tuple[Variant, dict[str, Any]]] = {
    "bls": (SAME_RULE, {}),
    "merging": (SAME_RULE, {"topology": "fused", "preferred_batches": (4,), "queue_delay_us": 2000}),
    "one_bls": (FIRST_ONE_BY_ONE, {}),
    "one_merging": (SECOND_ONE_BY_ONE, {"topology": "fused", "preferred_batches": (4,), "queue_delay_us": 2000}),
    "two_bls": (TWO_RULES, {"encoded": True}),
    "two_fused": (TWO_RULES, {"topology": "fused", "encoded": True}),
}
_SAME = ("bls", "merging", "one_bls", "one_merging")
_TWO = ("two_bls", "two_fused")

Answer = dict[str, Any]


@dataclass(frozen=True)
class Pairs:
    """All pairs on one server."""

    server: TritonServer
    repository: Path
    client: triton.InferenceServerClient
    spans: SpanReceiver

    def infer(
        self, model: str, outputs: tuple[str, ...] = OUTPUTS, *, threshold: float | None = None, **inputs: Any
    ) -> Answer:
        """The answer to inputs with a batch dimension."""
        given = [_input(name, array) for name, array in inputs.items()]
        if threshold is not None:
            images = len(next(iter(inputs.values())))
            given.append(_input("threshold", np.full((images, 1), threshold, np.float32)))
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        result = self.client.infer(model, given, outputs=wanted, client_timeout=30)
        return {name: result.as_numpy(name) for name in outputs}

    def error(self, model: str, **inputs: Any) -> str:
        with pytest.raises(InferenceServerException) as caught:
            self.infer(model, **inputs)
        return str(caught.value.message())

    def served(self, model: str) -> Served:
        return Served(self.server.grpc_url, model, metrics_url=self.server.metrics_url)

    def runs(self, model: str) -> dict[str, int]:
        """How many images each stage model has answered."""
        stages = read_rendered(self.repository, model=model).bundle.stages
        found = {name: self.client.get_inference_statistics(f"{model}_{name}").model_stats[0] for name in stages}
        return {stage: one.inference_count for stage, one in found.items()}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, demo_images: Path) -> Iterator[Pairs]:
    folder = tmp_path_factory.mktemp("pairs")
    repository = folder / "models"
    bundles = {variant: write_toy_pair(folder / str(number), variant=variant) for number, variant in _numbered()}
    for name, (variant, options) in _MODELS.items():
        own = RenderOptions(name=name, bls_instances=1, warmup_image=demo_images, **options)
        render(bundles[variant], repository, own, add=True)
    write_baselines(read_rendered(repository, model="bls").stage_configs, folder / "baselines", name="bls")
    with receiving_spans() as spans, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")  # ms until Triton and the models send their spans
        options = ServerOptions(
            tracing=Tracing(url=spans.url), extra_arguments=(f"--model-repository={folder / 'baselines'}",)
        )
        with TritonServer(repository, options) as server:
            client = triton.InferenceServerClient(server.grpc_url)
            yield Pairs(server, repository, client, spans)
            client.close()


def _numbered() -> Iterator[tuple[int, Variant]]:
    return enumerate(dict.fromkeys(variant for variant, _ in _MODELS.values()))  # type: ignore[return-value]


def _input(name: str, array: Any, *, http: bool = False) -> Any:
    given = (triton_http if http else triton).InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(np.ascontiguousarray(array))
    return given


def _is_of(answer: Answer, row: int, image: Any, fit: Fit, *, second: bool) -> None:
    """Row of an answer is what one of the detectors finds in an image."""
    count = 2 if second else 1
    assert answer["num_detections"][row].tolist() == [count]
    assert np.allclose(answer["boxes"][row, 0], pair_box(image.mean(), fit, second=second), rtol=0, atol=1e-3)
    share = image[0, 0, 2] / 255
    assert np.allclose(answer["scores"][row], [share, share / 2 if second else 0, 0, 0], atol=1e-5)
    assert set(answer["classes"][row]) == {1 if second else 0}


@pytest.mark.parametrize("model", _SAME)
def test_each_image_of_a_batch_is_answered_by_the_detector_of_its_route(pairs: Pairs, model: str) -> None:
    images = np.stack([pair_image(red, 0, 10 + red, seed=red) for red in (20, 240, 100)])
    answer = pairs.infer(model, threshold=0.5, image=images)
    assert answer["route"].ravel().tolist() == [EASY, HARD, EASY]
    assert np.allclose(answer["difficulty"].ravel(), np.array([20, 240, 100]) / 255)
    for row, image in enumerate(images):
        _is_of(answer, row, image, SQUARE, second=row == 1)
    for row, image in enumerate(images):  # one at a time: the same
        alone = pairs.infer(model, threshold=0.5, image=image[None])
        assert all(np.allclose(alone[name][0], answer[name][row], atol=1e-3) for name in OUTPUTS)


@pytest.mark.parametrize("model", ["bls", "merging", "one_merging"])
def test_detector_1_answers_where_detector_2_fails(pairs: Pairs, model: str) -> None:
    images = np.stack([pair_image(240, green, 50, seed=green) for green in (0, FAIL_DETECTOR2)])
    with pairs.served(model) as served:
        before = settled(lambda: served.metrics.read("dyndet_routed_total"))
        answer = pairs.infer(model, threshold=0.5, image=images)
        assert answer["route"].ravel().tolist() == [HARD, FALLBACK]
        _is_of(answer, 0, images[0], SQUARE, second=True)
        _is_of(answer, 1, images[1], SQUARE, second=False)
        assert _grown(served, before, {"hard": 1, "fallback": 1})
    assert "dyndet/stage-failed" in pairs.error(model, image=pair_image(240, FAIL_DETECTOR1)[None])


def _grown(served: Served, before: Any, by: dict[str, int]) -> bool:
    """Whether the images of some routes have grown in this way, as soon as everything is counted."""
    for _ in range(100):
        now = served.metrics.read("dyndet_routed_total")
        grown = {route: now[route] - before[route] for route in now if now[route] != before[route]}
        if grown == by:
            return True
        time.sleep(0.01)
    return False


def test_an_easy_image_is_one_stage_call_and_a_hard_one_two(pairs: Pairs) -> None:
    before = settled(lambda: pairs.runs("bls"))
    for red, outputs in ((10, OUTPUTS), (10, ("num_detections",)), (250, ("difficulty",)), (250, ("scores",))):
        pairs.infer("bls", outputs, threshold=0.5, image=pair_image(red)[None])
    after = settled(lambda: pairs.runs("bls"))
    assert {stage: after[stage] - before[stage] for stage in after} == {"detector1": 4, "detector2": 1}


@pytest.mark.parametrize("model", ["bls", "merging"])
def test_the_server_counts_the_hard_images_of_a_pair(pairs: Pairs, model: str) -> None:
    with pairs.served(model) as served:
        before, times = settled(served.counts), served.times()
        for red in (10, 20, 200, 240, 250):
            served.infer(pair_image(red), threshold=0.5, outputs=("num_detections",))
        counted, spent = served.counts_after(before, 5).since(before), served.times().since(times)
        assert served.is_pair()  # so a sweep does not compare it with the paper's networks
    assert (counted.total, counted.hard, spent.requests) == (5, 3, 5)
    assert 0 < spent.compute_ms < spent.inside_ms


@pytest.mark.parametrize("model", _TWO)
def test_detector_1_resizes_the_pixels_of_a_client_in_its_graph(pairs: Pairs, model: str) -> None:
    images = [pair_image(red, 0, 60, fit=STRETCHED, seed=red) for red in (20, 240)]
    answer = pairs.infer(model, threshold=0.5, image=np.stack(images))
    assert answer["route"].ravel().tolist() == [EASY, HARD]
    _is_of(answer, 0, images[0], STRETCHED, second=False)
    _is_of(answer, 1, images[1], STRETCHED, second=True)


@pytest.mark.parametrize("model", _TWO)
def test_a_picture_of_detector_1_alone_is_answered_or_detector_2_is_due(pairs: Pairs, model: str) -> None:
    own = np.stack([pair_image(red, 0, 60, fit=SMALL, seed=red) for red in (20, 240)])
    image = pair_image(240, 0, 60, fit=STRETCHED)
    with pairs.served(model) as served:
        before, routed = settled(served.counts), settled(lambda: served.metrics.read("dyndet_routed_total"))
        answer = pairs.infer(model, threshold=0.5, own_image=own)
        assert answer["route"].ravel().tolist() == [EASY, DUE]
        for row in range(2):
            _is_of(answer, row, own[row], SMALL, second=False)
        second = pairs.infer(model, image=image[None], difficulty=answer["difficulty"][1:])
        assert (second["route"].item(), second["difficulty"].item()) == (HARD, answer["difficulty"][1].item())
        _is_of(second, 0, image, STRETCHED, second=True)
        counted = served.counts_after(before, 2).since(before)
        assert (counted.total, counted.hard) == (2, 1)
        failing = pair_image(240, FAIL_DETECTOR2, fit=STRETCHED)
        assert "dyndet/stage-failed" in pairs.error(model, image=failing[None], difficulty=answer["difficulty"][1:])
        assert _grown(served, routed, {"easy": 1, "hard": 1, "fallback": 1})
    assert "dyndet/bad-parameter: own_image comes" in pairs.error(model, own_image=own[:1], image=image[None])
    assert "dyndet/missing-input" in pairs.error(model, difficulty=answer["difficulty"][1:])


@pytest.mark.parametrize("model", _TWO)
def test_a_file_is_fitted_for_detector_2_only_if_it_is_hard(pairs: Pairs, model: str) -> None:
    files = [_file(red, green) for red, green in ((20, 0), (240, 0), (30, 0))]
    with pairs.served(model) as served:
        before = settled(served.counts)
        runs = settled(lambda: pairs.runs(model)) if served.topology == "bls" else {}
        bytes_of = np.array([[file] for file, _ in files], object)
        answer = pairs.infer(f"{model}_encoded", threshold=0.5, image_bytes=bytes_of)
        counted = served.counts_after(before, 3).since(before)
        assert (counted.total, counted.hard) == (3, 1)
        if runs:
            ran = settled(lambda: pairs.runs(model))
            grown = {stage: ran[stage] - runs[stage] for stage in ran}
            assert grown == {"detector1": 0, "detector1_own": 3, "detector2": 1}
    assert answer["route"].ravel().tolist() == [EASY, HARD, EASY]
    for row, (_, picture) in enumerate(files):
        _is_in_picture(answer, row, picture, second=row == 1)
    file, picture = _file(240, FAIL_DETECTOR2)
    answer = pairs.infer(f"{model}_encoded", threshold=0.5, image_bytes=np.array([[file]], object))
    assert answer["route"].item() == FALLBACK
    _is_in_picture(answer, 0, picture, second=False)


def test_a_large_file_is_answered_as_a_small_one(pairs: Pairs) -> None:
    """Its pixels do not wait for the second fit, so that both fits are made at once."""
    file, picture = _file(240, 0, sides=(2400, 1800))
    answer = pairs.infer("two_bls_encoded", threshold=0.5, image_bytes=np.array([[file]], object))
    assert answer["route"].item() == HARD
    _is_in_picture(answer, 0, picture, second=True)


def _file(red: int, green: int, *, sides: tuple[int, int] = (64, 48)) -> tuple[bytes, Any]:
    """A PNG file and its pixels, wider than high."""
    picture = pair_image(red, green, 60, fit=Fit(height=sides[1], width=sides[0]), seed=red)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue(), picture


def _is_in_picture(answer: Answer, row: int, picture: Any, *, second: bool) -> None:
    """The box lies where the detector that answered has seen it, in pixels of the picture."""
    fitted: Letterboxed = (STRETCHED if second else SMALL)(picture)
    box = pair_box(fitted.image.mean(), STRETCHED if second else SMALL, second=second)
    count = 2 if second else 1
    assert answer["num_detections"][row].tolist() == [count]
    assert np.allclose(answer["boxes"][row, 0], fitted.to_original([box])[0], atol=0.05)
    assert not answer["boxes"][row, count:].any()


@pytest.mark.parametrize("model", ["bls", "two_fused"])
def test_the_client_and_operating_points_work_as_with_any_detector(pairs: Pairs, model: str) -> None:
    file, picture = _file(100, 0)
    path = points_file(pairs.repository, model)
    content = json.loads(path.read_text())
    with Detector(pairs.server.grpc_url, model=model) as detector:
        assert detector.class_names == CLASSES
        for threshold, route in ((0.3, "hard"), (0.5, "easy")):
            content["points"][content["default"]]["threshold"] = threshold
            path.write_text(json.dumps(content))
            assert detector.default_threshold == threshold
            found = detector.detect(file, min_score=0.0)
            assert found.route == route
    fit = STRETCHED if model == "two_fused" else SQUARE
    fitted = fit(picture)
    assert len(found.boxes) == 1
    told = pairs.infer("two_bls_encoded", ("operating_points",), image_bytes=np.array([[file]], object))
    assert json.loads(told["operating_points"].item())["points"]
    expected = fitted.to_original([pair_box(fitted.image.mean(), fit, second=False)])
    assert np.allclose(found.boxes, expected, atol=0.1)


@pytest.mark.parametrize("model", ["bls", "two_bls"])
def test_metrics_name_the_stages(pairs: Pairs, model: str) -> None:
    with pairs.served(model) as served:
        stages = set(served.metrics.read("dyndet_stage_errors_total"))
    assert stages == {"detector1", "detector2"} | ({"detector1_own"} if model == "two_bls" else set())


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        ("bls", {"easy": ["detector1"], "hard": ["detector1", "detector2"]}),
        ("merging", {"easy": ["detector1"], "hard": ["detector1", "detector2"]}),
        ("two_bls_encoded", {"easy": ["detector1_own"], "due": ["detector1_own"], "hard": ["detector2"]}),
    ],
)
def test_traces_name_the_stages_that_ran(pairs: Pairs, model: str, stages: dict[str, list[str]]) -> None:
    trace_id = np.random.default_rng().bytes(16).hex()
    if model.endswith("_encoded"):
        given = _input("image_bytes", np.array([[_file(red, 0)[0]] for red in (20, 240)], object), http=True)
    else:
        given = _input("image", np.stack([pair_image(20), pair_image(240)]), http=True)
    with triton_http.InferenceServerClient(pairs.server.http_url) as client:
        client.infer(model, [given], headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    found = pairs.spans.wait(trace_id, lambda spans: sum(one.name == "image" for one in spans) == len(stages))
    ran = {
        image.attributes["dyndet.route"]: [one.name for one in found if one.parent_id == image.span_id]
        for image in found
        if image.name == "image"
    }
    assert ran == stages


def test_a_pair_is_compared_with_bare_calls_and_with_triton_s_own_ways(pairs: Pairs) -> None:
    bare = BareStages(read_rendered(pairs.repository, model="two_bls").graphs)
    image = pair_image(102, blue=70, fit=STRETCHED)
    for threshold in (0.1, 0.9):
        answer = pairs.infer("two_bls", DETECTIONS, threshold=threshold, image=image[None])
        for name, array in zip(DETECTIONS, bare.answer(image, threshold), strict=True):
            assert np.allclose(answer[name], array, atol=1e-4), name
    image = pair_image(102, blue=70)
    for threshold, baseline in ((0.1, "bls_static"), (0.9, "bls_detector1")):
        answer = pairs.infer("bls", DETECTIONS, threshold=threshold, image=image[None])
        for found in (
            pairs.infer(baseline, DETECTIONS, image=image[None]),
            pairs.infer("bls_textbook", DETECTIONS, threshold=threshold, image=image[None].astype(np.float32)),
        ):
            assert all(np.allclose(answer[name], found[name], atol=1e-4) for name in DETECTIONS)
