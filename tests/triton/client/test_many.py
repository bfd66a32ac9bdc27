"""Many pictures, every protocol and transport, and servers that hang: on the real server with the toy bundle."""

import asyncio
import gc
import itertools
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import psutil
import pytest

from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.triton import TritonServer
from dyndet_client import (
    AsyncDetector,
    DeadlineExceededError,
    Detector,
    InputError,
    ModelNotReadyError,
    NotADetectorError,
    ServerError,
    ServerUnreachableError,
    UnknownOperatingPointError,
)
from dyndet_client.many import AHEAD
from tests.support.toy_bundle import FAIL_HEAD1, image, write_toy_bundle

REDS = [0, 51, 102, 204, 254]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    repository = render(write_toy_bundle(folder / "bundle"), folder / "models", RenderOptions())
    with TritonServer(repository) as server:
        yield server


def pictures(count: int):
    """Images that can be told apart by their difficulty."""
    choices = [image(red, blue=200) for red in REDS]
    return (choices[number % len(choices)] for number in range(count))


def difficulties(count: int) -> list[float]:
    return [REDS[number % len(REDS)] / 255 for number in range(count)]


def urls(server: TritonServer) -> dict[str, str]:
    return {"grpc": server.grpc_url, "http": f"http://{server.http_url}"}


def collect(detector: AsyncDetector, images, **options):
    async def all_of_them():
        async with detector:
            transport = detector.transport
            return transport, [found async for found in detector.detect_many(images, **options)]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("transport", ["network", "shared-memory"])
def test_every_way_gives_the_same_answers(toy, protocol, transport) -> None:
    url = urls(toy)[protocol]
    with Detector(url, "toy", transport=transport) as detector:
        assert detector.transport == transport and detector.class_names[0] == "cat"
        one_by_one = [detector.detect(picture, request_id="seven") for picture in pictures(10)]
        together = list(detector.detect_many(pictures(10), concurrency=3))
    assert threading.active_count() < 20
    in_loop = collect(AsyncDetector(url, "toy", transport=transport), pictures(10), concurrency=3)
    assert in_loop[0] == transport
    for answers in (one_by_one, together, in_loop[1]):
        assert [found.difficulty for found in answers] == pytest.approx(difficulties(10))
        assert {found.names for found in answers if found.route == "easy"} == {("cat",)}
    for left, right in zip(one_by_one, in_loop[1], strict=True):
        np.testing.assert_allclose(left.boxes, right.boxes, atol=1e-3)


def test_shared_memory_is_what_a_client_on_the_same_machine_gets(toy) -> None:
    with Detector(toy.grpc_url, "toy") as detector:
        assert detector.transport == "shared-memory"


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_thousands_of_pictures_need_constant_memory_and_keep_their_order(toy, kind) -> None:
    """In bytes, and in Python's objects: one that stays of each picture would show."""
    count, concurrency = 2_000, 8
    options = {"concurrency": concurrency, "threshold": 1.0}  # easy throughout: as quick as it gets
    drawn = 0
    furthest = 0
    memory, objects = [], []

    def counted():
        nonlocal drawn
        for picture in pictures(count):
            drawn += 1
            yield picture

    def check(number: int, found) -> None:
        nonlocal furthest
        furthest = max(furthest, drawn - number)
        assert found.difficulty == pytest.approx(REDS[number % len(REDS)] / 255)
        if number % 500 == 499:
            memory.append(psutil.Process().memory_info().rss)
            gc.collect()
            objects.append(sys.getallocatedblocks())

    async def in_loop() -> int:
        number = -1
        async with AsyncDetector(toy.grpc_url, "toy") as detector:
            async for found in detector.detect_many(counted(), **options):
                number += 1
                check(number, found)
        return number + 1

    if kind == "asyncio":
        assert asyncio.run(in_loop()) == count
    else:
        with Detector(toy.grpc_url, "toy") as detector:
            for number, found in enumerate(detector.detect_many(counted(), **options)):
                check(number, found)
        assert number + 1 == count
    assert furthest <= AHEAD * concurrency
    assert memory[-1] - memory[0] < 3e6
    assert objects[-1] - objects[0] < count / 4


def test_a_picture_that_cannot_be_read_ends_the_run_or_is_given_in_its_place(toy) -> None:
    images = [image(51), b"no picture", image(102)]
    with Detector(toy.grpc_url, "toy") as detector:
        answers = list(detector.detect_many(images, errors="return"))
        assert isinstance(answers[1], InputError)
        assert [answers[0].difficulty, answers[2].difficulty] == pytest.approx([0.2, 0.4])
        with pytest.raises(InputError, match="not a readable image"):
            list(detector.detect_many(images))

        def broken():
            yield image(51)
            raise OSError("the camera is gone")

        with pytest.raises(OSError, match="camera"):
            list(detector.detect_many(broken()))
    _, answers = collect(AsyncDetector(toy.grpc_url, "toy"), images, errors="return")
    assert [type(answer).__name__ for answer in answers] == ["Detections", "InputError", "Detections"]

    async def asynchronous():
        for picture in pictures(3):
            yield picture

    assert len(collect(AsyncDetector(toy.grpc_url, "toy"), asynchronous())[1]) == 3


