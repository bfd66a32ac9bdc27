"""The public model on the real server: routes and failures commanded by the pixels of a toy bundle's images.

Every test runs in both topologies, and in `fused` also with requests that one call merges into a batch.
"""

from __future__ import annotations

import asyncio
import os
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from dynamicdet.images import read_image
from dynamicdet.letterbox import letterbox
from dyndet_builder.bundle.manifest import read_bundle
from dyndet_builder.operating_points import OperatingPoint, OperatingPoints
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.triton import TritonServer
from dyndet_client import AsyncDetector, Detector
from tests.support.rendered.metrics import metric
from tests.support.toy_bundle import FAIL_BACKBONE1, FAIL_DETECTOR2, FAIL_HEAD1, NAN, image, write_toy_bundle

EASY, HARD, FALLBACK = 1, 2, -2
OUTPUTS = ("num_detections", "boxes", "scores", "classes", "difficulty", "route")
STAGES = ("backbone1", "head1", "detector2")

Answer = dict[str, Any]


@dataclass(frozen=True)
class Toy:
    """A served toy bundle."""

    server: TritonServer
    repository: Path
    client: triton.InferenceServerClient
    kind: str = "bls"
    """the topology, or fused-merging"""
    model: str = "toy"

    def infer(
        self,
        images: Any,
        *,
        threshold: Any = None,
        outputs: tuple[str, ...] = OUTPUTS,
        parameters: dict[str, Any] | None = None,
    ) -> Answer:
        """The answer to one image (H, W, 3) or a batch of them."""
        batch = images if images.ndim == 4 else images[None]
        inputs = [_input("image", batch)]
        if threshold is not None:
            inputs.append(_input("threshold", np.array(threshold, np.float32).reshape(-1, 1)))
        wanted = [triton.InferRequestedOutput(name) for name in outputs]
        result = self.client.infer(self.model, inputs, outputs=wanted, parameters=parameters, client_timeout=30)
        return {name: result.as_numpy(name) for name in outputs}

    def error(self, images: Any, **options: Any) -> str:
        """What the server says to a request that it refuses."""
        with pytest.raises(InferenceServerException) as caught:
            self.infer(images, **options)
        return str(caught.value.message())

    def runs(self, model: str) -> tuple[int, int]:
        """How many images a model has answered, and in how many executions."""
        found = self.client.get_inference_statistics(model).model_stats[0]
        return found.inference_count, found.execution_count

    def metric(self, name: str, **labels: str) -> float:
        return metric(self.server, name, **labels)


@pytest.fixture(scope="module", params=["bls", "fused", "fused-merging"])
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo_images: Path) -> Iterator[Toy]:
    folder = tmp_path_factory.mktemp("toy")
    options = RenderOptions(
        topology="bls" if request.param == "bls" else "fused",
        bls_instances=1,  # one instance, so that calls merge requests
        preferred_batches=(4,) if request.param == "fused-merging" else (),
        queue_delay_us=2000 if request.param == "fused-merging" else 0,
        warmup_image=demo_images,
    )
    repository = render(write_toy_bundle(folder / "bundle"), folder / "models", options)
    with TritonServer(repository) as server:
        client = triton.InferenceServerClient(server.grpc_url)
        yield Toy(server, repository, client, request.param)
        client.close()


def _input(name: str, array: Any) -> triton.InferInput:
    given = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(np.ascontiguousarray(array))
    return given


def _route(answer: Answer) -> int:
    return int(answer["route"].item())


def _same(left: Answer, right: Answer) -> bool:
    return all(np.allclose(left[name], right[name], rtol=1e-5, atol=1e-4, equal_nan=True) for name in OUTPUTS)


def test_threshold_input_decides_the_route(toy: Toy) -> None:
    """An image is hard when its difficulty exceeds the threshold; the stage that answers is the one of the route."""
    picture = image(red=102, blue=51)  # difficulty 0.4
    easy, hard = toy.infer(picture, threshold=0.41), toy.infer(picture, threshold=0.39)
    assert (_route(easy), easy["num_detections"].item()) == (EASY, 1)
    assert (_route(hard), hard["num_detections"].item()) == (HARD, 2)
    assert hard["boxes"][0, 0, 0] - easy["boxes"][0, 0, 0] == pytest.approx(1000, abs=0.01)
    for answer in (easy, hard):
        assert answer["difficulty"].item() == pytest.approx(0.4)
        assert answer["scores"][0, 0] == pytest.approx(0.2)
    assert _route(toy.infer(picture, threshold=1)) == EASY
    assert _route(toy.infer(picture, threshold=0)) == HARD


