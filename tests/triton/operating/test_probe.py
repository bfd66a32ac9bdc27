"""The probe program of a deployment on the real server: alive, overloaded, with a dead or hung process, stopped."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from tests.support.deployments import PROBE
from tests.support.toy_bundle import SIZE, image, write_toy_bundle

_WITHIN_S = 2.0
_IN_FLIGHT, _BATCH = 100, 8


@dataclass(frozen=True)
class Probed:
    """A server, and the probe program with its address."""

    server: TritonServer
    address: tuple[str, ...]
    detectors: tuple[str, ...]

    def probe(self, kind: str, *, within_s: float = _WITHIN_S) -> tuple[int, str]:
        """Exit status and sentence."""
        command = [sys.executable, "-I", str(PROBE), kind, *self.detectors, f"--within={within_s}", *self.address]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert answer.stderr == ""
        return answer.returncode, answer.stdout

    def stub(self, instance: str) -> int:
        """Process id of a model's instance."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if instance.encode() in words and parent == str(self.server.pid):
                    return int(process.name)
        raise AssertionError(f"no process of {instance}")


@contextmanager
def _probed(folder: Path, options: RenderOptions) -> Iterator[Probed]:
    repository = render(write_toy_bundle(folder / "bundle"), folder / "models", options)
    with TritonServer(repository, ServerOptions()) as server:
        ports = {"http": server.http_url, "metrics": server.metrics_url.removesuffix("/metrics")}
        address = [f"--{name}-port={url.rpartition(':')[2]}" for name, url in ports.items()]
        address += [f"--server={server.pid}", f"--notes={folder / 'notes.json'}"]
        yield Probed(server, tuple(address), ("toy", "toy_encoded")[: 1 + options.encoded])


@contextmanager
def _overloaded(url: str) -> Iterator[None]:
    """Keeps many full batches in flight, about a second's work; they cost the client little."""
    tensor = triton.InferInput("image", [_BATCH, SIZE, SIZE, 3], "UINT8")
    tensor.set_data_from_numpy(np.stack([image(200)] * _BATCH))
    stop, places = threading.Event(), threading.Semaphore(_IN_FLIGHT)
    with triton.InferenceServerClient(url) as client:

        def ask() -> None:
            while not stop.is_set():
                places.acquire()
                client.async_infer("toy", [tensor], lambda result, error: places.release())

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            for _ in range(_IN_FLIGHT):  # until all are answered
                places.acquire()


def test_a_probe_tells_a_working_and_a_busy_server_from_one_with_a_dead_process(tmp_path: Path) -> None:
    """Topology `fused`, with the model that takes image files."""
    with _probed(tmp_path, RenderOptions(topology="fused", encoded=True)) as probed:
        for kind in ("startup", "readiness", "liveness"):
            assert probed.probe(kind) == (0, "toy, toy_encoded answered\n")
        with _overloaded(probed.server.grpc_url):
            # Some time passes until enough requests wait.
            assert any(probed.probe("readiness", within_s=0.1)[0] == 1 for _ in range(20))
            answers = (probed.probe("liveness", within_s=0.1) for _ in range(20))
            status, said = next((one for one in answers if one[1].startswith("busy")), (None, "never busy"))
            assert status == 0, said
        os.kill(probed.stub("toy_encoded_0_0"), signal.SIGKILL)
        status, said = probed.probe("liveness")  # the other instance still answers
        assert (status, "toy_encoded is gone" in said) == (1, True), said
        os.kill(probed.stub("toy_0_0"), signal.SIGKILL)
        status, said = probed.probe("readiness", within_s=10)
        assert (status, "the easy route of toy gave status 500" in said) == (1, True), said


def test_liveness_fails_for_one_dead_stage_of_several_models_and_for_a_stopped_server(tmp_path: Path) -> None:
    """Topology `bls`. By Triton's counters, without the notes of the startup probe: a route still answers."""
    with _probed(tmp_path, RenderOptions(topology="bls")) as probed:
        assert probed.probe("liveness")[0] == 0
        os.kill(probed.stub("toy_detector2_0_0"), signal.SIGKILL)
        assert probed.probe("readiness", within_s=10)[0] == 0  # detector 1 answers in its place
        status, said = probed.probe("liveness")
        assert (status, "failed: toy_detector2 answered nothing" in said) == (1, True), said
        os.kill(probed.server.pid, signal.SIGSTOP)
        try:
            status, said = probed.probe("liveness")
        finally:
            os.kill(probed.server.pid, signal.SIGCONT)
        assert (status, "the server gave no answer" in said) == (1, True), said
    assert probed.probe("readiness", within_s=0.5)[0] == 1


def test_a_model_that_waits_for_a_busy_detector_is_busy_too_and_one_that_waits_for_nobody_is_stuck() -> None:
    """By the counters of a server on which an overload lasts longer than the probe waits."""
    parse = importlib.import_module("dyndet_templates.deploy.probe").Counted.parse

    def counted(answers: dict[str, int], waiting: dict[str, int]) -> object:
        samples = [("nv_inference_request_success", *one) for one in answers.items()]
        samples += [("nv_inference_pending_request_count", *one) for one in waiting.items()]
        return parse("\n".join(f'{name}{{model="{model}",version="1"}} {value}' for name, model, value in samples))

    names = ("toy", "toy_encoded")
    before = counted({"toy": 5, "toy_encoded": 5}, {})
    for waiting in ({"toy": 9, "toy_encoded": 3}, {"toy": 0, "toy_encoded": 3}):
        assert counted({"toy": 6, "toy_encoded": 5}, waiting).stuck(before, names) == []
        assert counted({"toy": 5, "toy_encoded": 5}, waiting).stuck(before, names) == ["toy", "toy_encoded"]
        # The detector is not overloaded: it answered the probe's own pictures in time.
        if not waiting["toy"]:
            assert counted({"toy": 7, "toy_encoded": 5}, waiting).stuck(before, names[1:]) == ["toy_encoded"]
    before = counted({"toy": 5, "toy_backbone1": 5, "toy_head1": 5, "other": 5}, {})
    after = counted({"toy": 5, "toy_backbone1": 6, "toy_head1": 5, "other": 6}, {"toy": 1, "toy_head1": 1, "other": 1})
    assert after.stuck(before, ()) == ["toy", "toy_head1"]  # `toy` may wait for the dead one of its stages


def test_liveness_fails_if_a_process_hangs(tmp_path: Path) -> None:
    with _probed(tmp_path, RenderOptions(topology="fused")) as probed:
        assert probed.probe("startup")[0] == 0
        hung = probed.stub("toy_0_0")
        os.kill(hung, signal.SIGSTOP)
        try:
            status, said = probed.probe("liveness", within_s=1.0)
        finally:
            os.kill(hung, signal.SIGCONT)
        assert (status, "answered nothing" in said) == (1, True), said
