"""Serves a detector on this machine's Triton, or asks a running one, and measures what `dyndet verify` reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dynamicdet.aliases import Progress, UInt8Array
from dynamicdet.errors import DyndetError, InputError
from dyndet_bench.comparisons.overhead import OverheadRecord, RouteOverhead, measure_overhead
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer
from dyndet_bench.measuring.rounds import Rounds
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served
from dyndet_bench.measuring.statistic import Statistic
from dyndet_bench.measuring.workload import Workload
from dyndet_builder.bundle.manifest import DETECTION_OUTPUTS, DIFFICULTY, Bundle
from dyndet_builder.bundle.runner import Answer
from dyndet_builder.operating_points import OperatingPoint
from dyndet_builder.repository.backends import BACKENDS, Backend
from dyndet_builder.repository.config import Topology
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.render import render
from dyndet_builder.repository.rendered import Rendered, read_rendered
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.verifying.comparing import Answering, agreement
from dyndet_builder.verifying.record import Check, ServedPoint, ServedRoutes

_CLOSE = {"mean": 0.03, "percentile": 0.08}
"""how far a reached target may be off, as after a calibration"""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is measured, and with what."""

    bundle: Bundle
    reference: Answering
    pictures: Path
    """folder of the images"""
    images: Sequence[UInt8Array]
    """fitted"""
    thresholds: Mapping[str, float]
    """by operating point"""
    graphs: Mapping[str, Path] | None
    """the stages' ONNX files, to be called beside the server; None: a GPU serves them"""
    rounds: int
    progress: Progress


@dataclass(kw_only=True)
class Found:
    """The results."""

    routes: list[ServedRoutes]
    points: list[ServedPoint]
    checks: list[Check]
    skipped: list[str]


def serve_bundle(bundle: Path, asked: Asked, folder: Path, *, gpu: int | None) -> Found:
    """Render a bundle in every topology that this machine's server can run, and measure each on one server."""
    found = Found(routes=[], points=[], checks=[], skipped=[])
    options = RenderOptions(gpus=() if gpu is None else (gpu,), warmup_image=_first_picture(asked.pictures))
    names: dict[str, str] = {}
    for topology in _topologies(BACKENDS[options.backend]):
        names[topology] = f"verify_{topology}"
        try:
            render(bundle, folder / topology, replace(options, name=names[topology], topology=topology))
        except InputError as error:  # not every bundle can be one graph
            del names[topology]
            found.skipped.append(f"{topology}: {error}")
    first, *others = (folder / served for served in names)
    extra = tuple(f"--model-repository={other}" for other in others)
    with TritonServer(first, ServerOptions(extra_arguments=extra)) as server:
        for served, name in names.items():
            rendered = read_rendered(folder / served)
            _measure(server.grpc_url, server.metrics_url, rendered, name, asked, found)
    return found


def serve_repository(repository: Path, rendered: Rendered, asked: Asked) -> Found:
    """Serve a repository as it is, and measure its detector and its operating points."""
    found = Found(routes=[], points=[], checks=[], skipped=[])
    with TritonServer(repository) as server:
        _measure(server.grpc_url, server.metrics_url, rendered, rendered.model, asked, found)
        _measure_points(server.grpc_url, server.metrics_url, rendered, asked, found)
    return found


def ask_server(url: str, metrics_url: str | None, rendered: Rendered, asked: Asked) -> Found:
    """Measure a running server's detector of the same name as that of a repository, and its operating points."""
    found = Found(routes=[], points=[], checks=[], skipped=[])
    _measure(url, metrics_url, rendered, rendered.model, asked, found)
    _measure_points(url, metrics_url, rendered, asked, found)
    return found