def test_the_ends_are_absolute(toy: Toy) -> None:
    """Threshold 0 is all-hard and 1 is all-easy for every difficulty, as `dynamicdet.thresholds` has it."""
    for red, value in ((0, 0.0), (254, 254 / 255)):
        hard, easy = (toy.infer(image(red), threshold=threshold) for threshold in (0.0, 1.0))
        assert hard["difficulty"].item() == pytest.approx(value)
        assert (hard["route"].item(), easy["route"].item()) == (2, 1)


def test_nan_difficulty_is_hard_at_every_threshold(toy: Toy) -> None:
    for threshold in (None, 0, 1):
        answer = toy.infer(image(red=NAN), threshold=threshold)
        assert np.isnan(answer["difficulty"]).all()
        assert (_route(answer), answer["num_detections"].item()) == (HARD, 2)


def _check_told(toy: Toy) -> None:
    """What clients learn of the operating points; asking is no detection, and answers to others are without them."""
    counted = toy.metric("dyndet_routed_total", model="toy", route="easy")
    with Detector(toy.server.grpc_url, "toy") as detector:
        told = detector.operating_points
        assert detector.default_threshold == 0.1
    assert str(told["fast"]) == "fast: threshold 0.9, mean 8.9 ms (promise 9 ms)"
    assert str(told["exact"]) == "exact: threshold 0.1, not measured, default"

    async def asked() -> bool:
        async with AsyncDetector(f"http://{toy.server.http_url}", "toy") as detector:
            return await detector.operating_points == told and await detector.default_threshold == 0.1

    assert asyncio.run(asked())
    assert toy.infer(np.stack([image(10)] * 2), outputs=("operating_points",))["operating_points"].shape == (2, 1)
    assert toy.metric("dyndet_routed_total", model="toy", route="easy") == counted
    assert toy.infer(image(10), outputs=("route", "operating_points"))["operating_points"] is None


def test_operating_points_by_name_by_default_and_replaced_while_serving(toy: Toy) -> None:
    """The file beside the model is read again when it is replaced; a damaged one changes nothing."""
    path = toy.repository / "toy" / "1" / "operating_points.json"
    before, picture = path.read_bytes(), image(red=102)
    try:
        measured = {"target": "9ms", "statistic": "mean", "unit": "ms", "goal": 9.0, "reached": 8.9}
        points = {"fast": OperatingPoint(threshold=0.9, **measured), "exact": OperatingPoint(threshold=0.1)}
        _replace(path, OperatingPoints(default="exact", points=points).model_dump_json())
        assert _route(toy.infer(picture)) == HARD
        _check_told(toy)
        assert toy.metric("dyndet_threshold", model="toy") == pytest.approx(0.1)
        assert _route(toy.infer(picture, parameters={"dyndet_operating_point": "fast"})) == EASY
        assert _route(toy.infer(picture, threshold=0.2, parameters={"dyndet_operating_point": "fast"})) == HARD
        unknown = toy.error(picture, parameters={"dyndet_operating_point": "turbo"})
        assert unknown.startswith("dyndet/unknown-operating-point: operating point 'turbo' is not known")
        assert "'exact' and 'fast'" in unknown
        for damaged in (
            "{",
            "[]",
            '{"default": "gone", "points": {}}',
            '{"default":"a","points":{"a":{"threshold":7}}}',
            '{"default":[],"points":{"a":{"threshold":0.5}}}',
            '{"default":"a","points":{"a":{"threshold":1' + "0" * 400 + "}}}",
            '{"default":"\\ud800","points":{"\\ud800":{"threshold":0.5}}}',
            "[" * 200_000,
        ):
            _replace(path, damaged)
            assert _route(toy.infer(picture)) == HARD, damaged
        _check_told(toy)
        path.unlink()
        assert _route(toy.infer(picture)) == HARD
        _replace(path, OperatingPoints(default="fast", points=points).model_dump_json())
        assert _route(toy.infer(picture)) == EASY
        assert "is damaged" in toy.server.log_file.read_text()
    finally:
        _replace(path, before.decode())


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


