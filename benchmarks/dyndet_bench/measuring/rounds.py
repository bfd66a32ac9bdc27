"""Repeats measurements in rounds, so that a machine that grows slower or faster does so for all that is compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from dynamicdet.aliases import FloatArray
from dyndet_bench.measuring.interleaved import measure_interleaved
from dyndet_bench.measuring.journal import Journal, Round
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.measure import PERCENTILES, Run, measure
from dyndet_bench.measuring.open_loop import measure_open_loop
from dyndet_bench.measuring.perf_analyzer import PerfAnalyzer
from dyndet_bench.measuring.served import Served
from dyndet_bench.measuring.workload import Workload


class Rounds:
    """Measures several thresholds in turn on one server with one set of pictures at one load.

    A closed loop is perf_analyzer's; at a request rate our own generator measures, which counts from the moment a
    request was due. With one request of one picture in flight, and `difficulties` given, the thresholds take turns
    request by request (see `interleaved`), else run by run.
    """

    def __init__(
        self,
        served: Served,
        perf_analyzer: PerfAnalyzer,
        workload: Workload,
        *,
        load: Load | None = None,
        requests: int | None = None,
        journal: Journal | None = None,
        first: int = 0,
        difficulties: FloatArray | None = None,
    ) -> None:
        """`first` numbers the rounds, each of which has arrivals of its own at a request rate."""
        self.workload = workload
        self.load = load or Load()
        self.warning: str | None = None
        """where the client of an open loop did not send on time: what it said last"""
        self.repeats = 0
        """tries of perf_analyzer that hung or lost requests, in all rounds"""
        self._served = served
        self._perf_analyzer = perf_analyzer
        self._requests = -(-len(workload) // self.load.batch) if requests is None else requests
        self._journal = journal
        self._number = first
        self._difficulties = difficulties if self.load == Load() else None

    def measure(
        self,
        thresholds: Sequence[float | None],
        progress: Callable[[], None] | None = None,
        *,
        latencies_of: Collection[float | None] = (),
    ) -> Round:
        """One run of each threshold, in their order. Every other round is measured backwards.

        Single latencies are fetched for the thresholds `latencies_of`; in a closed loop that takes its time.
        `progress` is called after each run.
        """
        runs = self._round(thresholds, progress or (lambda: None), latencies_of)
        self.repeats += sum(run.repeats for run in runs)
        return runs

    def _round(
        self, thresholds: Sequence[float | None], tell: Callable[[], None], latencies_of: Collection[float | None]
    ) -> Round:
        all_known = self.load.open or self._difficulties is not None
        wanted = tuple((threshold, all_known or threshold in latencies_of) for threshold in thresholds)
        known = None if self._journal is None else self._journal.take(wanted)
        self._number += 1
        if known is not None:
            for _ in known:
                tell()
            return known
        if self._difficulties is not None:
            return self._interleaved(thresholds, self._difficulties, tell)
        runs: dict[int, Run] = {}
        for index in list(range(len(wanted)))[:: 1 if self._number % 2 else -1]:
            runs[index] = self._run(*wanted[index])
            if len(runs) == len(wanted) and self._journal is not None:
                self._journal.add([runs[position] for position in range(len(wanted))])
            tell()
        return [runs[position] for position in range(len(wanted))]

    def _interleaved(
        self, thresholds: Sequence[float | None], difficulties: FloatArray, tell: Callable[[], None]
    ) -> Round:
        values = [threshold for threshold in thresholds if threshold is not None]
        if len(values) < len(thresholds):
            raise ValueError("the server's own threshold cannot be measured among others")
        told = 0

        def tell_one() -> None:
            nonlocal told
            told += 1
            tell()

        runs = measure_interleaved(
            self._served,
            self._perf_analyzer,
            self.workload,
            difficulties,
            values,
            requests=self._requests,
            number=self._number,
            tell=tell_one,
        )
        if self._journal is not None:
            self._journal.add(runs)
        for _ in range(len(values) - told):  # what is told is on record
            tell()
        return runs

    def _run(self, threshold: float | None, latencies: bool) -> Run:
        if self.load.open:
            return self._open_loop(threshold)
        return measure(
            self._served,
            self._perf_analyzer,
            self.workload,
            threshold=threshold,
            load=self.load,
            requests=self._requests,
            export_latencies=latencies,
        )

    def _open_loop(self, threshold: float | None) -> Run:
        found = measure_open_loop(
            self._served,
            self.workload.images,
            load=self.load,
            threshold=threshold,
            requests=self._requests,
            seed=self._number,
        )
        self.warning = found.warning or self.warning
        return Run(
            threshold=threshold,
            requests=self._requests,
            mean_ms=float(found.latencies_ms.mean()),
            percentiles_ms={
                percent: float(np.quantile(found.latencies_ms, percent / 100, method="inverted_cdf"))
                for percent in PERCENTILES
            },
            throughput_per_s=found.achieved_rate_per_s * self.load.batch,
            counts=found.counts,
            latencies_ms=found.latencies_ms,
        )
