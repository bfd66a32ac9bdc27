"""One measurement: one perf_analyzer process at one load, and the routes that the server counted meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dynamicdet.aliases import FloatArray
from dyndet_bench.measuring.counters import RouteCounts, ServerTimes
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.perf_analyzer import PerfAnalyzer
from dyndet_bench.measuring.perf_run import PERCENTILES, perf_run, warm_up_requests
from dyndet_bench.measuring.served import Served
from dyndet_bench.measuring.workload import Workload

__all__ = ["PERCENTILES", "Counters", "Run", "hard_share", "measure"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The result of one measurement. Latencies are those of requests, in milliseconds, as the client saw them."""

    threshold: float | None
    requests: int
    mean_ms: float
    percentiles_ms: dict[int, float]
    throughput_per_s: float
    """images; by perf_analyzer, in a closed loop it follows from Little's law, at a request rate it is that rate"""
    counts: RouteCounts
    """from the server's own counters; includes the warm-up requests, one per connection"""
    times: ServerTimes = field(default_factory=ServerTimes)
    """from the server's own statistics, warm-up requests too; empty in an open loop"""
    latencies_ms: FloatArray | None = None
    """(requests,) if they were requested"""
    repeats: int = 0
    """earlier tries that hung or lost requests; if runs share a process, the first one counts them"""


def hard_share(runs: Sequence[Run]) -> float | None:
    """Share of images that the server counted as hard, 0..1, over some runs; None if it counted no image."""
    total = sum(run.counts.total for run in runs)
    return min(1.0, sum(run.counts.hard for run in runs) / total) if total else None


class Counters:
    """The server's counters over the one try of perf_analyzer whose result counts."""

    def __init__(self, served: Served, images: int) -> None:
        """`images` are those that each try sends, warm-up too."""
        self._served = served
        self._images = images
        self._counts: RouteCounts | None = None
        self._times = ServerTimes()

    def begin(self) -> None:
        """Read them before a try, as soon as all images of the previous try are counted."""
        known = self._counts
        self._counts = self._served.counts() if known is None else self._served.counts_after(known, self._images)
        self._times = self._served.times()

    def end(self) -> tuple[RouteCounts, ServerTimes]:
        """What was counted since `begin`, as soon as all images of the try are."""
        assert self._counts is not None
        counts = self._served.counts_after(self._counts, self._images).since(self._counts)
        return counts, self._served.times().since(self._times)


def measure(
    served: Served,
    perf_analyzer: PerfAnalyzer,
    workload: Workload,
    *,
    threshold: float | None,
    load: Load | None = None,
    requests: int | None = None,
    export_latencies: bool = False,
    keep: Path | None = None,
    timeout_s: float = 900.0,
) -> Run:
    """Send `requests` requests (default: each image once) at one load (default: one at a time), and measure them.

    `perf_run` describes what perf_analyzer does. Raises ServerError if the server fails or dies, or the output cannot
    be read.
    """
    load = load or Load()
    requests = -(-len(workload) // load.batch) if requests is None else requests
    counters = Counters(served, load.batch * (requests + warm_up_requests(load)))
    found = perf_run(
        perf_analyzer,
        address=served.address,
        model=served.name,
        input_data=workload.input_data(threshold),
        folder=workload.folder,
        load=load,
        requests=requests,
        export_latencies=export_latencies,
        keep=keep,
        timeout_s=timeout_s,
        boxes_alone=served.detector.has_masks,
        check_alive=served.counts,
        before_try=counters.begin,
    )
    counts, times = counters.end()
    return Run(
        threshold=threshold,
        requests=requests,
        mean_ms=found.mean_ms,
        percentiles_ms=found.percentiles_ms,
        throughput_per_s=found.throughput_per_s,
        counts=counts,
        times=times,
        latencies_ms=found.latencies_ms,
        repeats=found.repeats,
    )
