"""One measurement: one perf_analyzer process at one load, and the routes that the server counted meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dyndet_bench.load import Load
from dyndet_bench.perf_analyzer import PerfAnalyzer
from dyndet_bench.perf_run import PERCENTILES, perf_run, warm_up_requests
from dyndet_bench.served import RouteCounts, Served, ServerTimes
from dyndet_bench.workload import Workload

__all__ = ["PERCENTILES", "Run", "measure"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one measurement found. Latencies are those of requests, in milliseconds, as the client saw them."""

    threshold: float | None
    requests: int
    mean_ms: float
    percentiles_ms: dict[int, float]
    throughput_per_s: float
    """images; perf_analyzer's in a closed loop by Little's law, at a request rate the rate that was asked for"""
    counts: RouteCounts
    """from the server's own counters; the warm-up requests, one per connection, are among them"""
    times: ServerTimes = field(default_factory=ServerTimes)
    """from the server's own statistics, warm-up requests too; empty in an open loop"""
    latencies_ms: FloatArray | None = None
    """(requests,) where they were asked for"""


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
    """Send `requests` requests (default: each picture once) at one load (default: one at a time), and measure them.

    See `perf_run` for what perf_analyzer does. Raises ServerError where the server fails or dies, or the output cannot
    be read.
    """
    load = load or Load()
    requests = -(-len(workload) // load.batch) if requests is None else requests
    before, times_before = served.counts(), served.times()
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
        check_alive=served.counts,
    )
    images = load.batch * (requests + warm_up_requests(load))
    return Run(
        threshold=threshold,
        requests=requests,
        mean_ms=found.mean_ms,
        percentiles_ms=found.percentiles_ms,
        throughput_per_s=found.throughput_per_s,
        counts=served.counts_after(before, images).since(before),
        times=served.times().since(times_before),
        latencies_ms=found.latencies_ms,
    )
