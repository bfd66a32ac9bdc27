"""Chooses topology, instances and threads of a repository for a load, by serving what can be chosen and measuring."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dynamicdet.aliases import Progress, silent
from dynamicdet.cores import usable_cores
from dynamicdet.errors import InputError
from dynamicdet.files import scratch_folder
from dynamicdet.pictures import pictures_in, spread
from dyndet_bench.measuring.attempts import try_twice
from dyndet_bench.measuring.journal import JournalFolder, Replayed
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.measuring.workload import Workload, read_letterboxed
from dyndet_builder.defaults import TOPOLOGY_ROUNDS
from dyndet_builder.engines.record import gpus_here
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.config import MEASURED_TOPOLOGIES, Topology
from dyndet_builder.repository.fingerprint import repository_sha256
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.render import render
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer

_IMAGES = 32
_LEAST_ARRIVALS, _MOST_ARRIVALS = 8, 512
"""of a run at a request rate, which otherwise lasts one second; the queue of every instance holds more"""


@dataclass(frozen=True, kw_only=True)
class RouteMeans:
    """Mean latency of a request on either route, milliseconds: medians over rounds."""

    easy_ms: float
    hard_ms: float


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One of the ways to serve that were compared, and its mean latencies."""

    topology: Topology
    instances: int
    threads: int
    """of one instance; 0: all cores"""
    means: RouteMeans

    @property
    def sum_ms(self) -> float:
        """What decides: the latencies of both routes."""
        return self.means.easy_ms + self.means.hard_ms


@dataclass(frozen=True, kw_only=True)
class TopologyChoice:
    """The topology that was faster, with its instances and threads, and all measurements."""

    topology: Topology
    instances: int = 1
    threads: int = 0
    measured: Mapping[Topology, RouteMeans]
    """of each topology with its best instances and threads"""
    compared: tuple[Compared, ...] = ()
    """everything that was served, the best first"""
    load: str
    rounds: int
    repeats: int = 0
    """tries of perf_analyzer that hung or lost requests, and were made again"""
    replayed: Replayed | None = None
    """rounds of earlier runs of the same command"""

    def applied(self, options: RenderOptions) -> RenderOptions:
        """Options with what was chosen."""
        return replace(options, topology=self.topology, instances=self.instances, threads=self.threads)


def choose_topology(
    bundle: Path,
    images: Path,
    options: RenderOptions,
    *,
    load: Load | None = None,
    topologies: Sequence[Topology] = MEASURED_TOPOLOGIES,
    divide: bool = False,
    rounds: int = TOPOLOGY_ROUNDS,
    journals: JournalFolder | None = None,
    progress: Progress = silent,
) -> TopologyChoice | None:
    """Serve a bundle in all ways at once on the embedded server, and choose the one with the lowest latency.

    The ways are the topologies and, with `divide` on a CPU, one instance with all cores and one instance per core with
    one thread. It compares the sum of both routes' mean latencies at `load`, measured in turn. At a request rate, a way
    that cannot keep up gets the latency of its queue. Returns None if there is no choice because the stages' backend
    has no fused topology. With `journals`, each round is stored, and those of an earlier run are used. A round that
    fails is tried again once; the choice needs all of them.

    Raises InputError, ServerError, MissingExtraError.
    """
    if not BACKENDS[options.backend].fused:
        return None
    if options.gpus and max(options.gpus) >= (count := len(gpus_here())):
        raise InputError(
            f"the topology auto is measured on this machine, which has no GPU {max(options.gpus)} (nvidia-smi lists "
            f"{count or 'none'}); choose the topology bls or fused, or render on a machine with that GPU"
        )
    load = load or Load()
    perf_analyzer = find_perf_analyzer()
    chosen = spread(pictures_in(images), _IMAGES)
    ways = _ways(options, topologies, divide=divide)
    step = "serve both topologies" if len(ways) == len(topologies) == 2 else f"serve {len(ways)} settings"
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder("topology"))
        progress(step, 0, 1)
        for name, way in ways.items():
            render(bundle, folder / name, replace(way, name=name))
        first, *others = (folder / name for name in ways)
        extra = tuple(f"--model-repository={other}" for other in others)
        server = stack.enter_context(TritonServer(first, ServerOptions(extra_arguments=extra)))
        served = {
            name: stack.enter_context(Served(server.grpc_url, name, metrics_url=server.metrics_url)) for name in ways
        }
        progress(step, 1, 1)
        workload = stack.enter_context(Workload(read_letterboxed(chosen, next(iter(served.values())).detector.fit)))
        if journals is not None:
            rendered = {name: repository_sha256(folder / name) for name in ways}
            journals = journals.about(bench="topology", repositories=rendered)
        requests = _requests(load, len(workload))
        measurers = {
            name: Rounds(connection, perf_analyzer, workload, load=load, requests=requests, journals=journals)
            for name, connection in served.items()
        }
        means: dict[str, list[list[float]]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in list(ways)[:: -1 if number % 2 else 1]:
                progress("compare topologies", number, rounds)
                runs = try_twice(functools.partial(measurers[name].measure, (ALL_EASY, ALL_HARD), number=number + 1))
                means[name].append([run.mean_ms for run in runs])
        progress("compare topologies", rounds, rounds)
    compared = sorted((_compared(ways[name], values) for name, values in means.items()), key=lambda way: way.sum_ms)
    best = compared[0]
    return TopologyChoice(
        topology=best.topology,
        instances=best.instances,
        threads=best.threads,
        measured={name: next(way.means for way in compared if way.topology == name) for name in topologies},
        compared=tuple(compared),
        load=str(load),
        rounds=rounds,
        repeats=sum(measurer.repeats for measurer in measurers.values()),
        replayed=Replayed.together(measurer.replayed for measurer in measurers.values()),
    )


def _ways(options: RenderOptions, topologies: Sequence[Topology], *, divide: bool) -> Mapping[str, RenderOptions]:
    """What is compared, by the name under which it is served."""
    divisions = [(options.instances, options.threads)]
    if divide and not options.gpus and (cores := usable_cores()) > 1:
        divisions = [(1, 0), (cores, 1)]
    return {
        f"{topology}_{instances}x{threads}": replace(options, topology=topology, instances=instances, threads=threads)
        for topology in topologies
        for instances, threads in divisions
    }


def _requests(load: Load, images: int) -> int:
    """Requests of a run: every image once, twice if several are in flight, or those of about a second."""
    if load.request_rate is not None:
        return min(max(math.ceil(load.request_rate), _LEAST_ARRIVALS), _MOST_ARRIVALS)
    return max(load.concurrency, -(-images // load.batch) * (1 if load.concurrency == 1 else 2))


def _compared(way: RenderOptions, means: Sequence[Sequence[float]]) -> Compared:
    easy, hard = np.median(means, axis=0)
    measured = RouteMeans(easy_ms=float(easy), hard_ms=float(hard))
    return Compared(topology=way.topology, instances=way.instances, threads=way.threads, means=measured)
