"""Ways to serve the same detector, side by side: bare ONNX Runtime, both topologies, baselines, PyTorch.

All servers run at once, and every round measures every cell, every other one backwards, so that ratios compare what was
measured within seconds of each other.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from dynamicdet.errors import InputError
from dyndet_bench.bare import BareStages
from dyndet_bench.baselines import DETECTOR1, STATIC, TEXTBOOK
from dyndet_bench.load import Load
from dyndet_bench.perf_analyzer import PerfAnalyzer, find_perf_analyzer
from dyndet_bench.perf_run import perf_run
from dyndet_bench.records import Circumstances, circumstances
from dyndet_bench.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.workload import Workload, image_files, read_letterboxed

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]
Eager = Callable[[UInt8Array, float], object]
"""Answers one letterboxed image (S, S, 3) at a threshold."""

Mix = Literal["easy", "hard", "mixed"]
MIXES: tuple[Mix, ...] = get_args(Mix)

FLOOR, POOLED, PYTORCH = "ONNX Runtime, bare", "ONNX Runtime, one pool", "PyTorch eager"
SHARED_MEMORY = "shared memory"
_OUTPUT_BYTES = 1 << 16
"""room for one output in shared memory"""


class ServingCell(BaseModel):
    """One way to serve, one mix of routes, one concurrency. Figures are medians over rounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    mix: Mix
    concurrency: int
    p50_ms: float = Field(description="median request of a round")
    p99_ms: float
    throughput_per_s: float = Field(description="images")
    ratio: float = Field(description="to the floor of the same round: p50 at concurrency 1, else throughput")
    ratio_low: float = Field(description="smallest ratio of a round")
    ratio_high: float = Field(description="largest ratio of a round")


class ServingRecord(BaseModel):
    """Result of `measure_serving`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    cells: tuple[ServingCell, ...]
    hard_share: float = Field(description="of the mix `mixed`")
    threshold: float = Field(description="that sends this share to detector 2")
    images: int
    rounds: int
    concurrency: int
    circumstances: Circumstances

    def cell(self, system: str, mix: Mix, concurrency: int) -> ServingCell | None:
        """The cell, if this way of serving has it."""
        for cell in self.cells:
            if (cell.system, cell.mix, cell.concurrency) == (system, mix, concurrency):
                return cell
        return None

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of the ways to serve, in the order of measuring."""
        return tuple(dict.fromkeys(cell.system for cell in self.cells))


@dataclass(frozen=True)
class _Figures:
    p50_ms: float
    p99_ms: float
    throughput_per_s: float


@dataclass(frozen=True)
class _System:
    """A way to serve. `measure` is told the mix's threshold and the concurrency."""

    name: str
    mixes: tuple[Mix, ...]
    measure: Callable[[float, int], _Figures]
    concurrent: bool = True


