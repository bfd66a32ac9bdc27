"""Several thresholds in one run of perf_analyzer: each image at every threshold, one request after another.

A machine that shares its cores changes its speed within seconds, by more than the tolerance of a promise. Between runs
that follow each other, this change is larger than the difference to be measured. Between requests it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import ServerError
from dyndet_bench.measuring.counters import RouteCounts
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.measure import PERCENTILES, Counters, Run
from dyndet_bench.measuring.perf_analyzer import PerfAnalyzer
from dyndet_bench.measuring.perf_run import PerfRun, perf_run, warm_up_requests
from dyndet_bench.measuring.served import Served
from dyndet_bench.measuring.workload import Workload

_REQUESTS = 110
"""of one process: perf_analyzer stores and exports every pixel that it sends, some 17 MB per 320 x 320 image"""
_STRAY = 0.02
"""share of requests whose route may differ from the one by their difficulty, whose last digit can change"""


def measure_interleaved(
    served: Served,
    perf_analyzer: PerfAnalyzer,
    workload: Workload,
    difficulties: FloatArray,
    thresholds: Sequence[float],
    *,
    requests: int,
    number: int = 0,
    tell: Callable[[], None] = lambda: None,
) -> list[Run]:
    """One run of each threshold, one request at a time, each with all its latencies.

    Every threshold gets `requests` requests, the images in their order. The thresholds of an image follow each other,
    in an order that changes from image to image and with the `number` of the round. `difficulties` are those of the
    workload's images. The server does not count the thresholds separately, so a run's hard images are those whose
    difficulty exceeds its threshold. Raises ServerError if their sum over all runs differs from the server's count.
    `tell` is called each time another threshold's share of the work is done, except at the end.
    """
    pictures = [index % len(workload) for index in range(requests)]
    latencies: list[list[float]] = [[] for _ in thresholds]
    chunks = max(1, math.ceil(len(pictures) * len(thresholds) / _REQUESTS))
    told = repeats = 0
    for chunk in range(chunks):
        entries = [
            (picture, (place + position + number) % len(thresholds))
            for position, picture in enumerate(pictures[chunk::chunks])
            for place in range(len(thresholds))
        ]
        found = _run(served, perf_analyzer, workload, difficulties, [(p, thresholds[which]) for p, which in entries])
        repeats += found.repeats
        assert found.latencies_ms is not None
        for (_, which), latency in zip(entries, found.latencies_ms, strict=True):
            latencies[which].append(float(latency))
        while chunk + 1 < chunks and told < round((chunk + 1) * len(thresholds) / chunks):
            tell()
            told += 1
    hard = [sum(_is_hard(difficulties[picture], threshold) for picture in pictures) for threshold in thresholds]
    first, *others = [
        _as_run(threshold, np.array(own, np.float64), RouteCounts(total=len(own), hard=count))
        for threshold, own, count in zip(thresholds, latencies, hard, strict=True)
    ]
    return [replace(first, repeats=repeats), *others]


def _run(
    served: Served,
    perf_analyzer: PerfAnalyzer,
    workload: Workload,
    difficulties: FloatArray,
    entries: Sequence[tuple[int, float]],
) -> PerfRun:
    """One process, with the latency of each entry, an image at a threshold."""
    counters = Counters(served, len(entries) + warm_up_requests(Load()))
    with workload.entries(entries) as input_data:
        run = perf_run(
            perf_analyzer,
            address=served.address,
            model=served.name,
            input_data=input_data,
            folder=workload.folder,
            load=Load(),
            requests=len(entries),
            export_latencies=True,
            boxes_alone=served.detector.has_masks,
            check_alive=served.counts,
            before_try=counters.begin,
        )
    counted, _ = counters.end()
    expected = sum(_is_hard(difficulties[picture], threshold) for picture, threshold in (entries[0], *entries))
    if abs(counted.hard - expected) > 1 + _STRAY * len(entries):  # the first entry was sent to warm up, too
        raise ServerError(
            f"model {served.name!r} sent {counted.hard} of {counted.total} images to detector 2, but by their "
            f"difficulties it should be {expected}; does another program send requests to it?"
        )
    return run


def _is_hard(difficulty: float, threshold: float) -> bool:
    """As the server decides: NaN is hard, and at threshold 0 every image is."""
    return not (threshold > 0 and difficulty <= threshold)


def _as_run(threshold: float, latencies_ms: FloatArray, counts: RouteCounts) -> Run:
    mean_ms = float(latencies_ms.mean())
    return Run(
        threshold=threshold,
        requests=latencies_ms.size,
        mean_ms=mean_ms,
        percentiles_ms={
            percent: float(np.quantile(latencies_ms, percent / 100, method="inverted_cdf")) for percent in PERCENTILES
        },
        throughput_per_s=1e3 / mean_ms,
        counts=counts,
        latencies_ms=latencies_ms,
    )
