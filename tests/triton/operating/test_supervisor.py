"""A server that ends, hangs or fails is noticed, and started again: each kind once, on a real server."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from dynamicdet.errors import ServerError
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.api import TritonApi
from dyndet_builder.server.health import Patience
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.supervisor import Restarts, StopRequest, Supervisor
from dyndet_builder.server.supervisor import watched as watched_only
from dyndet_builder.server.triton import TritonServer
from dyndet_client import Detector
from tests.support.toy_bundle import write_toy_bundle

_QUICK = Patience(look_every_s=0.1, probe_idle_s=0.5, answer_within_s=1.5, busy_within_s=20, failed_probes=2)
_OFTEN = Restarts(at_most=9, first_pause_s=0.05, longest_pause_s=0.05)
# A detector with the configuration of a rendered one. Files beside it make it slow, make it hang, or make it fail.
_CODE = """
import time
from pathlib import Path
import numpy as np
import triton_python_backend_utils as pb
HERE = Path(__file__).parent
OUTPUTS = {"num_detections": ((1,), "i4"), "boxes": ((4, 4), "f4"), "scores": ((4,), "f4"), "classes": ((4,), "i4"),
           "difficulty": ((1,), "f4"), "route": ((1,), "i4")}
class TritonPythonModel:
    def initialize(self, args):
        for name in ("hang", "fail"):
            (HERE / name).unlink(missing_ok=True)
        self.family = pb.MetricFamily("dyndet_routed_total", "images", pb.MetricFamily.COUNTER)
        self.count = self.family.Metric(labels={"model": args["model_name"], "route": "easy"})
    def execute(self, requests):
        while (HERE / "hang").exists():
            time.sleep(0.05)
        if (HERE / "slow").exists():
            time.sleep(float((HERE / "slow").read_text()))
        if (HERE / "fail").exists():
            return [pb.InferenceResponse(error=pb.TritonError("the GPU is on holiday")) for _ in requests]
        self.count.increment(len(requests))
        return [
            pb.InferenceResponse([pb.Tensor(n, np.ones((1, *shape), kind)) for n, (shape, kind) in OUTPUTS.items()])
            for _ in requests
        ]