def test_batch_with_mixed_routes_equals_single_requests(toy: Toy) -> None:
    pictures = [image(red=red, blue=red, seed=red) for red in (10, 240, 30, NAN, 200)]
    pictures.append(image(red=240, green=FAIL_DETECTOR2, seed=6))
    singles = [toy.infer(picture) for picture in pictures]
    assert [_route(single) for single in singles] == [EASY, HARD, EASY, HARD, HARD, FALLBACK]
    batch = toy.infer(np.stack(pictures))
    for row, single in enumerate(singles):
        assert _same({name: batch[name][row : row + 1] for name in OUTPUTS}, single), row


def test_thresholds_of_a_batch_belong_to_its_images(toy: Toy) -> None:
    pictures = np.stack([image(red=102, seed=seed) for seed in range(3)])
    assert toy.infer(pictures, threshold=[0.1, 0.9, 0.1])["route"].ravel().tolist() == [HARD, EASY, HARD]


def test_detector1_answers_when_detector2_fails(toy: Toy) -> None:
    picture = image(red=240, green=FAIL_DETECTOR2, blue=51)
    errors = toy.metric("dyndet_stage_errors_total", stage="detector2")
    fallbacks = toy.metric("dyndet_routed_total", route="fallback")
    answer = toy.infer(picture)
    assert (_route(answer), answer["num_detections"].item()) == (FALLBACK, 1)
    assert answer["scores"][0, 0] == pytest.approx(0.2)
    assert toy.metric("dyndet_stage_errors_total", stage="detector2") == errors + 1
    assert toy.metric("dyndet_routed_total", route="fallback") == fallbacks + 1


@pytest.mark.parametrize(("stage", "green"), [("backbone1", FAIL_BACKBONE1), ("head1", FAIL_HEAD1)])
def test_a_failing_stage_gives_one_error_and_the_next_request_is_answered(toy: Toy, stage: str, green: int) -> None:
    errors = toy.metric("dyndet_stage_errors_total", stage=stage)
    named = f"toy_{stage}" if toy.kind == "bls" else stage
    assert (
        toy.error(image(red=10, green=green)) == f"dyndet/stage-failed: stage {named} failed: the server's log says why"
    )
    said = (f"stage {named} failed", "while running Gather node")
    deadline = time.monotonic() + 10  # the answer can arrive before the server has written its log
    while not all(text in (log := toy.server.log_file.read_text()) for text in said):
        assert time.monotonic() < deadline, log[-2000:]
        time.sleep(0.05)
    assert toy.metric("dyndet_stage_errors_total", stage=stage) == errors + 1
    assert _route(toy.infer(image(red=10))) == EASY


def test_concurrent_requests_merge_and_keep_order_and_errors_apart(toy: Toy) -> None:
    """Requests of one call are answered each by its own image; one that fails does not touch the others."""
    greens = (0, 0, FAIL_BACKBONE1, 0, FAIL_DETECTOR2, 0, FAIL_HEAD1, 0)
    pictures = [image(red=(seed * 37) % 255, green=greens[seed % 8], blue=seed, seed=seed) for seed in range(64)]

    def ask(picture: Any) -> Answer | str:
        try:
            return toy.infer(picture)
        except InferenceServerException as error:
            return str(error.message())

    alone = [ask(picture) for picture in pictures]
    images, executions = toy.runs("toy")
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, pictures))
    more_images, more_executions = (new - old for new, old in zip(toy.runs("toy"), (images, executions), strict=True))
    if toy.kind == "fused-merging":
        assert 0 < more_executions < more_images  # else nothing was merged, and this test proved nothing
    for one, other in zip(alone, together, strict=True):
        if isinstance(one, str):
            assert isinstance(other, str)
            assert one.split(":")[:2] == other.split(":")[:2]  # the code, and the stage that failed
        else:
            assert isinstance(other, dict)
            assert _same(one, other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 2])
def test_threshold_outside_0_to_1_is_refused(toy: Toy, value: float) -> None:
    said = toy.error(image(red=10), threshold=value)
    assert said.startswith(f"dyndet/bad-threshold: threshold must be a finite number from 0 to 1, not {value:g}")


