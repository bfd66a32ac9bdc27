"""Does routing between two detectors pay? Runs them on pictures, and measures before anything is deployed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dynamicdet.aliases import Progress, silent
from dynamicdet.cores import usable_cores
from dynamicdet.text import printable
from dyndet_bench.measuring.machine import circumstances
from dyndet_bench.report.text import percent
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.loading import Common, Described, common_classes, describe
from dyndet_builder.pairing.measuring import Found, frontier_of, promises_of, resizing_of, router_cost, stream_of
from dyndet_builder.pairing.payoff.frontier import LEVEL, RESAMPLES, Frontier, Pair
from dyndet_builder.pairing.payoff.promises import Promise, check_latency_target
from dyndet_builder.pairing.payoff.stream import ASSUMPTION, Stream
from dyndet_builder.pairing.payoff.verdict import FEW_PICTURES, judge
from dyndet_builder.pairing.preparing import RESIZED, PairOptions, check_found, latencies_of, pictures_of
from dyndet_builder.pairing.report.border import border_pictures
from dyndet_builder.pairing.report.record import DetectorFacts, PairReport, RouterFacts, ScoreFacts
from dyndet_builder.pairing.running import Running, answers_of_all
from dyndet_builder.pairing.timing import Latency


def pair(small: Path, large: Path, options: PairOptions | None = None, *, progress: Progress = silent) -> PairReport:
    """Measure what a cascade of two ONNX detectors would give, beside each detector alone.

    Raises InputError for bad input: files that are no detectors, classes that do not fit together, pictures that cannot
    be read, a detector that finds nothing at all, and detectors that are given in the wrong order.
    """
    options = options or PairOptions()
    for target in options.latency_targets:
        check_latency_target(target)
    clock = _Clock()
    with clock("load"):
        detectors = describe(small, large, options.also, specs=options.specs)
        common = common_classes(detectors, options.classes)
        labels, pictures, source = pictures_of(options, common, progress)
        ready = _ready(detectors, common)
    with clock("time"):
        latencies = latencies_of(detectors, ready, pictures, options, progress)
    with clock("run"):
        answers = answers_of_all(ready, pictures, cache=options.cache, progress=progress)
    check_found(detectors, answers, len(pictures))
    with clock("route"):
        found = Found.of(detectors, answers, labels, pictures, common, seed=options.seed)
        stream = stream_of(found, ready[0], options, progress)
        cost = router_cost(detectors[0], common.numbers[0], found, pictures)
    times = [latencies[one.name] for one in detectors]
    weights = None if stream is None else stream[0]
    with clock("measure"):
        small_ms = times[0].mean_ms * (1 + (cost if options.latencies is None else 0.0))
        measured = Pair(found.mixes, small_ms=small_ms, large_ms=times[1].mean_ms, stream=weights, seed=options.seed)
        router, frontier = frontier_of(measured, found, detectors, times, stream, progress)
        promises = promises_of(measured, router, times, options, measure=found.truth.measure)
        resizing = None
        if len(ready) > len(detectors):
            resizing = resizing_of(found, answers[-1], router, latencies.get(RESIZED))
    threshold = _border_threshold(promises, frontier)
    shown = {one.name: own for one, own in zip(detectors[:2], answers, strict=False)}
    return PairReport(
        detectors=tuple(map(_facts, detectors, ready, times, answers)),
        measure=found.truth.measure,
        pictures=len(pictures),
        source=source,
        class_names=common.names,
        frontier=frontier,
        verdict=judge(frontier, measure=found.truth.measure, pictures=len(pictures)),
        promises=promises,
        router=RouterFacts(kind=found.router.kind, why=found.router.why, pictures=found.router.images, cost=cost),
        scores=ScoreFacts(
            own=found.calibration.own, calibrated=found.calibration.calibrated, used=found.calibration.used
        ),
        resizing=resizing,
        stream=weights,
        timed_here=options.latencies is None,
        warnings=tuple(_warnings(detectors, common, found, weights)),
        assumptions=tuple(_assumptions(found, options)),
        difficulties=router.difficulties,
        border=border_pictures(pictures, router.difficulties, threshold, shown, common.names),
        border_threshold=threshold,
        circumstances=circumstances(),
        seconds=clock.seconds,
    )


@dataclass
class _Clock:
    """How long each step took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - begin


