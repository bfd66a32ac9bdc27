"""The perf_analyzer harness on the real server, and what it makes of damaged output."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from dynamicdet.errors import InputError, MissingExtraError, ServerError
from dynamicdet.pictures import pictures_in
from dyndet_bench.measuring import perf_analyzer as module
from dyndet_bench.measuring.interleaved import measure_interleaved
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.measure import Run, measure
from dyndet_bench.measuring.perf_analyzer import Patience, PerfAnalyzer, find_perf_analyzer
from dyndet_bench.measuring.perf_run import MOST_REPEATS, read_profile_export, read_table
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served, served_detectors
from dyndet_bench.measuring.workload import Workload, read_letterboxed
from dyndet_builder.server.triton import TritonServer
from tests.support.counting import settled
from tests.support.programs.processes import started


@pytest.fixture(scope="module")
def served(server: TritonServer) -> Iterator[Served]:
    with Served(server.grpc_url) as connection:
        yield connection


@pytest.fixture(scope="module")
def workload(served: Served, demo_images: Path) -> Iterator[Workload]:
    with Workload(read_letterboxed(pictures_in(demo_images)[:10], served.detector.fit)) as pictures:
        yield pictures


def test_a_run_measures_each_request_and_the_servers_counters(served: Served, workload: Workload) -> None:
    run = measure(served, find_perf_analyzer(), workload, threshold=ALL_HARD, export_latencies=True)
    assert run.latencies_ms is not None
    assert run.latencies_ms.shape == (10,) == (run.requests,)
    assert run.mean_ms == pytest.approx(run.latencies_ms.mean(), rel=0.01)
    assert run.percentiles_ms[50] <= run.percentiles_ms[99]
    assert (run.counts.total, run.counts.hard) == (11, 11)  # with one warm-up request
    assert not any(workload.folder.glob("*.csv"))
    assert run.throughput_per_s == pytest.approx(1e3 / run.mean_ms)
    times = run.times
    assert times.requests == 11
    assert 0 < times.compute_ms < times.inside_ms < 11 * run.mean_ms * 3

    easy = measure(served, find_perf_analyzer(), workload, threshold=ALL_EASY, requests=7, load=Load(concurrency=3))
    assert (easy.counts.total, easy.counts.hard) == (10, 0)
    assert easy.latencies_ms is None


def test_thresholds_take_turns_and_each_keeps_its_own_latencies(served: Served, workload: Workload) -> None:
    """Hard requests are slower than easy ones of the same second, whatever else runs.

    The hard images are those that the server counted.
    """
    difficulties = served.difficulties(workload.images)
    middle = float(np.median(difficulties))
    told: list[None] = []

    def one(difficulties: Any, requests: int) -> list[Run]:
        return measure_interleaved(
            served,
            find_perf_analyzer(),
            workload,
            difficulties,
            (ALL_EASY, ALL_HARD, middle),
            requests=requests,
            number=1,
            tell=lambda: told.append(None),
        )

    before = settled(served.counts)
    easy, hard, mixed = one(difficulties, requests=12)
    counted = settled(served.counts).since(before)
    assert [run.counts.total for run in (easy, hard, mixed)] == [12, 12, 12]
    assert [run.counts.hard for run in (easy, hard)] == [0, 12]
    assert counted.hard - mixed.counts.hard - 12 in (0, 1)  # the warm-up request
    assert not told  # one process did it all
    for run in (easy, hard, mixed):
        assert run.latencies_ms is not None and run.latencies_ms.shape == (12,)
        assert run.mean_ms == pytest.approx(run.latencies_ms.mean())
    assert easy.percentiles_ms[50] < hard.percentiles_ms[50]
    with pytest.raises(ServerError, match="does another program send requests to it"):
        one(np.zeros_like(difficulties), requests=12)  # what another client's hard images would look like


def test_pictures_and_thresholds_arrive_as_they_were(served: Served, workload: Workload, demo_images: Path) -> None:
    pictures = read_letterboxed(pictures_in(demo_images)[:10], served.detector.fit)
    difficulties = served.difficulties(pictures)
    middle = float(np.median(difficulties))  # between two difficulties: ten pictures
    run = measure(served, find_perf_analyzer(), workload, threshold=middle)
    first_is_hard = int(difficulties[0] > middle)
    assert run.counts.hard - first_is_hard == int((difficulties > middle).sum())


def test_only_detectors_of_ours_are_listed(server: TritonServer) -> None:
    assert served_detectors(server.grpc_url) == ["dyndet"]
    with pytest.raises(ServerError, match="not a dyndet detector"):
        Served(server.grpc_url, "dyndet_backbone1")


@pytest.mark.server
def test_a_server_that_dies_under_load_is_one_sentence(repository_folder: Path, demo_images: Path) -> None:
    with TritonServer(repository_folder) as own, Served(own.grpc_url) as connection:
        pictures = read_letterboxed(pictures_in(demo_images)[:4], connection.detector.fit)
        with Workload(pictures) as load:
            load.input_data(ALL_HARD)
            timer = threading.Timer(1.0, os.kill, (own.pid, signal.SIGKILL))
            timer.start()
            with pytest.raises(ServerError, match=r"^[^\n]*stopped answering[^\n]*$"):
                measure(connection, find_perf_analyzer(), load, threshold=ALL_HARD, requests=3000)
            timer.join()


def test_ctrl_c_ends_perf_analyzer(server: TritonServer, demo_images: Path) -> None:
    code = (
        "import signal, sys; from pathlib import Path\n"
        # A shell starts background jobs with Ctrl-C ignored, which this process would inherit.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from dyndet_bench.measuring.measure import measure\n"
        "from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer\n"
        "from dyndet_bench.measuring.served import Served; from dyndet_bench.measuring.workload import *\n"
        "with Served(sys.argv[1]) as served:\n"
        "    load = Workload(read_letterboxed([Path(sys.argv[2])], served.detector.fit))\n"
        "    sys.stdout.write('go\\n'); sys.stdout.flush()\n"
        "    measure(served, find_perf_analyzer(), load, threshold=0.0, requests=100000)\n"
    )
    picture = pictures_in(demo_images)[0]
    command = [sys.executable, "-c", code, server.grpc_url, str(picture)]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "go\n"
            children: list[psutil.Process] = []
            deadline = time.monotonic() + 60
            while not any("--request-count" in child.cmdline() for child in children):
                assert time.monotonic() < deadline
                time.sleep(0.1)
                children = psutil.Process(parent.pid).children()
            parent.send_signal(signal.SIGINT)
            parent.wait(30)
        finally:
            parent.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


_STAND_IN = Path(__file__).with_name("stand_in_perf_analyzer.py")


def _stand_in(folder: Path, does: str) -> PerfAnalyzer:
    """A program that hangs or is slow, as its own description says; each of its tries writes a line to `tries`."""
    real = find_perf_analyzer()
    path = folder / "perf_analyzer"
    path.write_text(f"#!{sys.executable}\n{_STAND_IN.read_text()}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    told = {"STAND_IN": does, "STAND_IN_REAL": str(real.path), "STAND_IN_TRIES": str(folder / "tries")}
    told["OPENBLAS_NUM_THREADS"] = "1"  # a thread of numpy's would pass for a worker
    return PerfAnalyzer(
        path=path,
        environment={**real.environment, **told},
        version=real.version,
        patience=Patience(look_s=0.05, rest_s=0.3),
    )


def _tries(folder: Path) -> list[int]:
    """The process of each try of the stand-in; none of them may be left."""
    found = [int(line) for line in (folder / "tries").read_text().splitlines()]
    assert not [pid for pid in found if psutil.pid_exists(pid)]
    return found


@pytest.mark.parametrize("does", ["hang 2", "lose 2"])
def test_a_run_that_loses_requests_is_repeated_and_only_its_last_try_counts(
    served: Served, workload: Workload, tmp_path: Path, does: str
) -> None:
    before = settled(served.counts)
    program = _stand_in(tmp_path, does)
    run = measure(served, program, workload, threshold=ALL_HARD, requests=4, load=Load(concurrency=2))
    assert (run.repeats, len(_tries(tmp_path))) == (2, 3)
    assert (run.counts.total, run.counts.hard, run.times.requests) == (6, 6, 6)
    assert settled(served.counts).since(before).total == 3 * 6  # each try sent all its requests


def test_the_real_perf_analyzer_hangs_when_requests_are_answered_early(
    served: Served, workload: Workload, tmp_path: Path
) -> None:
    """Its main thread is held up in the line that it prints between starting its workers and being ready for them."""
    program, kept = find_perf_analyzer(), tmp_path / "whole"
    two = {"threshold": ALL_EASY, "requests": 2, "load": Load(concurrency=2), "timeout_s": 60.0}
    measure(served, program, workload, keep=kept, **two)  # type: ignore[arg-type]
    until_warm_up = re.search(r"(?s).*?Request concurrency: 2\n", kept.with_name("whole.txt").read_text())
    assert until_warm_up is not None
    two["timeout_s"] = 20.0
    for attempt in range(3):  # on a busy machine, it can be held up elsewhere, and hangs in another way
        folder = tmp_path / str(attempt)
        folder.mkdir()
        program = _stand_in(folder, f"hold {len(until_warm_up[0])}")
        with suppress(ServerError):
            run = measure(served, program, workload, **two)  # type: ignore[arg-type]
            break
    assert 1 <= run.repeats == len(_tries(folder)) - 1  # a busy machine can spoil the second try, too
    assert run.counts.total == 4


def test_thresholds_that_take_turns_are_repeated_together(served: Served, workload: Workload, tmp_path: Path) -> None:
    difficulties = served.difficulties(workload.images)
    program = _stand_in(tmp_path, "hang 1")
    runs = measure_interleaved(served, program, workload, difficulties, (ALL_EASY, ALL_HARD), requests=3)
    assert [run.repeats for run in runs] == [1, 0]
    assert len(_tries(tmp_path)) == 2


def test_a_perf_analyzer_that_always_hangs_is_one_sentence(served: Served, workload: Workload, tmp_path: Path) -> None:
    program = _stand_in(tmp_path, "hang 99")
    with pytest.raises(ServerError, match=r"^perf_analyzer hung while it measured .*, the last of 4 tries: .*$"):
        measure(served, program, workload, threshold=ALL_EASY, requests=1)
    assert len(_tries(tmp_path)) == 1 + MOST_REPEATS


def test_a_slow_perf_analyzer_is_not_ended(served: Served, workload: Workload, tmp_path: Path) -> None:
    """It naps for longer than a hung one may: before it measures, during a request, and after it has measured."""
    program = _stand_in(tmp_path, "slow 1.0")
    run = measure(served, program, workload, threshold=ALL_EASY, requests=1)
    assert (run.repeats, len(_tries(tmp_path))) == (0, 1)


def test_a_request_without_an_answer_ends_with_the_last_bound(
    served: Served, workload: Workload, tmp_path: Path
) -> None:
    program = _stand_in(tmp_path, "work")
    with pytest.raises(ServerError, match="did not finish a measurement in 2 s"):
        measure(served, program, workload, threshold=ALL_EASY, requests=1, timeout_s=2.0)
    assert len(_tries(tmp_path)) == 1


def test_a_perf_analyzer_that_a_script_started_is_ended_with_it(
    served: Served, workload: Workload, tmp_path: Path
) -> None:
    """Newer packages of perf_analyzer are such a script."""
    program = _stand_in(tmp_path, "script")
    with pytest.raises(ServerError, match="did not finish a measurement in 2 s"):
        measure(served, program, workload, threshold=ALL_EASY, requests=100_000, timeout_s=2.0)
    assert len(_tries(tmp_path)) == 1
    commands = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if str(workload.folder) in command]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        '{"experiments": []}',
        '{"experiments": [{"requests": []}]}',
        '{"experiments": [{"requests": [{"timestamp": NaN, "response_timestamps": []}]}]}',
        '{"experiments": [{"requests": [{"timestamp": 5, "response_timestamps": [5]}]}]}',
    ],
)
def test_an_unreadable_profile_is_a_server_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(ServerError, match="profile"):
        read_profile_export(path)


@pytest.mark.parametrize("content", ["", "Concurrency,p50 latency\n1,5\n", "Concurrency,Avg latency\n1,nonsense\n"])
def test_an_unreadable_table_is_a_server_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(ServerError, match="table"):
        read_table(path)


def test_a_perf_analyzer_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "perf_analyzer"
    program.write_text("#!/bin/sh\necho 'libmissing.so.1: cannot open shared object file' >&2\nexit 127\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    module.find_perf_analyzer.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match=r"libmissing.*pip install"):
            find_perf_analyzer()
        program.unlink()
        with pytest.raises(MissingExtraError, match=r"none beside this Python.*pip install"):
            find_perf_analyzer()
    finally:
        module.find_perf_analyzer.cache_clear()


def test_a_workload_without_pictures_is_refused() -> None:
    with pytest.raises(InputError, match="at least one image"):
        Workload([])