def measure_serving(
    url: str,
    *,
    repository: Path,
    images: Path,
    detectors: Mapping[str, str],
    baselines: str | None = None,
    eager: Eager | None = None,
    hard_share: float = 0.3,
    concurrency: int = 8,
    rounds: int = 5,
    max_images: int = 40,
    cores: int = 1,
    progress: Progress | None = None,
) -> ServingRecord:
    """Measure detectors (label to model) and the baselines of the name `baselines`, all served at `url`.

    `repository` holds the first detector, of topology `bls`; its graphs give the floor, a loop over bare calls of ONNX
    Runtime as it comes, and above concurrency 1 the faster of that and one loop per core of `cores` with a thread each.
    A second loop, whose graphs share one pool of threads, shows what is left. Meant for a server on this machine.

    Raises ServerError, InputError, MissingExtraError.
    """
    if rounds < 1 or max_images < 1 or concurrency < 2 or not 0 < hard_share < 1:
        raise InputError(
            "rounds and max_images must be at least 1, concurrency at least 2, and the hard share between 0 and 1, got "
            f"{rounds}, {max_images}, {concurrency} and {hard_share}"
        )
    tell = progress or (lambda _step, _done, _of: None)
    perf_analyzer = find_perf_analyzer()
    first = next(iter(detectors.values()))
    with Served(url, first) as served:
        files = image_files(images)
        chosen = files[:: max(1, len(files) // max_images)][:max_images]
        letterboxed = read_letterboxed(chosen, served.detector.input_size)
        served.warm_up()
        threshold = float(np.quantile(served.difficulties(letterboxed), 1 - hard_share, method="inverted_cdf"))
        thresholds: dict[Mix, float] = {"easy": ALL_EASY, "hard": ALL_HARD, "mixed": threshold}
        with (
            ExitStack() as stack,
            Workload(letterboxed) as workload,
            Workload(letterboxed, dtype=np.float32) as floats,
        ):
            harness = _Harness(perf_analyzer, served.address, letterboxed)
            pool = stack.enter_context(_own_process(repository, first, letterboxed))
            pooled = _System(
                POOLED, MIXES, lambda value, _: pool.submit(_pooled_loop, value).result(), concurrent=False
            )
            systems = [_floor(repository, first, letterboxed, cores), pooled]
            for label, name in detectors.items():
                systems.append(harness.system(label, name, workload))
                if label == "fused":
                    systems.append(harness.system(f"{label}, {SHARED_MEMORY}", name, workload, shared_memory=True))
            if baselines is not None:
                systems.append(harness.system(TEXTBOOK, f"{baselines}_{TEXTBOOK}", floats))
                for kind, mix in ((STATIC, "hard"), (DETECTOR1, "easy")):
                    systems.append(
                        harness.system(kind, f"{baselines}_{kind}", workload, mixes=(mix,), threshold=False)  # type: ignore[arg-type]
                    )
            if eager is not None:
                systems.append(_System(PYTORCH, MIXES, _loop(eager, letterboxed), concurrent=False))
            found = _rounds(systems, thresholds, (1, concurrency), rounds, tell)
        versions = {**served.versions(), "perf_analyzer": perf_analyzer.version}
    return ServingRecord(
        cells=tuple(_cell(key, figures, found) for key, figures in found.items()),
        hard_share=hard_share,
        threshold=threshold,
        images=len(letterboxed),
        rounds=rounds,
        concurrency=concurrency,
        circumstances=circumstances(**versions),
    )


_Key = tuple[str, Mix, int]


def _rounds(
    systems: Sequence[_System], thresholds: dict[Mix, float], loads: Sequence[int], rounds: int, tell: Progress
) -> dict[_Key, list[_Figures]]:
    """Figures of each cell, one per round, after one round that is not counted."""
    keys = [
        (system, mix, load)
        for load in loads
        for mix in MIXES
        for system in systems
        if mix in system.mixes and (load == 1 or system.concurrent)
    ]
    found: dict[_Key, list[_Figures]] = {(system.name, mix, load): [] for system, mix, load in keys}
    for system, mix, load in keys:
        if load == 1:
            system.measure(thresholds[mix], load)
    done = 0
    for number in range(rounds):
        for system, mix, load in keys[:: -1 if number % 2 else 1]:
            tell("serve in every way, in turn", done, rounds * len(keys))
            found[system.name, mix, load].append(system.measure(thresholds[mix], load))
            done += 1
    tell("serve in every way, in turn", done, rounds * len(keys))
    return found


def _cell(key: _Key, figures: Sequence[_Figures], found: dict[_Key, list[_Figures]]) -> ServingCell:
    system, mix, load = key
    ratios = [
        one.p50_ms / floor.p50_ms if load == 1 else one.throughput_per_s / floor.throughput_per_s
        for one, floor in zip(figures, found[FLOOR, mix, load], strict=True)
    ]
    return ServingCell(
        system=system,
        mix=mix,
        concurrency=load,
        p50_ms=float(np.median([one.p50_ms for one in figures])),
        p99_ms=float(np.median([one.p99_ms for one in figures])),
        throughput_per_s=float(np.median([one.throughput_per_s for one in figures])),
        ratio=float(np.median(ratios)),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
    )


@dataclass(frozen=True)
class _Harness:
    """Measures served models with perf_analyzer."""

    perf_analyzer: PerfAnalyzer
    address: str
    images: Sequence[UInt8Array]

    def system(
        self,
        name: str,
        model: str,
        workload: Workload,
        *,
        mixes: tuple[Mix, ...] = MIXES,
        threshold: bool = True,
        shared_memory: bool = False,
    ) -> _System:
        """A served model; `threshold` says whether it takes one."""

        def measure(value: float, concurrency: int) -> _Figures:
            run = perf_run(
                self.perf_analyzer,
                address=self.address,
                model=model,
                input_data=workload.input_data(value if threshold else None),
                folder=workload.folder,
                load=Load(concurrency=concurrency),
                requests=len(self.images) * (1 if concurrency == 1 else 3),
                shared_memory_bytes=_OUTPUT_BYTES if shared_memory else None,
            )
            return _Figures(run.percentiles_ms[50], run.percentiles_ms[99], run.throughput_per_s)

        return _System(name, mixes, measure)


_pooled: Callable[[float, int], _Figures] | None = None
"""in the process of `_own_process`: the loop whose graphs share a pool of threads"""


def _own_process(repository: Path, model: str, images: Sequence[UInt8Array]) -> ProcessPoolExecutor:
    """A process for the loop with one pool: ONNX Runtime sizes that before a process loads its first graph."""
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_prepare_pooled, initargs=(repository, model, images)
    )


def _prepare_pooled(repository: Path, model: str, images: Sequence[UInt8Array]) -> None:
    global _pooled
    _pooled = _loop(BareStages(repository, model, shared_pool=True).answer, images)


def _pooled_loop(threshold: float) -> _Figures:
    assert _pooled is not None
    return _pooled(threshold, 1)


def _floor(repository: Path, model: str, images: Sequence[UInt8Array], cores: int) -> _System:
    loop = _loop(BareStages(repository, model).answer, images)
    single = [BareStages(repository, model, threads=1) for _ in range(cores)]

    def measure(threshold: float, concurrency: int) -> _Figures:
        alone = loop(threshold, 1)
        if concurrency == 1:
            return alone
        together = _side_by_side(single, images, threshold)
        return max(alone, together, key=lambda figures: figures.throughput_per_s)

    return _System(FLOOR, MIXES, measure)


def _loop(answer: Eager, images: Sequence[UInt8Array]) -> Callable[[float, int], _Figures]:
    def measure(threshold: float, concurrency: int) -> _Figures:
        del concurrency  # one after another
        answer(images[0], threshold)
        times = np.empty(len(images))
        for row, image in enumerate(images):
            start = time.perf_counter_ns()
            answer(image, threshold)
            times[row] = (time.perf_counter_ns() - start) / 1e6
        return _Figures(float(np.median(times)), float(np.quantile(times, 0.99)), 1e3 / float(times.mean()))

    return measure


def _side_by_side(workers: Sequence[BareStages], images: Sequence[UInt8Array], threshold: float) -> _Figures:
    """One loop per worker, all at once, each over all images; ONNX Runtime lets go of Python's lock."""

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
    return _Figures(float(np.median(times)), float(np.quantile(times, 0.99)), times.size / seconds)
