"""Measures thresholds in rounds: if the machine gets slower or faster, it does so for all that are compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Literal

from dynamicdet.aliases import FloatArray
from dyndet_bench.measuring.interleaved import measure_interleaved
from dyndet_bench.measuring.journal import JournalFolder, Replayed
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.measure import Run, measure
from dyndet_bench.measuring.open_loop import measure_open_loop
from dyndet_bench.measuring.perf_analyzer import PerfAnalyzer
from dyndet_bench.measuring.round_journal import Round, RoundJournal, Wanted
from dyndet_bench.measuring.served import Served
from dyndet_bench.measuring.workload import Workload

Method = Literal["run by run", "request by request", "open loop"]
"""how the thresholds of a round take turns, the first two with perf_analyzer, the last with our own generator"""


class Rounds:
    """Runs of thresholds on one server with one set of images at one load: from a journal, else measured.

    perf_analyzer measures closed loops. At a request rate our own generator measures, which counts from the moment when
    a request was due. With one request of one image in flight, and `difficulties` given, the thresholds take turns
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
        difficulties: FloatArray | None = None,
        as_sent: bool = False,
        journals: JournalFolder | None = None,
        raw: Path | None = None,
    ) -> None:
        """`requests` are those of a run, by default each image once; `difficulties` those of the workload's images.

        `as_sent` lets perf_analyzer also measure at a request rate, from when a request was really sent. `raw` is a
        folder for the files that perf_analyzer writes in a run of its own.
        """
        self.workload = workload
        self.load = load or Load()
        self.warnings: dict[float | None, str] = {}
        """the last warning by threshold, if the client of an open loop did not send on time"""
        self.repeats = 0
        """tries of perf_analyzer that hung or lost requests, in all rounds"""
        self._served = served
        self._perf_analyzer = perf_analyzer
        self._requests = -(-len(workload) // self.load.batch) if requests is None else requests
        self._difficulties = difficulties if self.load == Load() else None
        self._method = self._choose_method(as_sent=as_sent)
        self._journal = None if journals is None else RoundJournal(journals, self._identity())
        self._raw = raw
        self._number = 0

    @property
    def replayed(self) -> Replayed | None:
        """The rounds that came from the journal; None if there were none."""
        return None if self._journal is None else self._journal.replayed

    def measure(
        self,
        thresholds: Sequence[float | None],
        progress: Callable[[], None] | None = None,
        *,
        latencies_of: Collection[float | None] = (),
        number: int | None = None,
    ) -> Round:
        """One run of each threshold, in their order. Every other round is measured backwards.

        Single latencies are fetched for the thresholds `latencies_of`; in a closed loop this takes long. `progress` is
        called after each run. At a request rate, each `number` of a round, by default the next one, has its own
        arrivals. Raises ServerError.
        """
        runs = self._round(thresholds, progress or (lambda: None), latencies_of, number)
        self.repeats += sum(run.repeats for run in runs)
        return runs

    def _round(
        self,
        thresholds: Sequence[float | None],
        tell: Callable[[], None],
        latencies_of: Collection[float | None],
        number: int | None,
    ) -> Round:
        self._number = self._number + 1 if number is None else number
        every_latency = self._method != "run by run"
        wanted = tuple((threshold, every_latency or threshold in latencies_of) for threshold in thresholds)
        runs = None if self._journal is None else self._journal.take(wanted)
        if runs is None:
            return self._measure(wanted, tell)
        for _ in runs:
            tell()
        return runs

    def raw_files(self, threshold: float) -> tuple[str, str]:
        """Names of perf_analyzer's files about a threshold in the last round: its table and its printed output.

        The names contain threshold, load, batch size and the round's number, as in `t0.5-c4-b1-2.csv`.
        """
        return f"{self._raw_name(threshold)}.csv", f"{self._raw_name(threshold)}.txt"

    def _choose_method(self, *, as_sent: bool) -> Method:
        if self.load.open and not as_sent:
            return "open loop"
        return "run by run" if self._difficulties is None else "request by request"

    def _identity(self) -> dict[str, object]:
        """What a run depends on beside its threshold, this machine and the installed versions."""
        return {
            "server": self._served.identity(),
            "perf_analyzer": self._perf_analyzer.version,
            "images": self.workload.sha256,
            "load": str(self.load),
            "requests": self._requests,
            "method": self._method,
        }

    def _measure(self, wanted: Wanted, tell: Callable[[], None]) -> Round:
        early = 0

        def tell_early() -> None:
            nonlocal early
            if early < len(wanted) - 1:  # the last run is reported once the round is on record
                early += 1
                tell()

        measured = self._request_by_request if self._method == "request by request" else self._run_by_run
        runs = measured(wanted, tell_early)
        if self._journal is not None:
            self._journal.add(runs)
        for _ in range(len(wanted) - early):
            tell()
        return runs

    def _request_by_request(self, wanted: Wanted, tell: Callable[[], None]) -> Round:
        assert self._difficulties is not None
        thresholds = [threshold for threshold, _ in wanted if threshold is not None]
        if len(thresholds) < len(wanted):
            raise ValueError("the server's own threshold cannot be measured among others")
        return measure_interleaved(
            self._served,
            self._perf_analyzer,
            self.workload,
            self._difficulties,
            thresholds,
            requests=self._requests,
            number=self._number,
            tell=tell,
        )

    def _run_by_run(self, wanted: Wanted, tell: Callable[[], None]) -> Round:
        runs: dict[int, Run] = {}
        for place in list(range(len(wanted)))[:: 1 if self._number % 2 else -1]:
            threshold, latencies = wanted[place]
            runs[place] = self._open_loop(threshold) if self._method == "open loop" else self._run(threshold, latencies)
            tell()
        return [runs[place] for place in range(len(wanted))]

    def _run(self, threshold: float | None, latencies: bool) -> Run:
        return measure(
            self._served,
            self._perf_analyzer,
            self.workload,
            threshold=threshold,
            load=self.load,
            requests=self._requests,
            export_latencies=latencies,
            keep=None if self._raw is None else self._raw / self._raw_name(threshold),
        )

    def _open_loop(self, threshold: float | None) -> Run:
        measured = measure_open_loop(
            self._served,
            self.workload.images,
            load=self.load,
            threshold=threshold,
            requests=self._requests,
            seed=self._number,
        )
        if measured.warning is not None:
            self.warnings[threshold] = measured.warning
        return measured.as_run()

    def _raw_name(self, threshold: float | None) -> str:
        own = "server" if threshold is None else f"{threshold:.6g}"
        load = f"r{self.load.request_rate:g}" if self.load.open else f"c{self.load.concurrency}"
        return f"t{own}-{load}-b{self.load.batch}-{self._number}"
