"""Compares ways to serve the same detector: bare ONNX Runtime, both topologies, baselines, PyTorch.

All servers run at the same time. Every round measures every cell, every second round in reverse order, so the values in
a ratio were measured within seconds of each other. Each measurement is stored at once. A comparison that is started
again measures what is missing, with the floor beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in, spread
from dyndet_bench.comparisons.bare import BareFile
from dyndet_bench.comparisons.baselines import DETECTOR1, STATIC, TEXTBOOK
from dyndet_bench.comparisons.systems import (
    FLOOR,
    MIXES,
    POOLED,
    SINGLE,
    Eager,
    Figures,
    Harness,
    Mix,
    System,
    floor,
    local,
    loop,
    own_process,
    pooled_loop,
)
from dyndet_bench.measuring.attempts import Attempts, Missing, check_any
from dyndet_bench.measuring.journal import Entry, JournalFolder, Replayed
from dyndet_bench.measuring.machine import Circumstances, circumstances
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.measuring.workload import Workload, read_letterboxed

__all__ = ["FLOOR", "MIXES", "Eager", "Mix", "Progress", "ServingCell", "ServingRecord", "measure_serving"]


PYTORCH = "PyTorch eager"
SHARED_MEMORY = "shared memory"


class ServingCell(BaseModel):
    """One way to serve, one mix of routes, one concurrency. The values are medians over rounds; None: not measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    mix: Mix
    concurrency: int
    rounds: int = Field(description="rounds that could be measured")
    p50_ms: float | None = Field(default=None, description="median request of a round")
    p99_ms: float | None = None
    throughput_per_s: float | None = Field(default=None, description="images per second")
    ratio: float | None = Field(
        default=None, description="to the floor of the same round: of p50 at concurrency 1, otherwise of throughput"
    )
    ratio_low: float | None = Field(default=None, description="smallest ratio of a round")
    ratio_high: float | None = Field(default=None, description="largest ratio of a round")
    pool_ratio: float | None = Field(
        default=None, description="of p50 to the loop with one pool of threads, in the same round; at concurrency 1"
    )


class ServingRecord(BaseModel):
    """Result of `measure_serving`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 3
    bundle_sha256: str | None = Field(description="bundle of the served models, by their configuration")
    cells: tuple[ServingCell, ...]
    hard_share: float = Field(description="in the mix `mixed`")
    threshold: float = Field(description="the threshold that gives this hard share")
    images: int
    rounds: int
    concurrency: int
    repeats: int = Field(default=0, description="runs of perf_analyzer that hung or lost requests and were repeated")
    missing: tuple[Missing, ...] = Field(default=(), description="measurements that failed twice, and why")
    replayed: Replayed | None = Field(default=None, description="measurements of earlier runs of the same command")
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
    single_file: Path | None = None,
    images: Path,
    detectors: Mapping[str, str],
    baselines: str | None = None,
    eager: Eager | None = None,
    hard_share: float = 0.3,
    concurrency: int = 8,
    rounds: int = 5,
    max_images: int = 40,
    cores: int = 1,
    journals: JournalFolder | None = None,
    progress: Progress = silent,
) -> ServingRecord:
    """Measure detectors (label to model) and the baselines with the name `baselines`, all served at `url`.

    `graphs`, the stages' ONNX files, give the floor: a loop over bare calls of ONNX Runtime with its defaults. Above
    concurrency 1, the floor is the faster of this loop and one loop per core of `cores`, each with one thread. In a
    second loop, the graphs share one pool of threads, which shows what more is possible. `single_file`, the same graphs
    as one that routes itself, is a third. The server must run on this machine.

    With `journals`, each measurement is stored, and those of an earlier run are used. A measurement that fails twice is
    in the record's `missing`. Raises ServerError if nothing could be measured; InputError, MissingExtraError.
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
        letterboxed = read_letterboxed(chosen, served.detector.fit)
        served.warm_up()
        threshold = float(np.quantile(served.difficulties(letterboxed), 1 - hard_share, method="inverted_cdf"))
        thresholds: dict[Mix, float] = {"easy": ALL_EASY, "hard": ALL_HARD, "mixed": threshold}
        with (
            ExitStack() as stack,
            Workload(letterboxed) as workload,
            Workload(letterboxed, dtype=np.float32) as floats,
        ):
            harness = Harness(perf_analyzer, served.address, letterboxed, served.counts)
            pool = stack.enter_context(own_process(graphs, letterboxed))
            pooled = local(POOLED, lambda value, _: pool.submit(pooled_loop, value).result())
            systems = [floor(graphs, letterboxed, cores), pooled]
            if single_file is not None:
                systems.append(local(SINGLE, loop(BareFile(single_file).answer, letterboxed)))
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
                systems.append(local(PYTORCH, loop(eager, letterboxed)))
            identity = {
                "bench": "serving",
                "server": served.identity(),
                "detectors": dict(detectors),
                "images": workload.sha256,
                "hard_share": hard_share,
                "cores": cores,
                "perf_analyzer": perf_analyzer.version,
            }
            journal = None if journals is None else journals.open(identity, Figures)
            attempts = Attempts(journal)
            loads = (1, concurrency)
            found = _Comparison(systems, thresholds, attempts).measure(loads, rounds, progress)
        check_any(attempts.missing, sum(map(len, found.values())))
        # A server that died in the middle has no version to tell.
        versions = {} if attempts.server_is_gone else served.versions()
    return ServingRecord(
        bundle_sha256=served.bundle_sha256,
        cells=tuple(_cell(key, figures, found) for key, figures in found.items()),
        hard_share=hard_share,
        threshold=threshold,
        images=len(letterboxed),
        rounds=rounds,
        concurrency=concurrency,
        repeats=sum(one.measured.repeats for figures in found.values() for _, one in figures),
        missing=tuple(attempts.missing),
        replayed=attempts.replayed,
        circumstances=circumstances(**versions, perf_analyzer=perf_analyzer.version),
    )