def _ready(detectors: Sequence[Described], common: Common) -> list[Running]:
    """Each detector by its own rule, and the small one by the large one's where these differ."""
    ready = [one.running(numbers) for one, numbers in zip(detectors, common.numbers, strict=True)]
    if ready[0].fit != ready[1].fit:
        ready.append(detectors[0].running(common.numbers[0], fit=ready[1].fit))
    return ready


def _facts(one: Described, running: Running, latency: Latency, answers: Answers) -> DetectorFacts:
    return DetectorFacts(
        role=one.role,
        name=one.name,
        file=printable(one.file),
        graph_sha256=running.runner.sha256,
        input=str(one.fit),
        latency=latency,
        objects=sum(map(len, answers.scores)) / len(answers),
        licence=None if one.spec.licence is None else printable(one.spec.licence),
    )


def _border_threshold(promises: Sequence[Promise], frontier: Frontier) -> float:
    """The threshold of the first target, or the one that sends half of the pictures on."""
    points = [one.point for one in promises if one.met and one.point is not None]
    point = points[0] if points else frontier.router.points[len(frontier.router.points) // 2]
    return 0.5 if point.threshold is None else point.threshold


def _warnings(detectors: Sequence[Described], common: Common, found: Found, stream: Stream | None) -> Iterator[str]:
    pictures = len(found.truth)
    if pictures < FEW_PICTURES:
        yield f"{pictures} pictures are too few to tell anything; give at least {FEW_PICTURES}, better 500"
    if not found.truth.by_labels:
        yield (
            "without labels the large detector stands for the truth, so every accuracy is agreement with it, not AP: "
            "where it errs, the numbers err; label 100 to 300 pictures and give them with --data"
        )
    for one, names in zip(detectors, common.left_out, strict=True):
        if names:
            yield f"{len(names)} classes of {one.name} are left out, among them {printable(names[0], limit=60)}"
    if found.truth.left_out:
        names = found.truth.left_out
        yield (
            f"{len(names)} classes of the labels are left out, among them {printable(names[0], limit=60)}, because the "
            "detectors do not have them in common"
        )
    if stream is not None:
        yield from stream.warnings()


def _assumptions(found: Found, options: PairOptions) -> Iterator[str]:
    yield (
        "A cascade takes s + h L on average: the small detector with the router for every picture, the large one for "
        "the share h. Requests do not wait for each other, and passing a picture on costs nothing."
    )
    if options.latencies is None:
        yield (
            "The latencies are those of ONNX Runtime on the CPU of this machine, one picture at a time, with ONNX "
            f"Runtime's own choice of threads on {usable_cores()} cores; the detectors took turns. "
            "Elsewhere they differ: --latency takes those of another machine, `dyndet calibrate` measures the server."
        )
    else:
        yield (
            "The latencies were given with --latency. They are means, so a percentile is that of two fixed latencies, "
            "and the router's time is not in them."
        )
    yield (
        f"The intervals hold {percent(LEVEL)} of {RESAMPLES} draws of as many pictures with replacement. They leave "
        "out that other pictures would have given another router. The difficulty of a picture comes from a router that "
        "was trained without it."
    )
    yield (
        "Neither detector was trained on these pictures. Detectors are better on their training pictures, "
        "which misleads a router."
    )
    if options.stream is not None:
        yield ASSUMPTION
    if not found.truth.by_labels:
        yield "Objects that the large detector is sure of stand for labels; a detector that finds more is marked down."
