"""Measures the cells of a sweep, keeps every run, and turns runs into records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dyndet_bench.measuring.journal import Journal, Round
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.measure import PERCENTILES, Run, measure
from dyndet_bench.measuring.perf_analyzer import PerfAnalyzer
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.measuring.statistic import MEAN, THROUGHPUT, Statistic, bootstrap_interval
from dyndet_bench.measuring.workload import Workload
from dyndet_bench.sweep.record import Cell, Latency, Split

_RESUMED_S = 24 * 3600.0
_LEAST_REQUESTS_PER_CONNECTION = 20


@dataclass
class CellRuns:
    """A cell and what was measured of it so far."""

    threshold: float
    load: Load
    runs: list[Run] = field(default_factory=list)
    """perf_analyzer's"""
    open_loop: list[Run] = field(default_factory=list)
    """our own generator's, at a request rate"""
    raw: list[str] = field(default_factory=list)
    error: str | None = None
    warning: str | None = None

    @property
    def name(self) -> str:
        """For files."""
        load = f"r{self.load.request_rate:g}" if self.load.open else f"c{self.load.concurrency}"
        return f"t{self.threshold:.6g}-{load}-b{self.load.batch}"

    def record(self) -> Cell:
        """The cell as it is kept."""
        known = Cell(
            threshold=self.threshold,
            concurrency=None if self.load.open else self.load.concurrency,
            request_rate=self.load.request_rate,
            batch=self.load.batch,
            error=None if self.runs else self.error or "it was not measured",
            raw=tuple(self.raw),
        )
        if not self.runs:
            return known
        answered = self.open_loop or self.runs
        low, high = bootstrap_interval(MEAN.of, self.runs)
        least, most = bootstrap_interval(THROUGHPUT.of, answered)
        repeated = len(self.runs) > 1
        total = sum(run.counts.total for run in answered)
        return known.model_copy(
            update={
                "requests": sum(run.requests for run in self.runs),
                "throughput_per_s": THROUGHPUT.of(answered),
                "latency": _latency(self.runs),
                "mean_low_ms": low if repeated else None,
                "mean_high_ms": high if repeated else None,
                "throughput_low_per_s": least if repeated else None,
                "throughput_high_per_s": most if repeated else None,
                "hard_share": min(1.0, sum(run.counts.hard for run in answered) / total) if total else None,
                "split": _split(self.runs),
                "open_loop": _pooled_latency(self.open_loop) if self.open_loop else None,
                "warning": self.warning,
                "repeats": sum(run.repeats for run in self.runs),
            }
        )


class Measurer:
    """Runs perf_analyzer for one cell at a time; what an earlier sweep measured of the same server is taken first."""

    def __init__(
        self,
        served: Served,
        perf_analyzer: PerfAnalyzer,
        workload: Workload,
        output: Path,
        identity: Mapping[str, object],
        *,
        requests: int | None,
        fresh: bool,
    ) -> None:
        self._served = served
        self._perf_analyzer = perf_analyzer
        self._workload = workload
        self._output = output
        self._identity = {**identity, "requests": requests, "perf_analyzer": perf_analyzer.version}
        self._requests = requests
        self._fresh = fresh
        self._journals: dict[Load | None, Journal] = {}

    def measure(self, cell: CellRuns, repetition: int) -> None:
        """One more run of a cell. Raises ServerError."""
        stem = f"raw/{cell.name}-{repetition + 1}"
        cell.runs.append(self._kept(cell, False, lambda: self._closed_or_sent(cell, self._output / stem)))
        cell.raw += [f"{stem}.csv", f"{stem}.txt"]
        if cell.load.open:
            cell.open_loop.append(self._kept(cell, True, lambda: self._due(cell, repetition)))
        self._workload.discard(cell.threshold)

    def routes(self, rounds: Rounds, number: int, tell: Callable[[int], None]) -> list[Round]:
        """Rounds of both routes with the latency of each request."""
        wanted = ((ALL_EASY, True), (ALL_HARD, True))
        journal = self._journal(None)
        found: list[Round] = []
        for done in range(number):
            known = journal.take(wanted)
            if known is None:
                known = rounds.measure((ALL_EASY, ALL_HARD), latencies_of=(ALL_EASY, ALL_HARD))
                journal.add(known)
            found.append(known)
            tell(2 * (done + 1))
        return found

    def _kept(self, cell: CellRuns, latencies: bool, run: Callable[[], Run]) -> Run:
        journal = self._journal(cell.load)
        known = journal.take(((cell.threshold, latencies),))
        if known is None:
            known = [run()]
            journal.add(known)
        return known[0]

    def _journal(self, load: Load | None) -> Journal:
        if load not in self._journals:
            identity = {**self._identity, "load": str(load)}
            folder = self._output / "raw"
            self._journals[load] = Journal(folder, identity, newest_s=_RESUMED_S, fresh=self._fresh)
        return self._journals[load]

    def _closed_or_sent(self, cell: CellRuns, keep: Path) -> Run:
        return measure(
            self._served,
            self._perf_analyzer,
            self._workload,
            threshold=cell.threshold,
            load=cell.load,
            requests=self._requests_at(cell.load),
            keep=keep,
        )

    def _due(self, cell: CellRuns, repetition: int) -> Run:
        rounds = Rounds(
            self._served,
            self._perf_analyzer,
            self._workload,
            load=cell.load,
            requests=self._requests_at(cell.load),
            first=repetition,
        )
        (run,) = rounds.measure((cell.threshold,))
        cell.warning = rounds.warning or cell.warning
        return run

    def _requests_at(self, load: Load) -> int:
        """At a rate at least a second of it: perf_analyzer refuses less."""
        asked = self._requests
        if load.request_rate is not None:
            return max(asked or -(-len(self._workload) // load.batch), math.ceil(load.request_rate))
        each = 1 if asked is not None else _LEAST_REQUESTS_PER_CONNECTION
        return max(asked or -(-len(self._workload) // load.batch), each * load.concurrency)


def _latency(runs: Sequence[Run]) -> Latency:
    percentiles = {
        f"p{percent}_ms": float(np.median([run.percentiles_ms[percent] for run in runs])) for percent in PERCENTILES
    }
    return Latency(mean_ms=MEAN.of(runs), **percentiles)


def _pooled_latency(runs: Sequence[Run]) -> Latency:
    return Latency(
        mean_ms=MEAN.of(runs), **{f"p{percent}_ms": Statistic(f"p{percent}").of(runs) for percent in PERCENTILES}
    )


def _split(runs: Sequence[Run]) -> Split | None:
    """Mean times of a request. The stages of one request may run side by side; what they overlap is not routing."""
    requests = sum(run.times.requests for run in runs)
    if not requests:
        return None
    inside, queue, compute = (
        sum(getattr(run.times, name) for run in runs) / requests for name in ("inside_ms", "queue_ms", "compute_ms")
    )
    mean = float(np.mean([run.mean_ms for run in runs]))
    return Split(
        queue_ms=queue,
        compute_ms=compute,
        routing_ms=max(0.0, inside - queue - compute),
        network_ms=max(0.0, mean - inside),
    )
