"""The cells of a sweep: the measurements of each, and its record."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dynamicdet.text import printable
from dyndet_bench.measuring.attempts import try_twice
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.measure import PERCENTILES, Run, hard_share
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.statistic import MEAN, THROUGHPUT, bootstrap_interval
from dyndet_bench.sweep.record import Cell, Latency, Split

RAW_FOLDER = "raw"
"""of a sweep, for perf_analyzer's own files and for journals"""

_LEAST_REQUESTS_PER_CONNECTION = 20
_LONGEST = 2000
"""characters of a reason; a server may say more"""


@dataclass
class CellRuns:
    """A cell and its measurements so far."""

    threshold: float
    rounds: Rounds
    """perf_analyzer's, at the cell's load"""
    due: Rounds | None = None
    """our own generator's, at a request rate"""
    runs: list[Run] = field(default_factory=list)
    """perf_analyzer's"""
    open_loop: list[Run] = field(default_factory=list)
    """our own generator's"""
    raw: list[str] = field(default_factory=list)
    """perf_analyzer's own files, relative to the record"""
    failures: list[str] = field(default_factory=list)
    """why runs are missing"""
    warning: str | None = None

    def measure(self, number: int) -> None:
        """One more run, the `number`-th of the cell; one that fails is tried again once. Raises ServerError."""
        runs = try_twice(lambda: self.rounds.measure((self.threshold,), number=number))
        raw = [f"{RAW_FOLDER}/{name}" for name in self.rounds.raw_files(self.threshold)]
        if self.due is not None:
            due = self.due
            self.open_loop += try_twice(lambda: due.measure((self.threshold,), number=number))
            self.warning = due.warnings.get(self.threshold)
        self.runs += runs
        self.raw += raw
        self.rounds.workload.discard(self.threshold)

    def record(self) -> Cell:
        """The cell as it goes into the record."""
        load = self.rounds.load
        cell = Cell(
            threshold=self.threshold,
            concurrency=None if load.open else load.concurrency,
            request_rate=load.request_rate,
            batch=load.batch,
            error=None if self.runs else printable(next(iter(self.failures), "it was not measured"), limit=_LONGEST),
            missing=tuple(printable(reason, limit=_LONGEST) for reason in self.failures),
            raw=tuple(self.raw),
        )
        if not self.runs:
            return cell
        answered = self.open_loop or self.runs
        low, high = bootstrap_interval(MEAN.of, self.runs)
        least, most = bootstrap_interval(THROUGHPUT.of, answered)
        late = bootstrap_interval(MEAN.of, self.open_loop) if self.open_loop else (None, None)
        repeated = len(self.runs) > 1
        return cell.model_copy(
            update={
                "requests": sum(run.requests for run in self.runs),
                "throughput_per_s": THROUGHPUT.of(answered),
                "latency": _latency(self.runs),
                "mean_low_ms": low if repeated else None,
                "mean_high_ms": high if repeated else None,
                "throughput_low_per_s": least if repeated else None,
                "throughput_high_per_s": most if repeated else None,
                "hard_share": hard_share(answered),
                "split": _split(self.runs),
                "open_loop": _latency(self.open_loop) if self.open_loop else None,
                "open_loop_low_ms": late[0] if repeated else None,
                "open_loop_high_ms": late[1] if repeated else None,
                "warning": None if self.warning is None else printable(self.warning, limit=_LONGEST),
                "repeats": sum(run.repeats for run in self.runs),
            }
        )


def cells_of(
    thresholds: Sequence[float],
    loads: Sequence[Load],
    rounds: Callable[..., Rounds],
    output: Path,
    *,
    pictures: int,
    requests: int | None,
) -> list[CellRuns]:
    """Every threshold at every load; `rounds` makes the `Rounds` of a load, `requests` is the number in one run."""
    cells = []
    for load in dict.fromkeys(loads):
        at_load = functools.partial(rounds, load=load, requests=_requests_at(load, pictures, requests))
        sent = at_load(as_sent=True, raw=output / RAW_FOLDER)
        due = at_load() if load.open else None
        cells += [CellRuns(threshold, sent, due) for threshold in thresholds]
    return cells


def _requests_at(load: Load, pictures: int, requests: int | None) -> int:
    """Number of requests in one run. At a rate it is at least that of one second: perf_analyzer refuses less."""
    least = requests or -(-pictures // load.batch)
    if load.request_rate is not None:
        return max(least, math.ceil(load.request_rate))
    return max(least, load.concurrency * (1 if requests is not None else _LEAST_REQUESTS_PER_CONNECTION))


def _latency(runs: Sequence[Run]) -> Latency:
    percentiles = {
        f"p{percent}_ms": float(np.median([run.percentiles_ms[percent] for run in runs])) for percent in PERCENTILES
    }
    return Latency(mean_ms=MEAN.of(runs), **percentiles)


def _split(runs: Sequence[Run]) -> Split | None:
    """Mean times of a request, in the run whose mean is the median (or in the two), so that they add up to the cell's.

    If stages of one request run side by side, their overlap reduces the routing time.
    """
    in_order = sorted(runs, key=lambda run: run.mean_ms)
    middle = in_order[(len(runs) - 1) // 2 : len(runs) // 2 + 1]
    if not all(run.times.requests for run in middle):
        return None
    inside, queue, compute = (
        float(np.mean([getattr(run.times, name) / run.times.requests for run in middle]))
        for name in ("inside_ms", "queue_ms", "compute_ms")
    )
    mean = float(np.mean([run.mean_ms for run in middle]))
    # Without the detector's own metrics, the time inside ends where its own queue begins.
    inside = max(inside, queue + compute)
    return Split(
        queue_ms=queue,
        compute_ms=compute,
        routing_ms=inside - queue - compute,
        network_ms=max(0.0, mean - inside),
    )