"""


@pytest.fixture(scope="module", autouse=True)
def servers_end_at_once() -> None:
    """No: a test sets how its server stops."""


class _Watched:
    """A supervised server, and what the supervisor said."""

    def __init__(self, server: TritonServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.said: list[str] = []

    def stub(self, instance: str) -> int:
        for child in psutil.Process(self.server.pid).children():
            if instance in child.cmdline():
                return child.pid
        raise AssertionError(f"no stub of {instance}")

    def guard(self) -> int:
        parent = psutil.Process(self.server.pid).parent()
        assert parent is not None
        return parent.pid


def _detector(folder: Path) -> Path:
    bundle = write_toy_bundle(folder / "bundle")
    repository = render(bundle, folder / "models", RenderOptions(name="toy", topology="fused", encoded=True))
    for path in (repository / "toy" / "1").glob("*.py"):
        path.unlink()
    (repository / "toy" / "1" / "model.py").write_text(_CODE)
    return repository


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Watched]:
    repository = _detector(tmp_path_factory.mktemp("watched"))
    # Health is asked over HTTP, also where clients get no answers there.
    options = ServerOptions(stop_timeout_s=0, log_file=repository.parent / "log", http_inference=False)
    with TritonServer(repository, options) as server:
        one, stop = _Watched(server, repository / "toy" / "1"), StopRequest()
        supervisor = Supervisor(server=server, patience=_QUICK, restarts=_OFTEN, say=one.said.append)
        with ThreadPoolExecutor() as pool:
            done = pool.submit(supervisor.run, stop)
            time.sleep(0.5)  # the first look
            yield one
            stop.set()
            done.result()


@pytest.mark.parametrize(
    ("hurt", "reason"),
    [
        (
            lambda it: os.kill(it.stub("toy_encoded_0_0"), signal.SIGKILL),
            "process of model toy_encoded .*was ended( by SIGKILL)?.*; Triton never replaces it",
        ),
        (lambda it: os.kill(it.stub("toy_0_0"), signal.SIGSTOP), "the process of model toy .* hangs: .*SIGSTOP"),
        (lambda it: os.kill(it.server.pid, signal.SIGSEGV), r"the server was ended by SIGSEGV \("),
        (lambda it: os.kill(it.guard(), signal.SIGKILL), "killed, because its guard process was killed"),
        (lambda it: os.kill(it.guard(), signal.SIGSTOP), "the guard process of the server hangs: .*SIGSTOP"),
        (lambda it: (it.folder / "hang").touch(), "detector toy hangs: it has answered nothing"),
        (lambda it: (it.folder / "fail").touch(), "detector toy answers .* with errors: .*the GPU is on holiday"),
    ],
    ids=["dead stub", "stopped stub", "crash", "killed guard", "stopped guard", "hanging model", "failing model"],
)
def test_a_fault_is_named_and_answers_come_again_at_the_same_address(
    watched: _Watched, hurt: Callable[[_Watched], object], reason: str
) -> None:
    url, old = watched.server.grpc_url, _family(watched.server.pid)
    prefix = next(word for word in psutil.Process(watched.server.pid).cmdline() if "shm-region" in word).split("=")[-1]
    watched.said.clear()
    hurt(watched)
    _wait_until(lambda: len(watched.said) == 2)
    assert watched.said[1].startswith("The server is ready again")
    assert re.search(reason, watched.said[0]), watched.said
    with Detector(url, model="toy") as detector:
        assert detector.detect(np.zeros((32, 32, 3), np.uint8)).route == "easy"
    assert not [pid for pid in old if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))


def test_an_overloaded_server_does_not_hang(watched: _Watched) -> None:
    """Requests wait longer than a probe may, but something is answered all the time."""
    watched.said.clear()
    (watched.folder / "slow").write_text("0.4")
    try:
        with Detector(watched.server.grpc_url, model="toy", timeout=60) as detector, ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: detector.detect(np.zeros((32, 32, 3), np.uint8)), range(12)))
    finally:
        (watched.folder / "slow").unlink()
    assert len(answers) == 12
    assert watched.said == []


def test_slow_answers_are_no_fault_once_one_was_seen(tmp_path: Path) -> None:
    """A detector that waits for something else computes nothing, and is slow from its start."""
    repository = _detector(tmp_path)
    (repository / "toy" / "1" / "slow").write_text("0.6")
    said: list[str] = []
    impatient = Patience(look_every_s=0.1, probe_idle_s=0.5, answer_within_s=0.3, busy_within_s=20)
    with TritonServer(repository, ServerOptions(stop_timeout_s=0)) as server, ThreadPoolExecutor() as pool:
        stop = StopRequest()
        done = pool.submit(Supervisor(server=server, patience=impatient, restarts=_OFTEN, say=said.append).run, stop)
        time.sleep(2.5)  # some two probes
        stop.set()
        done.result()
        assert said == []


def test_models_that_were_unloaded_stay_so_and_the_others_are_loaded_again(tmp_path: Path) -> None:
    repository = _detector(tmp_path)
    options = ServerOptions(model_control="explicit", stop_timeout_s=0)
    said: list[str] = []
    with TritonServer(repository, options) as server, ThreadPoolExecutor() as pool:
        api, stop = TritonApi(server.http_url), StopRequest()
        supervisor = Supervisor(server=server, patience=_QUICK, restarts=_OFTEN, say=said.append)
        done = pool.submit(supervisor.run, stop)
        for name in ("toy", "toy_encoded"):
            api.load(name)
        time.sleep(0.5)
        assert api.ask("POST", "/v2/repository/models/toy_encoded/unload", b"{}")[0] == 200
        api.load("toy")  # in place: its stub ends as well
        time.sleep(0.5)
        assert said == []
        os.kill(server.pid, signal.SIGKILL)
        _wait_until(lambda: len(said) == 2)
        assert api.models() == {"toy"}
        stop.set()
        done.result()


def test_a_process_that_dies_while_its_model_is_loaded_again_costs_no_model(tmp_path: Path) -> None:
    """Triton alone would wait two minutes for it and then go on without the model."""
    repository = _detector(tmp_path)
    said: list[str] = []
    options = ServerOptions(model_control="explicit", stop_timeout_s=0)
    with TritonServer(repository, options) as server, ThreadPoolExecutor() as pool:
        stop = StopRequest()
        supervisor = Supervisor(server=server, patience=_QUICK, restarts=_OFTEN, say=said.append)
        done = pool.submit(supervisor.run, stop)
        for name in ("toy", "toy_encoded"):
            TritonApi(server.http_url).load(name)
        time.sleep(0.5)
        _kill_the_next_stub(_Watched(server, repository), "toy_0_0")
        _wait_until(lambda: any("ready again" in one for one in said))
        stop.set()
        done.result()
        assert TritonApi(server.http_url).models() == {"toy", "toy_encoded"}, said


def test_a_restart_does_not_wait_for_answers(tmp_path: Path) -> None:
    """They are late if clients keep the server busy, and that is no reason to restart it again."""
    repository = _detector(tmp_path)
    said: list[str] = []
    with TritonServer(repository, ServerOptions(stop_timeout_s=0)) as server, ThreadPoolExecutor() as pool:
        (repository / "toy" / "1" / "slow").write_text("4")
        stop = StopRequest()
        supervisor = Supervisor(server=server, patience=Patience(look_every_s=0.1), restarts=_OFTEN, say=said.append)
        done = pool.submit(supervisor.run, stop)
        os.kill(server.pid, signal.SIGKILL)
        _wait_until(lambda: len(said) == 2)
        stop.set()
        done.result()
        assert float(re.findall(r"ready again after ([\d.]+) s", said[1])[0]) < 6 * 4  # six images of a warm-up


def test_too_many_restarts_end_the_server(tmp_path: Path) -> None:
    limits = Restarts(at_most=1, window_s=600)
    with TritonServer(_detector(tmp_path), ServerOptions(stop_timeout_s=0)) as server:

        def say(sentence: str) -> None:
            if "ready again" in sentence:
                os.kill(server.pid, signal.SIGKILL)

        os.kill(server.pid, signal.SIGKILL)
        supervisor = Supervisor(server=server, patience=_QUICK, restarts=limits, say=say)
        with pytest.raises(ServerError, match=r"SIGKILL.*was stopped, since 1 restart within 600 s did not help"):
            supervisor.run(StopRequest())
        assert not server.running


def _kill_the_next_stub(watched: _Watched, instance: str) -> None:
    """Kill the server and, in the restart, the process of a model as soon as it is there."""
    old = watched.stub(instance)
    os.kill(watched.server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(AssertionError, ServerError, psutil.Error):
            if (stub := watched.stub(instance)) != old:
                os.kill(stub, signal.SIGKILL)
                return
    raise AssertionError("there was no restart")


def _family(server: int) -> list[int]:
    process = psutil.Process(server)
    return [server, *(child.pid for child in process.children()), *(parent.pid for parent in process.parents()[:1])]


def _wait_until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_is_watched_for_a_measurement_is_stopped_at_its_first_fault(tmp_path: Path) -> None:
    with TritonServer(_detector(tmp_path), ServerOptions(stop_timeout_s=0)) as server:
        with watched_only(server, _QUICK):
            time.sleep(0.5)
            assert server.running
            os.kill(_Watched(server, tmp_path).stub("toy_encoded_0_0"), signal.SIGKILL)
            _wait_until(lambda: not server.running, seconds=20)
