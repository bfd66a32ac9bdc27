"""The overhead of serving: a served answer beside bare ONNX Runtime calls of the same stages, measured alternately."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in, spread
from dyndet_bench.comparisons.bare import BareStages
from dyndet_bench.measuring.machine import Circumstances, circumstances
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.measuring.workload import Workload, read_letterboxed


class RouteOverhead(BaseModel):
    """One route. Times are medians over rounds of each round's median request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    served_ms: float = Field(description="perf_analyzer's client, gRPC, one request at a time")
    bare_ms: float = Field(description="the same graphs, images and thread counts in one process")
    ratio: float = Field(description="served / bare: median of the rounds' ratios")
    ratio_low: float = Field(description="smallest ratio of a round")
    ratio_high: float = Field(description="largest ratio of a round")


class OverheadRecord(BaseModel):
    """Result of `measure_overhead`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    model: str
    easy: RouteOverhead
    hard: RouteOverhead
    images: int
    rounds: int
    repeats: int = Field(default=0, description="runs of perf_analyzer that hung or lost requests and were repeated")
    circumstances: Circumstances


def measure_overhead(
    url: str,
    *,
    graphs: Mapping[str, Path],
    images: Path,
    threads: int = 0,
    model: str = "dyndet",
    rounds: int = 5,
    max_images: int = 40,
    metrics_url: str | None = None,
    progress: Progress = silent,
) -> OverheadRecord:
    """Measure both routes of the detector at `url`, alternating with its stages' ONNX files in bare ONNX Runtime.

    `threads` is the number of threads of each served graph; 0: one per core. The server must run on this machine. Bare
    and served runs alternate and each round gives its own ratio, so other work on the machine disturbs both. Raises
    ServerError, InputError, MissingExtraError.
    """
    if rounds < 1 or max_images < 1:
        raise InputError(f"rounds and max_images must be at least 1, got {rounds} and {max_images}")
    perf_analyzer = find_perf_analyzer()
    with Served(url, model, metrics_url=metrics_url) as served:
        bare = BareStages(graphs, threads=threads)
        chosen = spread(pictures_in(images), max_images)
        letterboxed = read_letterboxed(chosen, served.detector.input_size)
        served.warm_up()
        bare.time_ms(letterboxed[:3], hard=True)
        times: dict[str, list[tuple[float, float]]] = {"easy": [], "hard": []}
        with Workload(letterboxed) as workload:
            runner = Rounds(served, perf_analyzer, workload)
            for number in range(rounds):
                for part, (route, threshold) in enumerate((("easy", ALL_EASY), ("hard", ALL_HARD))):
                    progress("measure served and bare", 2 * number + part, 2 * rounds)
                    bare_ms = bare.time_ms(letterboxed, hard=route == "hard")
                    (run,) = runner.measure((threshold,))
                    again_ms = bare.time_ms(letterboxed, hard=route == "hard")
                    both = float(np.median(np.concatenate([bare_ms, again_ms])))
                    times[route].append((run.percentiles_ms[50], both))
            progress("measure served and bare", 2 * rounds, 2 * rounds)
        versions = {**served.versions(), "perf_analyzer": perf_analyzer.version}
    return OverheadRecord(
        model=model,
        easy=_route(times["easy"]),
        hard=_route(times["hard"]),
        images=len(letterboxed),
        rounds=rounds,
        repeats=runner.repeats,
        circumstances=circumstances(**versions),
    )


def _route(times: list[tuple[float, float]]) -> RouteOverhead:
    table = np.array(times)  # (rounds, 2): served, bare
    ratios = table[:, 0] / table[:, 1]
    return RouteOverhead(
        served_ms=float(np.median(table[:, 0])),
        bare_ms=float(np.median(table[:, 1])),
        ratio=float(np.median(ratios)),
        ratio_low=float(ratios.min()),
        ratio_high=float(ratios.max()),
    )