def test_wrong_shapes_and_types_are_refused_and_the_server_lives(toy: Toy) -> None:
    with pytest.raises(InferenceServerException, match="dyndet/missing-input: the input image is missing"):
        toy.client.infer("toy", [_input("threshold", np.array([[0.5]], np.float32))], client_timeout=30)
    assert "Expected [-1,32,32,3], got [1,31,32,3]" in toy.error(image(10)[:31])
    assert "expects 'UINT8'" in toy.error(image(10).astype(np.float32))
    assert "batch-size must be <= 8" in toy.error(np.stack([image(10)] * 9))
    assert "batch size does not match" in toy.error(image(10), threshold=[0.1, 0.2])
    assert _route(toy.infer(image(10))) == EASY


def test_no_stage_runs_whose_output_is_not_used(toy: Toy) -> None:
    """By Triton's counters; a fused detector has no stage models, but tells the time spent in each of its graphs."""

    def used() -> list[float]:
        if toy.kind == "bls":
            return [toy.runs(f"toy_{stage}")[0] for stage in STAGES]
        return [toy.metric("dyndet_stage_seconds_total", model="toy", stage=stage) for stage in STAGES]

    def ran(ask: Callable[[], object]) -> list[bool]:
        before = used()
        ask()
        return [new > old for new, old in zip(used(), before, strict=True)]

    assert ran(lambda: toy.infer(image(10))) == [True, True, False]
    assert ran(lambda: toy.infer(image(240))) == [True, False, True]
    assert ran(lambda: toy.infer(image(240), outputs=("difficulty", "route"))) == [True, False, False]
    assert ran(lambda: toy.infer(image(240), outputs=("scores",))) == [True, False, True]
    assert toy.infer(image(240), outputs=("route",))["route"].item() == HARD


def test_metrics_count_images_by_route(toy: Toy) -> None:
    def read() -> list[float]:
        routes = [toy.metric("dyndet_routed_total", model="toy", route=route) for route in ("easy", "hard")]
        up_to = [toy.metric("dyndet_difficulty_bucket", model="toy", le=bound) for bound in ("0.1", "0.15", "+Inf")]
        return [*routes, *up_to, toy.metric("dyndet_latency_ms_count", model="toy")]

    before = read()
    toy.infer(np.stack([image(red=31), image(red=240), image(red=NAN)]))  # difficulties 0.12, 0.94, NaN
    assert [new - old for new, old in zip(read(), before, strict=True)] == [1, 2, 0, 1, 2, 1]


def _failed(toy: Toy) -> dict[str, float]:
    reasons = ("bad_request", "stage_failed", "cancelled", "refused", "overloaded", "internal")
    return {one: toy.metric("dyndet_requests_failed_total", model="toy", reason=one) for one in reasons}


def test_a_failed_request_is_counted_once_by_its_reason(toy: Toy) -> None:
    before = _failed(toy)
    toy.error(image(10), threshold=7)
    toy.error(image(10), parameters={"dyndet_operating_point": "turbo"})
    toy.error(np.stack([image(10, FAIL_HEAD1), image(10, FAIL_HEAD1)]))
    toy.infer(image(240, FAIL_DETECTOR2))  # answered by detector 1
    more = {reason: count - before[reason] for reason, count in _failed(toy).items()}
    assert more.pop("bad_request") == 2
    assert more.pop("stage_failed") == 1
    assert set(more.values()) == {0}


def test_failed_batches_harm_no_server(toy: Toy) -> None:
    """One image fails while the other is computed: the request must not be answered, and freed, before both ended."""
    for _ in range(60):
        assert "stage-failed" in toy.error(np.stack([image(10, FAIL_HEAD1), image(10, FAIL_HEAD1)]))
        toy.infer(image(240, FAIL_DETECTOR2))


def test_probes_are_answered_and_counted_apart(toy: Toy) -> None:
    def read() -> list[float]:
        routed = [toy.metric("dyndet_routed_total", route=route) for route in ("easy", "hard", "fallback")]
        return [*routed, toy.metric("dyndet_latency_ms_count"), toy.metric("dyndet_difficulty_count")]

    def probed() -> list[float]:
        return [toy.metric("dyndet_probed_total", route=route) for route in ("easy", "hard")]

    probe: dict[str, Any] = {"dyndet_probe": True}
    before, failed, (easy, hard) = read(), _failed(toy), probed()
    assert [_route(toy.infer(image(red), parameters=probe)) for red in (10, 240)] == [EASY, HARD]
    assert "bad-threshold" in toy.error(image(10), threshold=7, parameters=probe)
    assert "stage-failed" in toy.error(image(10, FAIL_HEAD1), parameters=probe)
    assert (read(), _failed(toy), probed()) == (before, failed, [easy + 1, hard + 1])


