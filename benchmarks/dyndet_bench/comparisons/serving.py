"""Compares ways to serve the same detector: bare ONNX Runtime, both topologies, baselines, PyTorch.

All servers run at the same time. Every round measures every cell, every second round in reverse order, so the values in
a ratio were measured within seconds of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in, spread
from dyndet_bench.comparisons.baselines import DETECTOR1, STATIC, TEXTBOOK
from dyndet_bench.comparisons.systems import (
    FLOOR,
    MIXES,
    POOLED,
    Eager,
    Figures,
    Harness,
    Mix,
    System,
    floor,
    loop,
    own_process,
    pooled_loop,
)
from dyndet_bench.measuring.machine import Circumstances, circumstances
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.measuring.workload import Workload, read_letterboxed

__all__ = ["FLOOR", "MIXES", "Eager", "Mix", "Progress", "ServingCell", "ServingRecord", "measure_serving"]


PYTORCH = "PyTorch eager"
SHARED_MEMORY = "shared memory"


class ServingCell(BaseModel):
    """One way to serve, one mix of routes, one concurrency. The values are medians over rounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    mix: Mix
    concurrency: int
    p50_ms: float = Field(description="median request of a round")
    p99_ms: float
    throughput_per_s: float = Field(description="images per second")
    ratio: float = Field(description="to the floor of the same round: of p50 at concurrency 1, otherwise of throughput")
    ratio_low: float = Field(description="smallest ratio of a round")
    ratio_high: float = Field(description="largest ratio of a round")


class ServingRecord(BaseModel):
    """Result of `measure_serving`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    cells: tuple[ServingCell, ...]
    hard_share: float = Field(description="in the mix `mixed`")
    threshold: float = Field(description="the threshold that gives this hard share")
    images: int
    rounds: int
    concurrency: int
    repeats: int = Field(default=0, description="runs of perf_analyzer that hung or lost requests and were repeated")
    circumstances: Circumstances

    def cell(self, system: str, mix: Mix, concurrency: int) -> ServingCell | None:
        """The cell; None if this way to serve does not have it."""
        for cell in self.cells:
            if (cell.system, cell.mix, cell.concurrency) == (system, mix, concurrency):
                return cell
        return None

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of the ways to serve, in the order of measurement."""
        return tuple(dict.fromkeys(cell.system for cell in self.cells))


def measure_serving(
    url: str,
    *,
    graphs: Mapping[str, Path],
    images: Path,
    detectors: Mapping[str, str],
    baselines: str | None = None,
    eager: Eager | None = None,
    hard_share: float = 0.3,
    concurrency: int = 8,
    rounds: int = 5,
    max_images: int = 40,
    cores: int = 1,
    progress: Progress = silent,
) -> ServingRecord:
    """Measure detectors (label to model) and the baselines with the name `baselines`, all served at `url`.

    `graphs`, the stages' ONNX files, give the floor: a loop over bare calls of ONNX Runtime with its defaults. Above
    concurrency 1, the floor is the faster of this loop and one loop per core of `cores`, each with one thread. In a
    second loop, the graphs share one pool of threads, which shows what more is possible. The server must run on this
    machine.

    Raises ServerError, InputError, MissingExtraError.
    """
    if rounds < 1 or max_images < 1 or concurrency < 2 or not 0 < hard_share < 1:
        raise InputError(
            "rounds and max_images must be at least 1, concurrency at least 2, and the hard share between 0 and 1, got "
            f"{rounds}, {max_images}, {concurrency} and {hard_share}"
        )
    perf_analyzer = find_perf_analyzer()
    first = next(iter(detectors.values()))
    with Served(url, first) as served:
        chosen = spread(pictures_in(images), max_images)
        letterboxed = read_letterboxed(chosen, served.detector.input_size)
        served.warm_up()
        threshold = float(np.quantile(served.difficulties(letterboxed), 1 - hard_share, method="inverted_cdf"))
        thresholds: dict[Mix, float] = {"easy": ALL_EASY, "hard": ALL_HARD, "mixed": threshold}
        with (
            ExitStack() as stack,
            Workload(letterboxed) as workload,
            Workload(letterboxed, dtype=np.float32) as floats,
        ):
            harness = Harness(perf_analyzer, served.address, letterboxed)
            pool = stack.enter_context(own_process(graphs, letterboxed))
            pooled = System(POOLED, MIXES, lambda value, _: pool.submit(pooled_loop, value).result(), concurrent=False)
            systems = [floor(graphs, letterboxed, cores), pooled]
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
                systems.append(System(PYTORCH, MIXES, loop(eager, letterboxed), concurrent=False))
            found = _rounds(systems, thresholds, (1, concurrency), rounds, progress)
        versions = {**served.versions(), "perf_analyzer": perf_analyzer.version}
    return ServingRecord(
        cells=tuple(_cell(key, figures, found) for key, figures in found.items()),
        hard_share=hard_share,
        threshold=threshold,
        images=len(letterboxed),
        rounds=rounds,
        concurrency=concurrency,
        repeats=sum(one.repeats for figures in found.values() for one in figures),
        circumstances=circumstances(**versions),
    )


_Key = tuple[str, Mix, int]


def _rounds(
    systems: Sequence[System], thresholds: dict[Mix, float], loads: Sequence[int], rounds: int, progress: Progress
) -> dict[_Key, list[Figures]]:
    """The values of each cell, one per round, after one round that is not counted."""
    keys = [
        (system, mix, load)
        for load in loads
        for mix in MIXES
        for system in systems
        if mix in system.mixes and (load == 1 or system.concurrent)
    ]
    found: dict[_Key, list[Figures]] = {(system.name, mix, load): [] for system, mix, load in keys}
    for system, mix, load in keys:
        if load == 1:
            system.measure(thresholds[mix], load)
    done = 0
    for number in range(rounds):
        for system, mix, load in keys[:: -1 if number % 2 else 1]:
            progress("measure every way to serve", done, rounds * len(keys))
            found[system.name, mix, load].append(system.measure(thresholds[mix], load))
            done += 1
    progress("measure every way to serve", done, rounds * len(keys))
    return found


def _cell(key: _Key, figures: Sequence[Figures], found: dict[_Key, list[Figures]]) -> ServingCell:
    system, mix, load = key
    ratios = [
        one.p50_ms / least.p50_ms if load == 1 else one.throughput_per_s / least.throughput_per_s
        for one, least in zip(figures, found[FLOOR, mix, load], strict=True)
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
