"""Chooses the topology of a repository by serving both and measuring."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dynamicdet.aliases import Progress, silent
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
from dyndet_builder.bundle.manifest import read_bundle
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


@dataclass(frozen=True, kw_only=True)
class RouteMeans:
    """Mean latency of a request on either route, milliseconds: medians over rounds."""

    easy_ms: float
    hard_ms: float


@dataclass(frozen=True, kw_only=True)
class TopologyChoice:
    """The topology that was faster, and both measurements."""

    topology: Topology
    measured: Mapping[Topology, RouteMeans]
    load: str
    rounds: int
    repeats: int = 0
    """tries of perf_analyzer that hung or lost requests, and were made again"""
    replayed: Replayed | None = None
    """rounds of earlier runs of the same command"""


def choose_topology(
    bundle: Path,
    images: Path,
    options: RenderOptions,
    *,
    load: Load | None = None,
    rounds: int = TOPOLOGY_ROUNDS,
    journals: JournalFolder | None = None,
    progress: Progress = silent,
) -> TopologyChoice | None:
    """Serve a bundle in both topologies at once on the embedded server, and choose the one with the lower latency.

    It compares the sum of both routes' mean latencies at `load`, measured in turn. Returns None if there is no choice
    because the stages' backend has no fused topology. With `journals`, each round is stored, and those of an earlier
    run are used. A round that fails is tried again once; the choice needs all of them.

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
    detector = options.name or read_bundle(bundle).name
    chosen = spread(pictures_in(images), _IMAGES)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder("topology"))
        progress("serve both topologies", 0, 1)
        names = {topology: f"{detector}_{topology}" for topology in MEASURED_TOPOLOGIES}
        for topology, name in names.items():
            render(bundle, folder / topology, replace(options, name=name, topology=topology))
        first, *others = (folder / topology for topology in MEASURED_TOPOLOGIES)
        extra = tuple(f"--model-repository={other}" for other in others)
        server = stack.enter_context(TritonServer(first, ServerOptions(extra_arguments=extra)))
        served = {
            topology: stack.enter_context(Served(server.grpc_url, name, metrics_url=server.metrics_url))
            for topology, name in names.items()
        }
        progress("serve both topologies", 1, 1)
        workload = stack.enter_context(Workload(read_letterboxed(chosen, served["bls"].detector.fit)))
        requests = max(load.concurrency, -(-len(workload) // load.batch))
        closed_loop = replace(load, request_rate=None)
        if journals is not None:
            rendered = {topology: repository_sha256(folder / topology) for topology in MEASURED_TOPOLOGIES}
            journals = journals.about(bench="topology", repositories=rendered)
        measurers = {
            topology: Rounds(
                connection, perf_analyzer, workload, load=closed_loop, requests=requests, journals=journals
            )
            for topology, connection in served.items()
        }
        means: dict[Topology, list[list[float]]] = {topology: [] for topology in MEASURED_TOPOLOGIES}
        for number in range(rounds):
            for topology in MEASURED_TOPOLOGIES[:: -1 if number % 2 else 1]:
                progress("compare topologies", number, rounds)
                runs = try_twice(functools.partial(measurers[topology].measure, (ALL_EASY, ALL_HARD)))
                means[topology].append([run.mean_ms for run in runs])
        progress("compare topologies", rounds, rounds)
    measured = {
        topology: RouteMeans(easy_ms=float(easy), hard_ms=float(hard))
        for topology, (easy, hard) in ((name, np.median(values, axis=0)) for name, values in means.items())
    }
    return TopologyChoice(
        topology=min(measured, key=lambda name: measured[name].easy_ms + measured[name].hard_ms),
        measured=measured,
        load=str(load),
        rounds=rounds,
        repeats=sum(measurer.repeats for measurer in measurers.values()),
        replayed=Replayed.together(measurer.replayed for measurer in measurers.values()),
    )
