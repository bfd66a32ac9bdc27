"""The public model under load on the real server: what waits in its queue, what is degraded, and what is refused.

The stages of a toy bundle are slowed down, so that it is known which answers are in time: detector 1 takes a few
milliseconds and detector 2 a third of a second.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.triton import TritonServer
from tests.support.picture_files import encode
from tests.support.rendered.metrics import metric, metric_now
from tests.support.rendered.slow_stages import slow_down
from tests.support.toy_bundle import SIZE, image, write_toy_bundle

EASY, HARD, DEGRADED = 1, 2, -3
SLOW = {"backbone1": 0.002, "head1": 0.002, "detector2": 0.3}
"""seconds that stages take longer"""


@dataclass
class Slow:
    """A served detector whose detector 2 is slow."""

    server: TritonServer
    points: Path
    client: triton.InferenceServerClient
    order: list[str] = field(default_factory=list)
    """names of requests as their answers came"""
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def ask(
        self, red: int, name: str = "", *, encoded: bool = False, threshold: float | None = None, **terms: Any
    ) -> Any:
        """Send a request; its future has the route, or raises what the server says."""
        picture, answer = image(red), Future()  # type: ignore[var-annotated]
        data = np.array([[encode(picture)]], object) if encoded else picture[None]
        given = [triton.InferInput("image_bytes" if encoded else "image", data.shape, "BYTES" if encoded else "UINT8")]
        given[0].set_data_from_numpy(data)
        if threshold is not None:
            given.append(triton.InferInput("threshold", [1, 1], "FP32"))
            given[1].set_data_from_numpy(np.array([[threshold]], np.float32))

        def ended(result: Any, error: Any) -> None:
            with self._changed:
                self.order.append(name)
                self._changed.notify_all()
            if error is None:
                answer.set_result(int(result.as_numpy("route").item()))
            else:
                answer.set_exception(error)

        answer.call = self.client.async_infer(  # type: ignore[attr-defined]
            "toy_encoded" if encoded else "toy",
            given,
            callback=ended,
            outputs=[triton.InferRequestedOutput(output) for output in ("num_detections", "route")],
            parameters={f"dyndet_{key}": value for key, value in terms.items()},
        )
        return answer

    def route(self, red: int, **terms: Any) -> int:
        """The route of an answer."""
        return int(self.ask(red, **terms).result(timeout=30))

    def refused(self, red: int, **terms: Any) -> str:
        """What the server says to a request that it refuses."""
        with pytest.raises(InferenceServerException) as caught:
            self.route(red, **terms)
        return f"{caught.value.status()} {caught.value.message()}"

    def wait_for(self, count: int) -> None:
        """Wait until so many of the requests since `order` was emptied are answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.order) >= count, timeout=30)

    def metric(self, name: str, **labels: str) -> float:
        return metric(self.server, name, model="toy", **labels)

    def metric_now(self, name: str, **labels: str) -> float:
        return metric_now(self.server, name, model="toy", **labels)


@pytest.fixture(scope="module", params=["bls", "fused"])
def slow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    folder = tmp_path_factory.mktemp("slow")
    options = RenderOptions(topology=request.param, bls_instances=1, threads=1, encoded=True)
    repository = render(write_toy_bundle(folder / "bundle"), folder / "models", options)
    slow_down(repository, SLOW)
    settings = repository / "toy" / "1" / "dyndet.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps({**content, "workers": min(2, content["workers"])}))  # so few requests make a queue
    with TritonServer(repository) as server, triton.InferenceServerClient(server.grpc_url) as client:
        yield Slow(server, repository / "toy" / "1" / "operating_points.json", client)


@pytest.fixture
def busy(slow: Slow) -> Iterator[Slow]:
    """The same while detector 2 answers and others wait; these requests are called `hard`."""
    slow.order.clear()
    pending = [slow.ask(240, "hard") for _ in range(5)]
    end = time.monotonic() + 30
    while slow.metric_now("dyndet_queue") < 2:  # while there was only one, the others waited in Triton's queue
        assert time.monotonic() < end
        time.sleep(0.01)
    yield slow
    for one in pending:
        assert one.result(timeout=30) == HARD


def _replace(path: Path, content: Any) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(content if isinstance(content, str) else json.dumps(content))
    temporary.replace(path)


@pytest.mark.parametrize("encoded", [False, True])
def test_detector_2_answers_only_if_the_deadline_leaves_it_time(slow: Slow, encoded: bool) -> None:
    """Otherwise detector 1 does, which the route says; numbers come as they are, and as text."""
    for deadline in (250, "250.5"):
        before = slow.metric("dyndet_routed_total", route="degraded")
        assert slow.route(240, encoded=encoded, deadline_ms=deadline) == DEGRADED
        assert slow.metric("dyndet_routed_total", route="degraded") == before + 1
        assert slow.route(10, encoded=encoded, deadline_ms=deadline) == EASY
    assert slow.route(240, encoded=encoded, deadline_ms=30_000) == HARD
    assert slow.route(240, encoded=encoded) == HARD
    assert slow.route(240, encoded=encoded, deadline_ms=10_250, waited_us=10_000_000) == DEGRADED