class _ServedAnswers:
    """The answers of a served detector, in the form of the stages' own."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def easy(self, images: UInt8Array) -> Answer:
        return self._answer(images, ALL_EASY)

    def hard(self, images: UInt8Array) -> Answer:
        return self._answer(images, ALL_HARD)

    def _answer(self, images: UInt8Array, threshold: float) -> Answer:
        rows = [
            self._served.infer(image, threshold=threshold, outputs=(*DETECTION_OUTPUTS, DIFFICULTY)) for image in images
        ]
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return Answer(
            {DIFFICULTY: arrays[DIFFICULTY].reshape(-1, 1)}, {name: arrays[name] for name in DETECTION_OUTPUTS}
        )


def _measure(url: str, metrics_url: str | None, rendered: Rendered, model: str, asked: Asked, found: Found) -> None:
    """Answers and latencies of both routes of a served detector."""
    with Served(url, model, metrics_url=metrics_url) as served:
        topology = served.topology
        asked.progress(f"ask {topology}", 0, 1)
        same = agreement(asked.reference, _ServedAnswers(served), asked.images, asked.thresholds)
        asked.progress(f"ask {topology}", 1, 1)
    record: OverheadRecord | None = None
    if asked.graphs is None:
        found.skipped.append(f"{topology}: a GPU serves the stages, so bare calls on the CPU say nothing about it")
    try:
        if asked.graphs is not None:
            record = measure_overhead(
                url,
                graphs=asked.graphs,
                threads=rendered.options.threads,
                images=asked.pictures,
                model=model,
                rounds=asked.rounds,
                max_images=len(asked.images),
                metrics_url=metrics_url,
                progress=asked.progress,
            )
            lat1, lat2 = (None if route is None else route.served_ms for route in (record.easy, record.hard))
        else:
            lat1, lat2 = _latencies(url, metrics_url, model, asked)
    except DyndetError as error:
        found.skipped.append(f"{topology}: latencies could not be measured: {error}")
        lat1 = lat2 = None
    found.routes.append(
        ServedRoutes(
            topology=topology,
            easy_ms=lat1,
            hard_ms=lat2,
            easy_over_bare=_ratio(record.easy if record else None),
            hard_over_bare=_ratio(record.hard if record else None),
            agreement=same,
        )
    )


def _ratio(route: RouteOverhead | None) -> float | None:
    return None if route is None else route.ratio


def _latencies(url: str, metrics_url: str | None, model: str, asked: Asked) -> tuple[float, float]:
    """Median requests of both routes, milliseconds."""
    with Served(url, model, metrics_url=metrics_url) as served, Workload(asked.images) as workload:
        rounds = Rounds(served, find_perf_analyzer(), workload)
        runs = [rounds.measure((ALL_EASY, ALL_HARD)) for _ in range(asked.rounds)]
    easy, hard = (float(np.median([run[place].percentiles_ms[50] for run in runs])) for place in (0, 1))
    return easy, hard


def _measure_points(url: str, metrics_url: str | None, rendered: Rendered, asked: Asked, found: Found) -> None:
    """Whether the operating points keep their targets here, at the load that they were calibrated at."""
    evidence = rendered.points.evidence
    points = {name: point for name, point in rendered.points.points.items() if point.goal is not None}
    if not points or evidence is None:
        found.skipped.append("targets: the repository has none yet; `dyndet calibrate` sets them")
        return
    if evidence.request_rate is not None:
        found.skipped.append("targets: they were calibrated at a request rate; `dyndet calibrate` measures them again")
        return
    load = Load(concurrency=evidence.concurrency or 1, batch=evidence.batch)
    with Served(url, rendered.model, metrics_url=metrics_url) as served, Workload(asked.images) as workload:
        rounds = Rounds(served, find_perf_analyzer(), workload, load=load)
        thresholds = [point.threshold for point in points.values()]
        statistics = {name: Statistic(point.statistic or "mean") for name, point in points.items()}
        single = [point.threshold for name, point in points.items() if statistics[name].level is not None]
        runs = [rounds.measure(thresholds, latencies_of=single) for _ in range(asked.rounds)]
    for place, (name, point) in enumerate(points.items()):
        _note_point(name, point, statistics[name].of([run[place] for run in runs]), found)


def _note_point(name: str, point: OperatingPoint, reached: float, found: Found) -> None:
    goal = point.goal or 0.0
    error = reached / goal - 1
    accepted = _CLOSE["mean" if point.statistic in ("mean", "throughput") else "percentile"]
    unit = point.unit or "ms"
    kept = error >= -accepted if unit == "/s" else error <= accepted
    found.points.append(ServedPoint(name=name, goal=goal, unit=unit, reached=reached, error=error))
    found.checks.append(
        Check(
            name=f"target {name}",
            passed=kept,
            sentence=(
                f"The operating point {name} reaches {reached:.4g} {unit} of the target of {goal:.4g} {unit} "
                f"({error:+.1%}; accepted {accepted:.0%})."
            ),
        )
    )


def _topologies(backend: Backend) -> tuple[Topology, ...]:
    """Those that stages on this backend can be served in."""
    return (
        "bls",
        *(("fused",) if backend.fused else ()),
        *(("graph",) if backend.graph is not None else ()),
    )


def _first_picture(folder: Path) -> Path:
    from dynamicdet.pictures import pictures_in

    return pictures_in(folder)[0]
