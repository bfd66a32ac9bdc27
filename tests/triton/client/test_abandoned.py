"""Calls that are given up: on the real server, whose release must not be cancelled over gRPC."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress

import psutil
import pytest

from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.triton import TritonServer
from dyndet_client import AbandonedCalls, AsyncDetector, DeadlineExceededError, Detector, DyndetError, ServerError
from dyndet_client.protocol import survives_cancelling
from dyndet_client.shared_memory import SLOTS
from tests.support.toy_bundle import image, write_toy_bundle

_REJECTS_LATE_REQUESTS = """dynamic_batching {
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 30000000
    allow_timeout_override: true
  }
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    repository = render(write_toy_bundle(folder / "bundle"), folder / "models", RenderOptions())
    config = repository / "toy" / "config.pbtxt"
    if "allow_timeout_override" not in (text := config.read_text()):
        config.write_text(text.replace("dynamic_batching {\n", _REJECTS_LATE_REQUESTS))
    with TritonServer(repository) as server:
        yield server


@contextmanager
def hanging(server: TritonServer):
    """While the server's process stands still, requests get no answer and no error."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def computed(server: TritonServer) -> int:
    """How many images the first stage computed."""
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    counts = re.findall(r'^nv_inference_count\{model="toy_backbone1",.*\} (\d+)', text, re.MULTILINE)
    assert counts
    return sum(map(int, counts))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dyndet")]


def wait_until(condition, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def give_up_by_timeout(url: str, count: int) -> int:
    with Detector(url, "toy") as detector:
        return sum(
            isinstance(_asked(detector, 0.0005 * (1 + number % 8)), DeadlineExceededError) for number in range(count)
        )


def _asked(detector: Detector, timeout: float) -> object:
    try:
        return detector.detect(image(51), timeout=timeout)
    except DyndetError as error:
        return error


def give_up_by_leaving(url: str, count: int) -> int:
    with Detector(url, "toy") as detector:
        for _ in range(count // 8):
            next(answers := detector.detect_many([image(51)] * 16, concurrency=8))
            answers.close()
    return count


def give_up_by_closing(url: str, count: int) -> int:
    for _ in range(count // 8):
        detector = Detector(url, "toy", transport="network")
        detector.connect()
        asking = [threading.Thread(target=_asked, args=(detector, 30)) for _ in range(8)]
        for thread in asking:
            thread.start()
        detector.close()
        for thread in asking:
            thread.join(5)
        assert not any(thread.is_alive() for thread in asking)
    return count


def give_up_by_cancelling(url: str, count: int) -> int:
    async def in_loop() -> int:
        async with AsyncDetector(url, "toy") as detector:
            given_up = 0
            for number in range(count // 8):
                tasks = [asyncio.create_task(detector.detect(image(51))) for _ in range(8)]
                await asyncio.sleep(0.001 * (number % 4))
                for task in tasks:
                    given_up += task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            assert len(asyncio.all_tasks()) == 1
            return given_up

    return asyncio.run(in_loop())


@pytest.mark.parametrize("give_up", [give_up_by_timeout, give_up_by_leaving, give_up_by_closing, give_up_by_cancelling])
def test_calls_given_up_in_any_way_harm_no_server_and_leave_nothing(toy, give_up) -> None:
    assert give_up(toy.grpc_url, 160) > 40
    assert psutil.pid_exists(toy.pid) and psutil.Process(toy.pid).status() != psutil.STATUS_ZOMBIE
    with Detector(toy.grpc_url, "toy", transport="shared-memory") as detector:
        assert detector.detect(image(51)).difficulty == pytest.approx(0.2)
    wait_until(lambda: not threads())


def test_calls_given_up_end_on_the_server_and_their_memory_stays_taken_until_then(toy) -> None:
    """A cancelled call would free its slot at once, and the server would read another image from it."""
    with Detector(toy.grpc_url, "toy", transport="shared-memory") as detector:
        only = detector._replicas.only
        pool, calls = only.session.pool, only.sender.calls
        with hanging(toy):
            for number in range(1, 6):
                with pytest.raises(DeadlineExceededError, match=r"within 0\.02 s$"):
                    detector.detect(image(51), timeout=0.02)
                assert calls.abandoned == number
            taken = [pool.put(image(0)) for _ in range(SLOTS)]
            assert taken.count(None) == 5
            for slot in filter(None, taken):
                pool.release(slot)
        wait_until(lambda: calls.is_idle)
        slots = [pool.put(image(0)) for _ in range(SLOTS)]
        assert calls.abandoned == 0 and None not in slots
        for slot in slots:
            pool.release(slot)


def test_so_many_calls_may_be_given_up_and_further_ones_wait_for_a_place(toy) -> None:
    limits = AbandonedCalls(limit=3)
    sentence = r"within 0\.1 s: not sent, because the server still works on 3 requests that this client has given up$"

    async def in_loop() -> None:
        async with AsyncDetector(toy.grpc_url, "toy", abandoned_calls=limits) as detector:
            with hanging(toy):
                for _ in range(3):
                    with pytest.raises(DeadlineExceededError, match=r"within 0\.02 s$"):
                        await detector.detect(image(51), timeout=0.02)
                with pytest.raises(DeadlineExceededError, match=sentence):
                    await detector.detect(image(51), timeout=0.1)
                waiting = asyncio.create_task(detector.detect(image(51)))
                await asyncio.sleep(0.1)
            assert (await waiting).difficulty == pytest.approx(0.2)

    with Detector(toy.grpc_url, "toy", abandoned_calls=limits) as detector:
        with hanging(toy):
            for _ in range(3):
                with pytest.raises(DeadlineExceededError, match=r"within 0\.02 s$"):
                    detector.detect(image(51), timeout=0.02)
            with pytest.raises(DeadlineExceededError, match=sentence):
                detector.detect(image(51), timeout=0.1)
            found: list[float] = []
            waiting = threading.Thread(target=lambda: found.append(detector.detect(image(51)).difficulty))
            waiting.start()
            time.sleep(0.1)
        waiting.join()
        assert found == pytest.approx([0.2])
    asyncio.run(in_loop())


def test_a_detector_that_is_closed_leaves_in_the_background_and_at_the_latest_after_its_grace(toy) -> None:
    detector = Detector(toy.grpc_url, "toy", transport="shared-memory", abandoned_calls=AbandonedCalls(grace_s=0.3))
    detector.connect()
    region = detector._replicas.only.session.pool.name
    with hanging(toy):
        with pytest.raises(DeadlineExceededError):
            detector.detect(image(51), timeout=0.02)
        started = time.monotonic()
        detector.close()
        assert time.monotonic() - started < 1 and "dyndet-close" in threads()
        wait_until(lambda: "dyndet-close" not in threads())
    with Detector(toy.grpc_url, "toy") as another:
        assert another.detect(image(51)).difficulty == pytest.approx(0.2)
        assert another._replicas.only.session.pool.name != region


@contextmanager
def computing_nothing(server: TritonServer):
    """While the processes that run the models stand still, requests wait in the server's queue."""
    stubs = [child for child in psutil.Process(server.pid).children() if "python_backend_stub" in child.name()]
    assert stubs
    for stub in stubs:
        stub.suspend()
    try:
        yield
    finally:
        for stub in stubs:
            stub.resume()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_leaves_out_what_nobody_waits_for(toy, protocol) -> None:
    """It learns with each request how long the client waits. Only what left the queue in time is computed."""
    url = {"grpc": toy.grpc_url, "http": f"http://{toy.http_url}"}[protocol]

    async def in_loop() -> None:
        limits = AbandonedCalls(limit=1000)
        async with AsyncDetector(url, "toy", transport="network", abandoned_calls=limits) as detector:
            # Short, because a server ends when a model's process stands still for a second; few, to arrive in time.
            with computing_nothing(toy):
                asked = (detector.detect(image(51), timeout=0.3) for _ in range(30))
                found = await asyncio.gather(*asked, return_exceptions=True)
                await asyncio.sleep(0.1)  # those that reached a busy server late expire there too
            assert {type(error) for error in found} == {DeadlineExceededError}
            await detector.detect(image(51))  # waits for what came before

    before = computed(toy)
    asyncio.run(in_loop())
    assert computed(toy) - before < 20


