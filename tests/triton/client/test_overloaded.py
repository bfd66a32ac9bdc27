"""Deadline, priority and tenant reach the real server; a server that refuses, because it is overloaded, is asked once
more. The toy detector refuses as often as a file beside it says, in the words of a real refusal."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import pytest

from dynamicdet.files import whole_file
from dyndet_builder.cli import dyndet, run
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.ports import free_ports
from dyndet_builder.server.triton import TritonServer
from dyndet_client import AsyncDetector, DeadlineExceededError, Detections, Detector, OverloadedError, Retries
from tests.support.picture_files import encode
from tests.support.toy_bundle import image, write_toy_bundle

REFUSING = '''

import os
import time

from refusals import overloaded, read_parameters

_Served = TritonPythonModel


class TritonPythonModel(_Served):
    """Notes each request; refuses the next ones with the waits, in ms, that the file `waits` has."""

    def execute(self, requests):
        refused, rest = [], []
        for request in requests:
            waits = json.loads(FOLDER.joinpath("waits").read_text())
            with FOLDER.joinpath("asked").open("a") as file:
                file.write(json.dumps({**read_parameters(request), "at": time.monotonic()}) + "\\n")
            FOLDER.joinpath("waits").write_text(json.dumps(waits[1:]))
            (refused if waits[:1] > [0] else rest).append((request, waits[:1]))
        responses = [pb_utils.InferenceResponse(error=self.refusal(wait[0])) for _, wait in refused]
        if len(requests) == 1:
            return responses or super().execute(requests)
        for (request, _), response in zip(refused, responses):
            self.respond(request, response)
        for request, _ in rest:
            for response in super().execute([request]) or []:
                self.respond(request, response)
        return None

    def refusal(self, wait):
        error = overloaded("the request cannot be answered within 70 ms", wait / 1e3)
        return pb_utils.TritonError(str(error), getattr(pb_utils.TritonError, error.status))

    def respond(self, request, response):
        request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
'''


class Toy:
    """A running toy detector that refuses on command."""

    def __init__(self, server: TritonServer, repository: Path, folder: Path) -> None:
        self.server, self.repository, self._folder = server, repository, folder

    def refuse(self, *waits_ms: int) -> None:
        """Refuse the next requests, and forget those before."""
        self._folder.joinpath("waits").write_text(json.dumps(waits_ms))
        self._folder.joinpath("asked").write_text("")

    @property
    def asked(self) -> list[dict]:
        return [json.loads(line) for line in self._folder.joinpath("asked").read_text().splitlines()]

    @property
    def both(self) -> list[str]:
        """Two addresses of the server: to a client, two replicas."""
        return [self.server.grpc_url, self.server.grpc_url.replace("127.0.0.1", "localhost")]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    repository = render(write_toy_bundle(folder / "bundle"), folder / "models", RenderOptions(topology="fused"))
    model = repository / "toy" / "1" / "model.py"
    model.write_text(model.read_text() + REFUSING.replace("FOLDER", f"Path({str(folder)!r})"))
    (folder / "waits").write_text("[]")
    with TritonServer(repository) as server:
        yield Toy(server, repository, folder)


@pytest.fixture(params=["blocking", "asyncio"])
def detect(request):
    """Connects a detector, and detects something once."""

    def blocking(url, *, defaults=None, **options) -> Detections:
        with Detector(url, "toy", **(defaults or {})) as detector:
            return detector.detect(image(51), **options)

    def in_loop(url, *, defaults=None, **options) -> Detections:
        async def ask() -> Detections:
            async with AsyncDetector(url, "toy", **(defaults or {})) as detector:
                return await detector.detect(image(51), **options)

        return asyncio.run(ask())

    return blocking if request.param == "blocking" else in_loop


def test_a_call_says_how_long_its_answer_is_of_use_how_urgent_it_is_and_for_whom(toy, detect) -> None:
    defaults = {"deadline": 3, "priority": 2, "tenant": "Camera-3.a_b"}
    for url in (toy.server.grpc_url, f"http://{toy.server.http_url}"):
        toy.refuse()
        detect(url)
        detect(url, defaults=defaults)
        detect(url, defaults=defaults, deadline=0.5, priority=0, tenant="other")
        nothing, by_default, by_call = toy.asked
        assert not {"dyndet_deadline_ms", "dyndet_priority", "dyndet_tenant"} & set(nothing)
        assert (by_default["dyndet_priority"], by_default["dyndet_tenant"]) == (2, "Camera-3.a_b")
        assert 1000 < float(by_default["dyndet_deadline_ms"]) <= 3000
        assert "dyndet_priority" not in by_call and by_call["dyndet_tenant"] == "other"
        assert 0 < float(by_call["dyndet_deadline_ms"]) <= 500


def test_an_overloaded_server_is_asked_once_more_after_the_wait_that_it_names(toy, detect) -> None:
    toy.refuse(60)
    assert detect(toy.server.grpc_url, deadline=20).difficulty == pytest.approx(0.2)
    first, second = toy.asked
    assert second["at"] - first["at"] >= 0.06
    assert float(first["dyndet_deadline_ms"]) - float(second["dyndet_deadline_ms"]) >= 60  # no further time is given
    toy.refuse(5, 7, 5)
    with pytest.raises(OverloadedError, match=r"^the server at \S+ is overloaded: .*; try again in 7 ms$") as caught:
        detect(toy.server.grpc_url, defaults={"retries": Retries(attempts=9)})
    assert caught.value.retry_after_s == pytest.approx(0.007) and len(toy.asked) == 2


@pytest.mark.parametrize(
    "options",
    [{"deadline": 2}, {"timeout": 2}, {"defaults": {"retries": Retries(attempts=1)}}],
    ids=["deadline", "timeout", "no retries"],
)
def test_a_refused_call_that_may_not_wait_so_long_fails_at_once(toy, detect, options) -> None:
    toy.refuse(9000)
    with pytest.raises(OverloadedError):
        detect(toy.server.grpc_url, **options)
    assert len(toy.asked) == 1


def test_another_replica_is_asked_without_a_wait_and_none_is_left_out(toy, detect, caplog) -> None:
    toy.refuse(600_000)
    assert detect(toy.both).difficulty == pytest.approx(0.2)
    assert len(toy.asked) == 2
    toy.refuse(600_000, 1, 1)
    with pytest.raises(OverloadedError, match="try again in 1 ms"):
        detect(toy.both)
    assert len(toy.asked) == 2
    with Detector(toy.both, "toy") as detector:
        toy.refuse(1, 1)
        with pytest.raises(OverloadedError):
            detector.detect(image(51))
        toy.refuse(*[0] * 3, 1)
        assert all(detector.detect(image(51)).route for _ in range(4))
    assert not caplog.records  # the log says it of a replica that is left out


def test_the_only_replica_that_is_there_is_asked_again(toy, detect, caplog) -> None:
    toy.refuse(40)
    gone = f"127.0.0.1:{free_ports(1)[0]}"
    assert detect([gone, toy.server.grpc_url]).difficulty == pytest.approx(0.2)
    first, second = toy.asked
    assert second["at"] - first["at"] >= 0.04
    assert len(caplog.records) == 1 and gone in caplog.text


def test_a_request_whose_answer_is_of_no_use_any_more_is_not_sent(toy, detect) -> None:
    toy.refuse()
    with pytest.raises(DeadlineExceededError, match=r"no answer from \S+ within 1e-09 s, after which it is of no use"):
        detect(toy.server.grpc_url, deadline=1e-9)
    assert not toy.asked


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_many_images_go_on_without_one_that_was_refused(toy, kind) -> None:
    images = [image(red) for red in (51, 102, 204)]
    retries = Retries(attempts=1)

    async def in_loop() -> list:
        async with AsyncDetector(toy.server.grpc_url, "toy", retries=retries) as detector:
            return [found async for found in detector.detect_many(images, concurrency=1, errors="return")]

    toy.refuse(0, 5)
    if kind == "blocking":
        with Detector(toy.server.grpc_url, "toy", retries=retries) as detector:
            found = list(detector.detect_many(images, concurrency=1, errors="return"))
            toy.refuse(0, 5)
            with pytest.raises(OverloadedError):
                list(detector.detect_many(images, concurrency=1))
    else:
        found = asyncio.run(in_loop())
    first, refused, last = found
    assert isinstance(refused, OverloadedError) and refused.retry_after_s == pytest.approx(0.005)
    assert [first.difficulty, last.difficulty] == pytest.approx([0.2, 0.8])


def test_the_command_names_a_refused_image_answers_the_others_and_ends_with_status_6(
    toy, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        Path(f"{name}.png").write_bytes(encode(image(51)))
    options = ["--model", "toy", "--url", toy.server.grpc_url, "--concurrency", "1", "--deadline", "1.5s"]
    command = ["detect", "a.png", "b.png", "c.png", *options, "--priority", "7", "--tenant", "yard"]
    toy.refuse(0, 9000)
    assert run(dyndet, command) == 6
    told = capsys.readouterr()
    assert "2 images answered: 2 easy" in told.out and "1 image refused: the server was overloaded" in told.out
    sentence = "is overloaded: the request cannot be answered within 70 ms; try again in 9000 ms"
    assert told.err == f"Error: b.png: the server at {toy.server.grpc_url} {sentence}\n"
    assert [(one["dyndet_priority"], one["dyndet_tenant"]) for one in toy.asked] == [(7, "yard")] * 3
    assert 500 < float(toy.asked[0]["dyndet_deadline_ms"]) <= 1500
    assert sorted(path.name for path in Path("detections").iterdir()) == ["a-detected.jpg", "c-detected.jpg"]
    toy.refuse(0, 9000)
    assert run(dyndet, [*command, "--json"]) == 6
    told = capsys.readouterr()
    assert [json.loads(line)["image"] for line in told.out.splitlines()] == ["a.png", "c.png"]
    assert told.err.endswith("\n1 image refused: the server was overloaded\n")


def test_the_detector_itself_refuses_what_it_has_no_time_for(toy, detect) -> None:
    toy.refuse()
    for _ in range(5):  # it knows no times before it has answered
        detect(toy.server.grpc_url)
    with pytest.raises(OverloadedError) as caught:
        for number in range(100):  # on a busy machine, with the shortest deadlines the client has no time to ask
            with suppress(DeadlineExceededError):
                detect(toy.server.grpc_url, deadline=1e-4 * (1 + number % 20))
    assert caught.value.retry_after_s is not None and caught.value.retry_after_s > 0


def test_the_client_sees_which_operating_points_follow_the_load(toy) -> None:
    file = toy.repository / "toy" / "1" / "operating_points.json"
    content = json.loads(file.read_text())
    follow = {"promise_ms": 70.5, "statistic": "p95", "floor": 0.5, "ceiling": 1.0}
    switches = {"on": follow, "off": {**follow, "enabled": False}, "fixed": None}
    for name, switch in switches.items():
        content["points"][name] = {"threshold": 0.5, **({} if switch is None else {"follow_load": switch})}
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(content))
    with Detector(toy.server.grpc_url, "toy") as detector:
        points = detector.operating_points
        assert {name: points[name].follow_load for name in switches} == {"on": True, "off": False, "fixed": False}
        assert points["on"].promise_ms == pytest.approx(70.5)
