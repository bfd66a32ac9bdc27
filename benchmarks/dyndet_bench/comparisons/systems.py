"""The ways to serve that `serving` measures: each takes a threshold and a concurrency and returns measurements.

Every failure of one of them is a DyndetError that says why.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import DyndetError
from dynamicdet.records import Count, Positive
from dyndet_bench.comparisons.bare import BareStages
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.perf_analyzer import PerfAnalyzer
from dyndet_bench.measuring.perf_run import perf_run
from dyndet_bench.measuring.workload import Workload

Eager = Callable[[UInt8Array, float], object]
"""Answers one letterboxed image (S, S, 3) at a threshold."""

Mix = Literal["easy", "hard", "mixed"]
MIXES: tuple[Mix, ...] = get_args(Mix)

FLOOR, POOLED = "ONNX Runtime, bare", "ONNX Runtime, one pool"
_OUTPUT_BYTES = 1 << 18
"""space for one output in shared memory"""


@dataclass(frozen=True)
class Figures:
    """The measurements of one run of a way to serve."""

    p50_ms: Positive
    p99_ms: Positive
    throughput_per_s: Positive
    repeats: Count = 0
    """earlier runs of perf_analyzer that hung or lost requests"""


@dataclass(frozen=True)
class System:
    """A way to serve. `measure` takes the threshold of the mix and the concurrency."""

    name: str
    mixes: tuple[Mix, ...]
    measure: Callable[[float, int], Figures]
    concurrent: bool = True


@dataclass(frozen=True)
class Harness:
    """Measures served models with perf_analyzer."""

    perf_analyzer: PerfAnalyzer
    address: str
    images: Sequence[UInt8Array]
    check_alive: Callable[[], object]
    """raises the server's own error if it is gone"""

    def system(
        self,
        name: str,
        model: str,
        workload: Workload,
        *,
        mixes: tuple[Mix, ...] = MIXES,
        threshold: bool = True,
        shared_memory: bool = False,
    ) -> System:
        """A served model; `threshold` says whether the model has that input."""

        def measure(value: float, concurrency: int) -> Figures:
            run = perf_run(
                self.perf_analyzer,
                address=self.address,
                model=model,
                input_data=workload.input_data(value if threshold else None),
                folder=workload.folder,
                load=Load(concurrency=concurrency),
                requests=len(self.images) * (1 if concurrency == 1 else 3),
                shared_memory_bytes=_OUTPUT_BYTES if shared_memory else None,
                check_alive=self.check_alive,
            )
            return Figures(run.percentiles_ms[50], run.percentiles_ms[99], run.throughput_per_s, run.repeats)

        return System(name, mixes, measure)


def local(name: str, measure: Callable[[float, int], Figures], *, concurrent: bool = False) -> System:
    """A way that needs no server: any exception of the libraries that it calls is a DyndetError."""

    def checked(threshold: float, concurrency: int) -> Figures:
        try:
            return measure(threshold, concurrency)
        except DyndetError:
            raise
        except Exception as error:  # each library has its own kinds
            text = str(error).strip().partition("\n")[0] or "no reason given"
            raise DyndetError(f"{name} failed: {type(error).__name__}: {text}") from error

    return System(name, MIXES, checked, concurrent)


_pooled: Callable[[float, int], Figures] | None = None
"""in the process of `own_process`: the loop whose graphs share a pool of threads"""


def own_process(graphs: Mapping[str, Path], images: Sequence[UInt8Array]) -> ProcessPoolExecutor:
    """A process for the loop with one pool: ONNX Runtime sets the pool's size before the first graph is loaded."""
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_prepare_pooled, initargs=(graphs, images)
    )


def _prepare_pooled(graphs: Mapping[str, Path], images: Sequence[UInt8Array]) -> None:
    global _pooled
    _pooled = loop(BareStages(graphs, shared_pool=True).answer, images)


def pooled_loop(threshold: float) -> Figures:
    """Run the loop with one pool; call it in the process of `own_process`."""
    assert _pooled is not None
    return _pooled(threshold, 1)


def floor(graphs: Mapping[str, Path], images: Sequence[UInt8Array], cores: int) -> System:
    """Bare ONNX Runtime: one loop; above concurrency 1, the faster of this and one loop per core."""
    alone_loop = loop(BareStages(graphs).answer, images)
    single = [BareStages(graphs, threads=1) for _ in range(cores)]

    def measure(threshold: float, concurrency: int) -> Figures:
        alone = alone_loop(threshold, 1)
        if concurrency == 1:
            return alone
        together = _side_by_side(single, images, threshold)
        return max(alone, together, key=lambda figures: figures.throughput_per_s)

    return local(FLOOR, measure, concurrent=True)


def loop(answer: Eager, images: Sequence[UInt8Array]) -> Callable[[float, int], Figures]:
    """Answer all images, one after another, at any concurrency; the first image also runs once before, uncounted."""

    def measure(threshold: float, concurrency: int) -> Figures:
        del concurrency  # one after another
        answer(images[0], threshold)
        times = np.empty(len(images))
        for row, image in enumerate(images):
            start = time.perf_counter_ns()
            answer(image, threshold)
            times[row] = (time.perf_counter_ns() - start) / 1e6
        return Figures(float(np.median(times)), float(np.quantile(times, 0.99)), 1e3 / float(times.mean()))

    return measure


def _side_by_side(workers: Sequence[BareStages], images: Sequence[UInt8Array], threshold: float) -> Figures:
    """One loop per worker, all at the same time, each over all images; ONNX Runtime releases Python's lock."""

    def work(worker: BareStages) -> list[float]:
        times = []
        for image in images:
            start = time.perf_counter_ns()
            worker.answer(image, threshold)
            times.append((time.perf_counter_ns() - start) / 1e6)
        return times

    with ThreadPoolExecutor(len(workers)) as pool:
        start = time.perf_counter()
        times = np.concatenate(list(pool.map(work, workers)))
        seconds = time.perf_counter() - start
    return Figures(float(np.median(times)), float(np.quantile(times, 0.99)), times.size / seconds)