_LEAVES_CALLS_BEHIND = """
import asyncio, os, signal, sys, threading
import numpy as np
from dyndet_client import AsyncDetector, Detector, DyndetError
url, server, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
image = np.zeros((32, 32, 3), np.uint8)
def ask(detector, timeout):
    try:
        detector.detect(image, timeout=timeout)
    except DyndetError:
        pass
async def in_loop():
    detector = AsyncDetector(url, "toy")
    await detector.connect()
    os.kill(server, signal.SIGSTOP)
    await asyncio.wait([asyncio.create_task(detector.detect(image)) for _ in range(4)], timeout=0.05)
if way == "asyncio":
    asyncio.run(in_loop())
else:
    detector = Detector(url, "toy")
    detector.connect()
    os.kill(server, signal.SIGSTOP)
    ask(detector, 0.05)
    threading.Thread(target=ask, args=(detector, 30), daemon=True).start()
    if way == "closed":
        detector.close()
"""


@pytest.mark.parametrize("way", ["open", "closed", "asyncio"])
def test_a_program_may_end_while_the_server_still_works_for_it(toy, way) -> None:
    command = [sys.executable, "-c", _LEAVES_CALLS_BEHIND, toy.grpc_url, str(toy.pid), way]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    finally:
        with suppress(ProcessLookupError):
            os.kill(toy.pid, signal.SIGCONT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    with Detector(toy.grpc_url, "toy") as detector:
        assert detector.detect(image(51)).difficulty == pytest.approx(0.2)


def test_only_servers_with_the_fixes_are_cancelled(toy) -> None:
    """What cannot be read counts as old."""
    versions = ("2.58.0", "2.51", "", "unknown", "2.59.0", "2.60.1dev", "3.0")
    assert [survives_cancelling(version) for version in versions] == [False] * 4 + [True] * 3
    with Detector(toy.grpc_url, "toy") as detector, hanging(toy):
        detector._replicas.only.session._may_cancel = True
        with pytest.raises(ServerError):
            detector.detect(image(51), timeout=0.02)
        assert detector._replicas.only.sender.calls.is_idle
