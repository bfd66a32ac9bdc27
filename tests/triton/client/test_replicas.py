"""Several servers of one detector: requests in turn, one killed under load and started again, other detectors."""

import asyncio
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from dyndet_builder.cli import dyndet, run
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.ports import free_ports
from dyndet_builder.server.triton import TritonServer
from dyndet_client import AsyncDetector, Detector, InputError, ModelNotReadyError, ServerError, ServerUnreachableError
from tests.support.picture_files import encode
from tests.support.toy_bundle import image, write_toy_bundle
from tests.triton.client.test_abandoned import computed, wait_until


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return render(write_toy_bundle(folder / "bundle"), folder / "models", RenderOptions(bls_instances=1))


def options() -> ServerOptions:
    http, grpc, metrics = free_ports(3)
    return ServerOptions(http_port=http, grpc_port=grpc, metrics_port=metrics, warm_up=False, stop_timeout_s=0)


@pytest.fixture(scope="module")
def first(repository):
    with TritonServer(repository, options()) as server:
        yield server


class Load:
    """Asks without a pause, in two threads and in an event loop, over both protocols, until it is stopped."""

    def __init__(self, *servers: TritonServer) -> None:
        self.answers = 0
        self.errors: list[BaseException] = []
        self._stopped = threading.Event()
        grpc = [server.grpc_url for server in servers]
        http = [f"http://{server.http_url}" for server in servers]
        targets = [(self._ask, grpc), (self._ask, http), (self._ask_in_loop, grpc)]
        self._threads = [threading.Thread(target=target, args=(urls,)) for target, urls in targets]
        for thread in self._threads:
            thread.start()

    def _ask(self, urls: list[str]) -> None:
        with Detector(urls, "toy") as detector:
            while not self._stopped.is_set():
                try:
                    for found in detector.detect_many([image(51)] * 20, concurrency=3):
                        self.answers += found.difficulty == pytest.approx(0.2)
                except ServerError as error:
                    self.errors.append(error)

    def _ask_in_loop(self, urls: list[str]) -> None:
        async def ask(detector: AsyncDetector) -> None:
            while not self._stopped.is_set():
                try:
                    self.answers += (await detector.detect(image(51))).difficulty == pytest.approx(0.2)
                except ServerError as error:
                    self.errors.append(error)

        async def in_loop() -> None:
            async with AsyncDetector(urls, "toy") as detector:
                await asyncio.gather(*(ask(detector) for _ in range(3)))

        asyncio.run(in_loop())

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def test_a_replica_that_is_killed_costs_no_call_and_gets_its_turns_back(first, repository) -> None:
    of_second = options()
    with TritonServer(repository, of_second) as second:
        load = Load(first, second)
        wait_until(lambda: computed(first) > 50 and computed(second) > 50)
        os.kill(second.pid, signal.SIGKILL)
        before = load.answers
        wait_until(lambda: load.answers > before + 100)
    with TritonServer(repository, of_second) as second:  # at the same address
        wait_until(lambda: computed(second) > 50)
        load.stop()
        assert not load.errors and load.answers > 200
        with Detector([first.grpc_url, second.grpc_url], "toy") as detector:
            counts = [computed(first), computed(second)]
            for _ in range(10):
                detector.detect(image(51))
            assert [computed(first) - counts[0], computed(second) - counts[1]] == [5, 5]
            assert detector.transport == "network"
    assert not [thread for thread in threading.enumerate() if thread.name == "dyndet-watch"]


def test_one_replica_that_answers_is_enough_and_none_is_one_sentence(first, tmp_path, capsys, caplog) -> None:
    gone = [f"127.0.0.1:{port}" for port in free_ports(2)]
    picture = tmp_path / "street.png"
    picture.write_bytes(encode(image(51)))
    command = ["detect", str(picture), "--model", "toy", "--json", "--url", gone[0], "--url", first.grpc_url]
    assert run(dyndet, command) == 0 and '"difficulty": 0.2' in capsys.readouterr().out
    assert [record.getMessage().partition(": no Triton")[0] for record in caplog.records] == [
        f"{gone[0]} is left out until it answers"
    ]
    with Detector([gone[0], first.grpc_url, gone[1]], "toy") as detector:
        assert [detector.detect(image(51)).difficulty for _ in range(4)] == pytest.approx([0.2] * 4)
    with pytest.raises(ServerUnreachableError, match=f"none of 2 replicas takes requests; one of them: .*{gone[0]}"):
        Detector(gone, "toy", timeout=2).connect()
    with pytest.raises(ModelNotReadyError, match="no model 'absent'"):
        Detector([first.grpc_url, gone[0]], "absent", timeout=2).connect()


def test_a_name_stands_for_the_servers_that_it_is_looked_up_to(first, monkeypatch) -> None:
    """Here the second address of the name has no server, as a pod that has just gone."""
    port = int(first.grpc_url.rpartition(":")[2])
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.1", "127.0.0.2")]
    look_up = socket.getaddrinfo

    def answer(host, *arguments, **options):
        return found if host == "detector.test" else look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with Detector(f"dns:///detector.test:{port}", "toy") as detector:
        assert [detector.detect(image(51)).difficulty for _ in range(4)] == pytest.approx([0.2] * 4)
    found.clear()
    with pytest.raises(ServerUnreachableError, match=r"detector\.test:\d+ has no address now"):
        Detector(f"dns:///detector.test:{port}", "toy", timeout=1).connect()


def test_replicas_serve_the_same_detector(first, tmp_path) -> None:
    """One of another detector is refused when the detector connects."""
    bundle = write_toy_bundle(tmp_path / "bundle")
    other = render(bundle, tmp_path / "models", RenderOptions(bls_instances=1))
    config = other / "toy" / "config.pbtxt"
    config.write_text(config.read_text().replace("cat", "dog"))
    with TritonServer(other, options()) as second:
        sentence = r"serve different detectors \(3 and 3 class names that are not the same\): give the addresses of"
        with pytest.raises(ServerError, match=sentence):
            Detector([first.grpc_url, second.grpc_url], "toy").connect()

        async def in_loop() -> None:
            async with AsyncDetector([first.grpc_url, second.grpc_url], "toy"):
                pass

        with pytest.raises(ServerError, match=sentence):
            asyncio.run(in_loop())


def test_shared_memory_needs_one_server(first) -> None:
    with pytest.raises(InputError, match="needs one server on this machine"):
        Detector([first.grpc_url, "127.0.0.1:1"], transport="shared-memory")