_Key = tuple[str, Mix, int]
"""name of the way to serve, mix, concurrency"""
_Found = tuple[int, Entry[Figures]]
"""a round and its measurement"""


class _Comparison:
    """The measurements of all cells in rounds."""

    def __init__(self, systems: Sequence[System], thresholds: Mapping[Mix, float], attempts: Attempts[Figures]) -> None:
        self._systems = {system.name: system for system in systems}
        self._thresholds = thresholds
        self._attempts = attempts
        self._warm: set[tuple[str, Mix]] = set()

    def measure(self, loads: Sequence[int], rounds: int, progress: Progress) -> dict[_Key, list[_Found]]:
        """The measurements of each cell by round; the floor can have several in a round that was interrupted."""
        keys: list[_Key] = [
            (system.name, mix, load)
            for load in loads
            for mix in MIXES
            for system in self._systems.values()
            if mix in system.mixes and (load == 1 or system.concurrent)
        ]
        found: dict[_Key, list[_Found]] = {key: [] for key in keys}
        step, total = "measure every way to serve", rounds * len(keys)
        for number in range(rounds):
            order = keys[:: -1 if number % 2 else 1]
            known = {key: self._attempts.recorded(self._question(key, number)) for key in order}
            for place, key in enumerate(order):
                progress(step, number * len(keys) + place, total)
                if not known[key]:
                    self._beside_the_floor(key, number, known)
            for key in order:
                found[key] += [(number, entry) for entry in known[key]]
        progress(step, total, total)
        return found

    def _beside_the_floor(self, key: _Key, number: int, known: dict[_Key, list[Entry[Figures]]]) -> None:
        """Measure a cell. If an earlier run measured the floor of this round, measure the floor again, too."""
        _, mix, load = key
        floor_key: _Key = (FLOOR, mix, load)
        if key != floor_key and known[floor_key] and all(entry.replayed for entry in known[floor_key]):
            known[floor_key] += self._measured(floor_key, number)
        known[key] += self._measured(key, number)

    def _measured(self, key: _Key, number: int) -> list[Entry[Figures]]:
        """A new measurement; empty if it failed."""
        name, mix, load = key
        system, threshold = self._systems[name], self._thresholds[mix]

        def measure() -> Figures:
            if (name, mix) not in self._warm:  # the first run of a way is slower
                system.measure(threshold, 1)
                self._warm.add((name, mix))
            return system.measure(threshold, load)

        what = f"{name}, {mix}, concurrency {load}, round {number + 1}"
        entry = self._attempts.measure_now(self._question(key, number), measure, what=what)
        return [] if entry is None else [entry]

    def _question(self, key: _Key, number: int) -> JsonValue:
        name, mix, load = key
        return {"way": name, "mix": mix, "concurrency": load, "round": number}


def _cell(key: _Key, figures: Sequence[_Found], found: Mapping[_Key, Sequence[_Found]]) -> ServingCell:
    system, mix, load = key
    cell = ServingCell(system=system, mix=mix, concurrency=load, rounds=len({number for number, _ in figures}))
    if not figures:
        return cell
    runs = [entry.measured for _, entry in figures]
    values = {
        "p50_ms": float(np.median([run.p50_ms for run in runs])),
        "p99_ms": float(np.median([run.p99_ms for run in runs])),
        "throughput_per_s": float(np.median([run.throughput_per_s for run in runs])),
    }
    ratios = [ratio for one in figures if (ratio := _ratio(one, found[FLOOR, mix, load], load)) is not None]
    if ratios:
        values |= {"ratio": float(np.median(ratios)), "ratio_low": min(ratios), "ratio_high": max(ratios)}
    pooled = [ratio for one in figures if (ratio := _ratio(one, found.get((POOLED, mix, load), ()), load)) is not None]
    if pooled:
        values["pool_ratio"] = float(np.median(pooled))
    return cell.model_copy(update=values)


def _ratio(one: _Found, floors: Sequence[_Found], load: int) -> float | None:
    """To the measurement of `floors` of the same round that is nearest in time; None if there is none."""
    number, entry = one
    same_round = [floor for of_round, floor in floors if of_round == number]
    if not same_round:
        return None
    least = min(same_round, key=lambda floor: abs(floor.time - entry.time)).measured
    run = entry.measured
    return run.p50_ms / least.p50_ms if load == 1 else run.throughput_per_s / least.throughput_per_s