def test_requests_that_nobody_waits_for_any_more_are_refused_uncomputed(toy: Toy) -> None:
    """Each allows 5 ms from when it was sent; the server needs far longer for all of them."""

    def sent() -> dict[str, Any]:
        return {"dyndet_sent": f"clock:{time.monotonic_ns() // 1000}"}

    toy.infer(image(10), parameters=sent())
    before, routed = _failed(toy), toy.metric("dyndet_routed_total", route="easy")
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    inputs = [_input("image", image(10)[None])]
    for _ in range(300):
        toy.client.async_infer(
            "toy",
            inputs,
            callback=lambda result, error: ended.put(str(error)),
            parameters=sent(),
            timeout=5_000,
        )
    results = Counter(ended.get(timeout=30).partition(": ")[0] for _ in range(300))
    late = sum(count for text, count in results.items() if text.endswith("dyndet/deadline-exceeded"))
    assert late > 30, results
    assert late + results["None"] == 300
    assert _failed(toy)["cancelled"] - before["cancelled"] == late
    assert toy.metric("dyndet_routed_total", route="easy") - routed == results["None"]


def test_a_request_without_a_time_limit_is_answered_however_long_it_waited(toy: Toy) -> None:
    """Also where its clock differs from the server's, runs backwards, or is no clock."""
    for sent in ("a:5", f"a:{10**15}", "a:7", "b:-1", "c", "", ":", "d:" + "9" * 30):
        assert _route(toy.infer(image(10), parameters={"dyndet_sent": sent})) == EASY


def test_cancelled_requests_leave_the_server_right(toy: Toy) -> None:
    pending = [
        toy.client.async_infer("toy", [_input("image", image(240, seed=seed)[None])], callback=lambda **_: None)
        for seed in range(40)
    ]
    for call in pending:
        call.cancel()
    expected = toy.infer(image(10, blue=99))
    assert (_route(expected), expected["scores"][0, 0]) == (EASY, pytest.approx(99 / 255))


def test_both_routes_equal_bare_onnx_runtime(server: TritonServer, bundle_folder: Path, demo_images: Path) -> None:
    """What the server answers on real photographs is what the bundle's graphs give, singly and in a batch."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    bundle = read_bundle(bundle_folder)
    sessions = {name: onnxruntime.InferenceSession(bundle_folder / bundle.stages[name].file) for name in STAGES}
    served = Toy(server, server.repository, triton.InferenceServerClient(server.grpc_url), model=bundle.name)
    files = sorted(demo_images.glob("*.jpg"))[:4]
    pictures = np.stack([letterbox(read_image(path), bundle.input_size).image for path in files])
    batch = {threshold: served.infer(pictures, threshold=[threshold] * len(files)) for threshold in (0.0, 1.0)}
    names = [tensor.name for tensor in bundle.stages["backbone1"].outputs]
    for row, picture in enumerate(pictures):
        known = dict(zip(names, sessions["backbone1"].run(names, {"image": picture[None]}), strict=True))
        known["image"] = picture[None]
        for threshold, stage in ((1.0, "head1"), (0.0, "detector2")):
            feed = {tensor.name: known[tensor.name] for tensor in bundle.stages[stage].inputs}
            outputs = [tensor.name for tensor in bundle.stages[stage].outputs]
            bare = dict(zip(outputs, sessions[stage].run(outputs, feed), strict=True))
            single = served.infer(picture, threshold=threshold)
            for answer in (single, {name: batch[threshold][name][row : row + 1] for name in OUTPUTS}):
                assert answer["difficulty"].item() == pytest.approx(known["difficulty"].item(), abs=1e-4)
                _assert_same_detections(answer, bare)


def _assert_same_detections(served: Answer, bare: Answer) -> None:
    """Every clear detection of one is found in the other; order and faint ones may differ in the last digit."""
    for left, right in ((served, bare), (bare, served)):
        for box, score, number in zip(left["boxes"][0], left["scores"][0], left["classes"][0], strict=True):
            if score < 0.05:
                continue
            near = np.abs(right["boxes"][0] - box).max(axis=1) < 0.05
            assert (near & (right["classes"][0] == number) & (np.abs(right["scores"][0] - score) < 1e-3)).any()