def test_a_queue_refuses_at_once_what_cannot_be_in_time_and_takes_up_the_urgent_first(busy: Slow) -> None:
    """The refusal comes before those that wait are answered, and names the wait after which another try makes sense."""
    refused = busy.metric_now("dyndet_requests_failed_total", reason="overloaded")
    answered = len(busy.order)
    busy.ask(10, "patient")
    busy.ask(10, "urgent", priority=9)
    with pytest.raises(InferenceServerException) as caught:
        busy.ask(10, "late", deadline_ms=1).result(timeout=30)
    assert busy.order.index("late") <= answered + 1
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert re.fullmatch(
        r"dyndet/overloaded: no answer is possible within 1 ms of the request's arrival; try again in \d+ ms",
        caught.value.message(),
    )
    busy.wait_for(8)
    last = max(place for place, name in enumerate(busy.order) if name == "hard")
    assert busy.order.index("urgent") < min(last, busy.order.index("patient"))
    assert busy.metric("dyndet_requests_failed_total", reason="overloaded") == refused + 1
    assert busy.metric_now("dyndet_queue") == 0
    assert busy.metric_now("dyndet_arrivals_total") >= 8


def test_files_are_refused_as_the_detector_refuses_their_pictures(slow: Slow) -> None:
    said = slow.refused(10, encoded=True, deadline_ms=10_000, waited_us=20_000_000)
    assert re.match(r"StatusCode.UNAVAILABLE dyndet/overloaded: .*; try again in \d+ ms$", said)


def test_cancelled_requests_are_never_started(busy: Slow) -> None:
    before = busy.metric("dyndet_routed_total", route="easy")
    cancelled = busy.metric("dyndet_requests_failed_total", reason="cancelled")
    given_up = [busy.ask(10, "given up") for _ in range(4)]
    time.sleep(0.05)  # until they wait
    for one in given_up:
        one.call.cancel()
    assert busy.route(20) == EASY
    assert busy.metric("dyndet_routed_total", route="easy") == before + 1
    assert busy.metric("dyndet_requests_failed_total", reason="cancelled") == cancelled + 4


def test_a_tenants_budget_pays_for_detector_2(slow: Slow) -> None:
    """What it does not pay for is degraded; others, and probes, are not concerned. Each tenant has its own point."""
    content, before = json.loads(slow.points.read_text()), slow.points.read_text()
    content["points"]["quick"] = {"threshold": 1.0}
    content["tenants"] = {
        "small": {"hard_per_s": 0.001, "burst": 2},
        "hasty": {"hard_per_s": 100, "burst": 100, "operating_point": "quick"},
    }
    try:
        _replace(slow.points, content)
        assert [slow.route(240, tenant="small") for _ in range(3)] == [HARD, HARD, DEGRADED]
        _replace(slow.points, json.dumps(content).replace("0.001", "-1"))  # damaged: the last good rules stay in force
        assert slow.route(240, tenant="small", probe=True) == HARD
        assert slow.route(240, tenant="small") == DEGRADED
        assert slow.route(240, tenant="hasty") == EASY
        assert slow.route(240, tenant="unknown") == slow.route(240) == HARD
        assert slow.metric("dyndet_tenant_routed_total", tenant="small", route="hard") == 2
        assert slow.metric("dyndet_tenant_routed_total", tenant="small", route="degraded") == 2
        assert slow.metric("dyndet_tenant_routed_total", tenant="hasty", route="easy") == 1
        assert slow.metric("dyndet_tenant_routed_total", tenant="other", route="hard") == 2
    finally:
        _replace(slow.points, before)


def test_an_operating_point_that_follows_the_load_degrades_and_one_that_does_not_waits(slow: Slow) -> None:
    content, before = json.loads(slow.points.read_text()), slow.points.read_text()
    content["points"][content["default"]]["follow_load"] = {"promise_ms": 500, "statistic": "p95"}
    try:
        _replace(slow.points, content)
        fixed = slow.ask(240, threshold=0.5)
        followed = [slow.ask(240) for _ in range(4)]
        routes = [one.result(timeout=30) if one.exception(timeout=30) is None else None for one in followed]
        assert fixed.result(timeout=30) == HARD
        assert routes.count(HARD) < len(routes), routes
    finally:
        _replace(slow.points, before)
    assert slow.route(240) == HARD


def test_a_gateway_can_set_parameters_by_headers(slow: Slow) -> None:
    data = triton.InferInput("image", [1, SIZE, SIZE, 3], "UINT8")
    data.set_data_from_numpy(image(240)[None])
    over_http = http.InferInput("image", [1, SIZE, SIZE, 3], "UINT8")
    over_http.set_data_from_numpy(image(240)[None])
    headers = {"Dyndet_Deadline_Ms": "250", "dyndet_priority": "1", "dyndet_tenant": "a"}
    lower = {name.lower(): value for name, value in headers.items()}  # as gRPC wants them
    assert slow.client.infer("toy", [data], headers=lower).as_numpy("route").item() == DEGRADED
    with http.InferenceServerClient(slow.server.http_url) as client:
        assert client.infer("toy", [over_http], headers=headers).as_numpy("route").item() == DEGRADED


@pytest.mark.parametrize(
    "terms",
    [
        {"deadline_ms": 0},
        {"deadline_ms": "soon"},
        {"deadline_ms": True},
        {"priority": 10},
        {"priority": "-1"},
        {"tenant": "a b"},
        {"tenant": ""},
        {"tenant": 7},
        {"waited_us": -1},
        {"deadline_ms": 10**18},
        {"deadline_ms": "1e308"},
        {"waited_us": 2**62},
        {"probe": "yes"},
        {"probe": 1},
    ],
    ids=str,
)
def test_other_values_are_refused(slow: Slow, terms: dict[str, Any]) -> None:
    ((name, value),) = terms.items()
    limit = {"deadline_ms": "at most 1000000000,", "waited_us": "from 0 to 1000000000000,"}.get(name, "")
    for encoded in (False, True):
        said = slow.refused(10, encoded=encoded, **terms)
        assert said.startswith(f"StatusCode.INVALID_ARGUMENT dyndet/bad-parameter: dyndet_{name} must be ")
        assert f"{limit} not {value!r}" in said
