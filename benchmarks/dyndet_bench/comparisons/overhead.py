"""The overhead of serving: a served answer beside bare ONNX Runtime calls of the same stages, measured alternately."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from dynamicdet.aliases import Progress, silent
from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in, spread
from dynamicdet.records import Count, Positive
from dyndet_bench.comparisons.bare import BareStages
from dyndet_bench.measuring.attempts import Attempts, Missing, check_any
from dyndet_bench.measuring.journal import JournalFolder, Replayed
from dyndet_bench.measuring.machine import Circumstances, circumstances
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.measuring.workload import Workload, read_letterboxed


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A round of one route: medians of its requests."""

    served_ms: Positive
    bare_ms: Positive
    repeats: Count


class RouteOverhead(BaseModel):
    """One route. Times are medians over rounds of each round's median request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(description="rounds that could be measured")
    served_ms: float = Field(description="perf_analyzer's client, gRPC, one request at a time")
    bare_ms: float = Field(description="the same graphs, images and thread counts in one process")
    ratio: float = Field(description="served / bare: median of the rounds' ratios")
    ratio_low: float = Field(description="smallest ratio of a round")
    ratio_high: float = Field(description="largest ratio of a round")


class OverheadRecord(BaseModel):
    """Result of `measure_overhead`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 2
    model: str
    bundle_sha256: str | None = Field(description="bundle of the served model, by its configuration")
    topology: str
    threads: int = Field(description="of each graph; 0: one per core")
    easy: RouteOverhead | None = Field(description="None: it could not be measured")
    hard: RouteOverhead | None
    images: int
    rounds: int
    repeats: int = Field(default=0, description="runs of perf_analyzer that hung or lost requests and were repeated")
    missing: tuple[Missing, ...] = Field(default=(), description="measurements that failed twice, and why")
    replayed: Replayed | None = Field(default=None, description="measurements of earlier runs of the same command")
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
    journals: JournalFolder | None = None,
    progress: Progress = silent,
) -> OverheadRecord:
    """Measure both routes of the detector at `url`, alternating with its stages' ONNX files in bare ONNX Runtime.

    `threads` is the number of threads of each served graph; 0: one per core. The server must run on this machine. Bare
    and served runs alternate and each round gives its own ratio, so other work on the machine disturbs both.

    With `journals`, each measurement is stored, and those of an earlier run are used. A measurement that fails twice is
    in the record's `missing`. Raises ServerError if nothing could be measured; InputError, MissingExtraError.
    """
    if rounds < 1 or max_images < 1:
        raise InputError(f"rounds and max_images must be at least 1, got {rounds} and {max_images}")
    perf_analyzer = find_perf_analyzer()
    with Served(url, model, metrics_url=metrics_url) as served:
        bare = BareStages(graphs, threads=threads)
        chosen = spread(pictures_in(images), max_images)
        letterboxed = read_letterboxed(chosen, served.detector.fit)
        served.warm_up()
        bare.time_ms(letterboxed[:3], hard=True)
        found: dict[str, list[_Pair]] = {"easy": [], "hard": []}
        with Workload(letterboxed) as workload:
            runner = Rounds(served, perf_analyzer, workload)

            def pair(route: str, threshold: float) -> _Pair:
                bare_ms = bare.time_ms(letterboxed, hard=route == "hard")
                (run,) = runner.measure((threshold,))
                again_ms = bare.time_ms(letterboxed, hard=route == "hard")
                both = float(np.median(np.concatenate([bare_ms, again_ms])))
                return _Pair(served_ms=run.percentiles_ms[50], bare_ms=both, repeats=run.repeats)

            identity = {
                "bench": "overhead",
                "server": served.identity(),
                "images": workload.sha256,
                "threads": threads,
                "perf_analyzer": perf_analyzer.version,
            }
            attempts = Attempts(None if journals is None else journals.open(identity, _Pair))
            step = "measure served and bare"
            for number in range(rounds):
                for part, (route, threshold) in enumerate((("easy", ALL_EASY), ("hard", ALL_HARD))):
                    progress(step, 2 * number + part, 2 * rounds)
                    question: JsonValue = {"route": route, "round": number}
                    what = f"{route}, round {number + 1}"
                    entry = attempts.measure(question, functools.partial(pair, route, threshold), what=what)
                    found[route] += [] if entry is None else [entry.measured]
            progress(step, 2 * rounds, 2 * rounds)
        check_any(attempts.missing, sum(map(len, found.values())))
        # A server that died in the middle has no version to tell.
        versions = {} if attempts.server_is_gone else served.versions()
    return OverheadRecord(
        model=model,
        bundle_sha256=served.bundle_sha256,
        topology=served.topology,
        threads=threads,
        easy=_route(found["easy"]),
        hard=_route(found["hard"]),
        images=len(letterboxed),
        rounds=rounds,
        repeats=sum(one.repeats for pairs in found.values() for one in pairs),
        missing=tuple(attempts.missing),
        replayed=attempts.replayed,
        circumstances=circumstances(**versions, perf_analyzer=perf_analyzer.version),
    )


def _route(pairs: Sequence[_Pair]) -> RouteOverhead | None:
    if not pairs:
        return None
    table = np.array([(pair.served_ms, pair.bare_ms) for pair in pairs])  # (rounds, 2)
    ratios = table[:, 0] / table[:, 1]
    return RouteOverhead(
        rounds=len(pairs),
        served_ms=float(np.median(table[:, 0])),
        bare_ms=float(np.median(table[:, 1])),
        ratio=float(np.median(ratios)),
        ratio_low=float(ratios.min()),
        ratio_high=float(ratios.max()),
    )