@contextmanager
def hanging(server: TritonServer):
    """While the server's process stands still, requests get no answer and no error."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield time.monotonic()
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_who_stops_early_waits_for_nothing_and_leaves_nothing_running(toy, protocol) -> None:
    def endless():
        yield b"no picture"  # is answered without the server
        yield from itertools.repeat(image(51))

    async def take_one(detector: AsyncDetector) -> None:
        answers = detector.detect_many(endless(), concurrency=4, errors="return")
        async for first in answers:
            assert isinstance(first, InputError)
            break
        await answers.aclose()
        assert len(asyncio.all_tasks()) == 1

    async def in_loop() -> float:
        async with AsyncDetector(urls(toy)[protocol], "toy", transport="network") as detector:
            with hanging(toy) as started:
                await take_one(detector)
                took_s = time.monotonic() - started
            assert (await detector.detect(image(51))).route
            return took_s

    with Detector(urls(toy)[protocol], "toy", transport="network") as detector:
        with hanging(toy) as started:
            answers = detector.detect_many(endless(), concurrency=4, errors="return")
            assert isinstance(next(answers), InputError)
            answers.close()
            assert time.monotonic() - started < 3
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("dyndet_")]
        assert detector.detect(image(51)).route
    assert asyncio.run(in_loop()) < 3


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_deadline_is_that_of_the_whole_call(toy, protocol) -> None:
    with Detector(urls(toy)[protocol], "toy") as detector:
        with hanging(toy) as started:
            with pytest.raises(DeadlineExceededError, match=r"within 0\.4 s"):
                detector.detect(image(51), timeout=0.4)
            assert time.monotonic() - started < 1.5
        assert detector.detect(image(51)).difficulty == pytest.approx(0.2)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_closing_a_detector_ends_what_other_threads_wait_for(toy, protocol) -> None:
    detector = Detector(urls(toy)[protocol], "toy", transport="network")
    detector.connect()
    ended = []

    def wait() -> None:
        try:
            detector.detect(image(51))
        except ServerError as error:
            ended.append(str(error))

    with hanging(toy) as started:
        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        detector.close()
        for thread in threads:
            thread.join()
        assert time.monotonic() - started < 3
    assert len(ended) == 3 and all("was cancelled (the connection is closed)" in text for text in ended)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_errors_are_the_same_over_both_protocols(toy, protocol) -> None:
    url = urls(toy)[protocol]
    with Detector(url, "toy") as detector:
        refused = "^the server refused the request: operating point 'turbo' is not known; this model's only"
        with pytest.raises(UnknownOperatingPointError, match=refused):
            detector.detect(image(51), operating_point="turbo")
        with pytest.raises(UnknownOperatingPointError, match=r"operating point 't{60}\.\.\.' is not known; this model"):
            detector.detect(image(51), operating_point="t" * 100_000)
        with pytest.raises(ServerError, match=r"^model 'toy' at .* failed: stage .*head1 failed: ") as failed:
            detector.detect(image(51, green=FAIL_HEAD1))
        assert type(failed.value) is ServerError
    with pytest.raises(ModelNotReadyError, match=r"no model 'absent'; it serves toy; name one with model=$"):
        Detector(url, "absent").connect()
    with pytest.raises(NotADetectorError, match="toy_head1"):
        Detector(url, "toy_head1").connect()
    other = {"grpc": toy.http_url, "http": f"http://{toy.grpc_url}"}[protocol]
    with pytest.raises((ServerUnreachableError, DeadlineExceededError)):
        Detector(other, "toy", timeout=2).connect()

    async def in_loop() -> None:
        with pytest.raises(ModelNotReadyError, match="no model 'absent'"):
            async with AsyncDetector(url, "absent"):
                pass

    asyncio.run(in_loop())


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_closing_an_async_detector_is_told_to_who_iterates(toy, protocol) -> None:
    """As an error of ours, not as a cancellation, which would look like the caller's own."""

    async def in_loop() -> None:
        detector = AsyncDetector(urls(toy)[protocol], "toy", transport="network")
        answers = detector.detect_many(pictures(30), concurrency=2)
        await answers.__anext__()
        await detector.close()
        with pytest.raises((InputError, ServerError)):
            async for _ in answers:
                pass

    asyncio.run(in_loop())


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_very_long_timeout_is_no_short_one(toy, protocol) -> None:
    with Detector(urls(toy)[protocol], "toy", timeout=1e300) as detector:
        assert detector.detect(image(51), timeout=1e18).difficulty == pytest.approx(0.2)


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_port_without_tls_is_named_as_such(toy, scheme) -> None:
    address = toy.http_url if scheme == "https" else toy.grpc_url
    with pytest.raises(ServerUnreachableError, match=r"\(TLS handshake failed: .* (speaks no|without) TLS"):
        Detector(f"{scheme}://{address}", "toy", timeout=5).connect()


def test_the_metrics_port_is_no_server(toy) -> None:
    with pytest.raises(ServerUnreachableError, match="the answer is not"):
        Detector(toy.metrics_url.removesuffix("/metrics"), "toy", timeout=5).connect()
