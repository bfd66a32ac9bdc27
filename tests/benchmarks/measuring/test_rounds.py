"""Rounds on the real server: measured once, then taken from the journal by whoever asks the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicdet.pictures import pictures_in
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.round_journal import Round
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.measuring.workload import Workload, read_letterboxed
from dyndet_builder.server.triton import TritonServer

_ENDS = (ALL_EASY, ALL_HARD)


@pytest.fixture(scope="module")
def served(server: TritonServer) -> Iterator[Served]:
    with Served(server.grpc_url) as connection:
        yield connection


@pytest.fixture(scope="module")
def workloads(served: Served, demo_images: Path) -> Iterator[tuple[Workload, Workload]]:
    pictures = read_letterboxed(pictures_in(demo_images)[:5], served.detector.fit)
    with Workload(pictures[:4]) as first, Workload(pictures[1:]) as second:
        yield first, second


def _figures(runs: Round) -> list[tuple[float | None, float, int]]:
    return [(run.threshold, run.mean_ms, run.counts.hard) for run in runs]


def _replayed(rounds: Rounds) -> int:
    return 0 if rounds.replayed is None else rounds.replayed.measurements


def test_a_round_is_taken_once_and_only_by_the_same_question(
    served: Served, workloads: tuple[Workload, Workload], tmp_path: Path
) -> None:
    pictures, others = workloads
    journals = JournalFolder(folder=tmp_path, newest_s=60)

    def rounds(workload: Workload = pictures, requests: int = 4) -> Rounds:
        return Rounds(served, find_perf_analyzer(), workload, requests=requests, journals=journals)

    measured = rounds().measure(_ENDS)
    assert [run.counts.hard for run in measured] == [0, 5]  # with a warm-up request
    again = rounds()
    reports: list[None] = []
    assert _figures(again.measure(_ENDS, lambda: reports.append(None))) == _figures(measured)
    assert (_replayed(again), len(reports)) == (1, 2)
    assert _figures(again.measure(_ENDS)) != _figures(measured)  # each is given out once
    for other in (rounds(others), rounds(requests=5)):
        other.measure((ALL_EASY,))
        other.measure(_ENDS)
        assert _replayed(other) == 0


def test_a_round_is_on_record_before_its_last_run_is_reported(
    served: Served, workloads: tuple[Workload, Workload], tmp_path: Path
) -> None:
    pictures, _ = workloads
    journals = JournalFolder(folder=tmp_path, newest_s=60)
    difficulties = served.difficulties(pictures.images)
    reports = 0

    def interrupt() -> None:
        nonlocal reports
        reports += 1
        if reports == len(_ENDS):
            raise KeyboardInterrupt

    def rounds() -> Rounds:
        return Rounds(served, find_perf_analyzer(), pictures, difficulties=difficulties, journals=journals)

    with pytest.raises(KeyboardInterrupt):
        rounds().measure(_ENDS, interrupt)
    resumed = rounds()
    runs = resumed.measure(_ENDS)
    assert _replayed(resumed) == 1
    assert all(run.latencies_ms is not None for run in runs)  # request by request every latency is known


def test_both_generators_measure_a_request_rate_and_keep_journals_of_their_own(
    served: Served, workloads: tuple[Workload, Workload], tmp_path: Path
) -> None:
    pictures, _ = workloads
    journals = JournalFolder(folder=tmp_path, newest_s=60)

    def rounds(*, as_sent: bool) -> Rounds:
        raw = tmp_path if as_sent else None
        load = Load(request_rate=20.0)
        return Rounds(
            served, find_perf_analyzer(), pictures, load=load, requests=20, as_sent=as_sent, journals=journals, raw=raw
        )

    sent = rounds(as_sent=True)
    (of_perf_analyzer,) = sent.measure((ALL_HARD,), number=3)
    assert sent.raw_files(ALL_HARD) == ("t0-r20-b1-3.csv", "t0-r20-b1-3.txt")
    assert all((tmp_path / name).stat().st_size > 0 for name in sent.raw_files(ALL_HARD))
    due = rounds(as_sent=False)
    (own,) = due.measure((ALL_HARD,), number=3)
    assert _replayed(due) == 0
    assert (of_perf_analyzer.latencies_ms is None, own.latencies_ms is None) == (True, False)
    for first, as_sent in ((of_perf_analyzer, True), (own, False)):
        again = rounds(as_sent=as_sent)
        assert _figures(again.measure((ALL_HARD,))) == _figures([first])
        assert _replayed(again) == 1
