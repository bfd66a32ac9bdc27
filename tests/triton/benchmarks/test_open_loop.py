"""The open-loop load generator on the real server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamicdet.aliases import FloatArray, UInt8Array
from dynamicdet.errors import InputError, ServerError
from dynamicdet.letterbox import Fit
from dynamicdet.pictures import pictures_in
from dynamicdet.thresholds import is_hard
from dyndet_bench.measuring.counters import RouteCounts
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.open_loop import OpenLoopRun, arrivals_s, measure_open_loop
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.measuring.workload import read_letterboxed
from dyndet_builder.server.triton import TritonServer
from tests.support.counting import settled


@pytest.fixture(scope="module")
def served(server: TritonServer) -> Iterator[Served]:
    with Served(server.grpc_url) as connection:
        yield connection


@pytest.fixture(scope="module")
def images(demo_images: Path) -> list[UInt8Array]:
    return read_letterboxed(pictures_in(demo_images)[:10], Fit.square(320))


@given(
    rate=st.floats(1e-3, 1e6),
    requests=st.integers(1, 2000),
    seed=st.integers(0, 2**32 - 1),
    factor=st.floats(0.01, 100),
)
def test_arrivals_increase_and_are_reproducible(rate: float, requests: int, seed: int, factor: float) -> None:
    due = arrivals_s(rate, requests, seed)
    assert due.shape == (requests,)
    assert due[0] > 0
    assert np.all(np.diff(due) > 0)
    assert np.array_equal(due, arrivals_s(rate, requests, seed))
    # Another rate stretches the same draw.
    assert arrivals_s(rate * factor, requests, seed) == pytest.approx(due / factor, rel=1e-9)


@given(rate=st.floats(1e-3, 1e6), seed=st.integers(0, 2**32 - 1))
def test_gaps_are_exponential(rate: float, seed: int) -> None:
    count = 20_000
    gaps = np.diff(arrivals_s(rate, count, seed), prepend=0.0) * rate
    tolerance = 6 / count**0.5  # six standard errors of the mean
    assert gaps.mean() == pytest.approx(1.0, abs=tolerance)
    for level in (0.5, 1.0, 2.0):
        assert float(np.mean(gaps > level)) == pytest.approx(np.exp(-level), abs=tolerance)


@pytest.mark.parametrize(("threshold", "route"), [(ALL_EASY, 1), (ALL_HARD, 2)])
@pytest.mark.parametrize("batch", [1, 3])
def test_forced_routes_agree_with_the_servers_counters(
    served: Served, images: list[UInt8Array], threshold: float, route: int, batch: int
) -> None:
    load = Load(request_rate=40.0, batch=batch)
    run = measure_open_loop(served, images, load=load, threshold=threshold, requests=12)
    assert run.routes.shape == (12, batch)
    assert np.all(run.routes == route)
    assert run.counts == RouteCounts(total=12 * batch, hard=12 * batch * (route - 1))
    assert run.latencies_ms.shape == run.send_lag_ms.shape == (12,)
    assert np.all(run.send_lag_ms >= 0)
    assert np.all(run.latencies_ms > run.send_lag_ms)


@pytest.mark.parametrize(("batch", "requests"), [(1, 25), (4, 9)])
def test_pictures_are_cycled_in_the_order_given(
    served: Served, images: list[UInt8Array], batch: int, requests: int
) -> None:
    hard = is_hard(served.difficulties(images), threshold := _between(served.difficulties(images)))
    _wait_until_counted(served)
    load = Load(request_rate=40.0, batch=batch)
    run = measure_open_loop(served, images, load=load, threshold=threshold, requests=requests)
    expected = np.resize(np.where(hard, 2, 1), (requests, batch))
    assert np.array_equal(run.routes, expected)
    assert run.counts == RouteCounts(total=expected.size, hard=int((expected == 2).sum()))


def test_without_a_threshold_the_server_decides(served: Served, images: list[UInt8Array]) -> None:
    run = measure_open_loop(served, images, load=Load(request_rate=50.0), threshold=None, requests=2)
    assert run.counts.total == 2
    assert set(run.routes.ravel()) <= {1, 2}


@pytest.mark.timing
def test_latency_counts_from_the_time_a_request_was_due(served: Served, images: list[UInt8Array]) -> None:
    calm = measure_open_loop(served, images, load=Load(request_rate=5.0), threshold=ALL_HARD, requests=8)
    flood = measure_open_loop(served, images, load=Load(request_rate=5000.0), threshold=ALL_HARD, requests=120, seed=1)
    assert flood.achieved_rate_per_s < 1000  # far above this server's capacity
    due_ms = arrivals_s(5000.0, 120, seed=1) * 1e3
    # The queue grows: the last third waits longer than the first, and the last answer came when everything was done.
    assert np.median(flood.latencies_ms[-40:]) > 1.5 * np.median(flood.latencies_ms[:40])
    last_answer_ms = 120 / flood.achieved_rate_per_s * 1e3
    assert (flood.latencies_ms + due_ms).max() == pytest.approx(last_answer_ms)
    assert flood.latencies_ms.max() > 0.8 * last_answer_ms > 5 * np.median(calm.latencies_ms)


def test_a_client_that_is_late_says_so() -> None:
    def run(lag_ms: float) -> OpenLoopRun:
        return OpenLoopRun(
            threshold=None,
            load=Load(request_rate=80.0),
            latencies_ms=np.full(5, 100.0),
            send_lag_ms=np.full(5, lag_ms),
            routes=np.ones((5, 1), np.int32),
            achieved_rate_per_s=50.0,
            counts=RouteCounts(total=5, hard=0),
        )

    assert run(1.0).warning is None
    warning = run(30.0).warning
    assert warning is not None
    for text in ("80 requests/s", "30.0 ms late", "30%"):
        assert text in warning


def test_a_server_that_cannot_keep_up_ends_the_run_and_no_call_is_cancelled(
    served: Served, images: list[UInt8Array], caplog: pytest.LogCaptureFixture
) -> None:
    load = Load(request_rate=5000.0)
    said = r"^[^\n]*5000 requests/s: after \d\S* s it has answered (\d+) of 150 requests, and (\d+) wait;[^\n]*$"
    for _ in range(2):
        before = settled(served.counts)
        with pytest.raises(ServerError, match=said) as caught:
            measure_open_loop(served, images, load=load, threshold=ALL_HARD, requests=150, timeout_s=0.6)
        told = re.match(said, str(caught.value))
        assert told is not None
        sent = 4 + sum(int(number) for number in told.groups())  # with those that warm up
        assert served.counts_after(before, sent).since(before).answered == sent
    run = measure_open_loop(served, images, load=Load(request_rate=20.0), threshold=ALL_HARD, requests=5)
    assert np.all(run.routes == 2)
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_calls_that_a_stopped_server_does_not_answer_are_left_to_it(
    repository_folder: Path, images: list[UInt8Array]
) -> None:
    load = Load(request_rate=10.0)
    with (
        TritonServer(repository_folder) as own,
        Served(own.grpc_url) as connection,
        Served(own.grpc_url) as watch,
        ThreadPoolExecutor(1) as pool,
    ):
        before = settled(connection.counts)

        def stop_once_warm() -> None:
            while watch.counts().since(before).answered <= 4:  # those that warm up
                time.sleep(0.05)
            os.kill(own.pid, signal.SIGSTOP)

        stopping = pool.submit(stop_once_warm)
        with pytest.raises(ServerError, match="does not keep up") as caught:
            measure_open_loop(
                connection, images, load=load, threshold=ALL_HARD, requests=30, timeout_s=5.0, drain_s=0.1
            )
        stopping.result()
        os.kill(own.pid, signal.SIGCONT)
        sent = 4 + sum(int(number) for number in re.findall(r"(\d+) (?:of|wait)", str(caught.value)))
        end = time.monotonic() + 30
        while connection.counts().since(before).answered < sent and time.monotonic() < end:
            time.sleep(0.1)
        assert connection.counts().since(before).answered == sent  # also those that nobody awaits


def test_a_backlog_beyond_memory_ends_the_run(served: Served, images: list[UInt8Array]) -> None:
    load, backlog = Load(request_rate=5000.0), 10 * images[0].nbytes
    with pytest.raises(ServerError, match="does not keep up with 5000 requests/s"):
        measure_open_loop(served, images, load=load, threshold=ALL_HARD, requests=500, max_backlog_bytes=backlog)


def test_a_server_killed_in_the_middle_is_one_sentence(repository_folder: Path, images: list[UInt8Array]) -> None:
    with TritonServer(repository_folder) as own, Served(own.grpc_url) as connection:
        timer = threading.Timer(1.0, os.kill, (own.pid, signal.SIGKILL))
        timer.start()
        with pytest.raises(ServerError, match=r"^[^\n]*127\.0\.0\.1[^\n]*stopped answering[^\n]*$"):
            measure_open_loop(connection, images, load=Load(request_rate=20.0), threshold=ALL_HARD, requests=2000)
        timer.join()


def test_a_refused_request_is_one_sentence(served: Served, images: list[UInt8Array]) -> None:
    with pytest.raises(ServerError, match=r"^model 'dyndet' at [^\n]*answered with an error[^\n]*$"):
        measure_open_loop(served, images, load=Load(request_rate=9.0, batch=64), threshold=None, requests=3)


def test_ctrl_c_ends_the_run(server: TritonServer) -> None:
    code = (
        "import signal, sys, threading, os; import numpy as np\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from dyndet_bench.measuring.load import Load; from dyndet_bench.measuring.open_loop import measure_open_loop\n"
        "from dyndet_bench.measuring.served import Served\n"
        "threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "with Served(sys.argv[1]) as served:\n"
        "    image = np.zeros((320, 320, 3), np.uint8)\n"
        "    measure_open_loop(served, [image], load=Load(request_rate=5), threshold=1.0, requests=400)\n"
    )
    command = [sys.executable, "-c", code, server.grpc_url]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.stderr.strip().splitlines()[-1] == "KeyboardInterrupt"
    assert "never retrieved" not in answer.stderr
    assert "pending" not in answer.stderr


@pytest.mark.parametrize(
    ("load", "requests", "said"),
    [
        (Load(concurrency=2), 5, "needs a request rate"),
        (Load(request_rate=10), 0, "at least one request"),
        (Load(request_rate=0.01), 50, "more than 300 s"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    served: Served, images: list[UInt8Array], load: Load, requests: int, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        measure_open_loop(served, images, load=load, threshold=None, requests=requests)
    with pytest.raises(InputError, match="at least one image"):
        measure_open_loop(served, [], load=Load(request_rate=10), threshold=None, requests=1)


def _wait_until_counted(served: Served) -> None:
    """Triton counts a request a moment after it has answered it, on a busy machine during the measurement after it."""
    seen = None
    while seen != (seen := served.counts()):
        time.sleep(0.1)


def _between(difficulties: FloatArray) -> float:
    """A threshold in the middle of the widest of the middle gaps."""
    ordered = np.sort(difficulties)
    at = 2 + int(np.argmax(np.diff(ordered[2:-2])))
    return float((ordered[at] + ordered[at + 1]) / 2)
