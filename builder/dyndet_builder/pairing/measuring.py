"""Everything that is measured on a pair's answers: the router, the mixes, the stream, the targets, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dynamicdet.aliases import FloatArray, Progress
from dynamicdet.evaluation.precision import MixedPrecision
from dynamicdet.images import read_image
from dynamicdet.pictures import pictures_in, spread
from dynamicdet.router.influence import influence_of
from dynamicdet.router.rules import RULES
from dynamicdet.suppression import Detections
from dynamicdet.thresholds import is_hard, threshold_for_easy_share
from dyndet_builder.detectors.runner import DetectorRunner
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.loading import Common, Described
from dyndet_builder.pairing.payoff.frontier import Chooser, Frontier, Pair, choosers_of
from dyndet_builder.pairing.payoff.mixes import Mixes
from dyndet_builder.pairing.payoff.promises import Promise, Samples, accuracy_promise, latency_promise
from dyndet_builder.pairing.payoff.stream import Stream, weigh
from dyndet_builder.pairing.preparing import TIMED_PICTURES, PairOptions
from dyndet_builder.pairing.report.record import ResizingFacts
from dyndet_builder.pairing.router.graph import alone
from dyndet_builder.pairing.router.router import FittedRouter, clips_of, fit_router
from dyndet_builder.pairing.router.scores import Calibration, calibrate_scores, with_table
from dyndet_builder.pairing.running import Running, answers_of
from dyndet_builder.pairing.timing import Latency, time_router
from dyndet_builder.pairing.truth import PairDetections, Truth, detections_of, mixed_precision

_HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class Found:
    """The answers with calibrated scores, the router, and everything that is computed from matches."""

    truth: Truth
    small: Answers
    large: Answers
    others: tuple[Answers, ...]
    calibration: Calibration
    router: FittedRouter
    mixes: Mixes
    oracle: FloatArray

    @classmethod
    def of(
        cls,
        detectors: Sequence[Described],
        answers: Sequence[Answers],
        labels: Truth | None,
        pictures: Sequence[Path],
        common: Common,
        *,
        seed: int,
    ) -> Found:
        """Calibrate scores and fit a router; without `labels`, the large detector's answers stand for them."""
        small, large = answers[:2]
        folder = pictures[0].parent
        truth = labels or Truth.of_teacher(large, class_names=common.names, folder=folder, paths=pictures)
        score = mixed_precision(truth, small, large)
        calibration = calibrate_scores(small, large, truth, seed=seed, score=score)
        if calibration.used:
            small, large = (
                with_table(one, table) for one, table in zip((small, large), calibration.tables, strict=True)
            )
            score = mixed_precision(truth, small, large)
        clips = clips_of([str(path) for path in pictures])
        return cls(
            truth=truth,
            small=small,
            large=large,
            others=tuple(answers[2 : len(detectors)]),
            calibration=calibration,
            router=fit_router(small, large, truth, groups=clips, seed=seed, score=score),
            mixes=Mixes(score.classes, pictures=len(pictures)),
            oracle=influence_of(score),
        )


def stream_of(found: Found, small: Running, options: PairOptions, progress: Progress) -> tuple[Stream, Answers] | None:
    """The weights by a stream, and what the small detector finds in its pictures."""
    if options.stream is None:
        return None
    seen = answers_of(small.runner, small.fit, pictures_in(options.stream), cache=options.cache, progress=progress)
    seen = with_table(seen, found.calibration.tables[0])
    labelled = found.router.out_of_fold.astype(np.float64)
    return weigh(labelled, found.router.difficulty(seen).astype(np.float64)), seen


def router_cost(small: Described, numbers: Sequence[int], found: Found, pictures: Sequence[Path]) -> float:
    """The router's time as a share of the small detector's, both with one thread.

    The router runs by itself, after the detector has run: beside other programs, the difference between two runs of a
    detector, one with a router, tells more of these programs than of the router.
    """
    plain = small.graph(numbers, calibration=found.calibration.tables[0])
    fitted = [small.fit(read_image(path)).image for path in spread(pictures, TIMED_PICTURES)]
    return time_router(DetectorRunner(plain, threads=1), alone(plain, found.router), fitted)


def frontier_of(
    measured: Pair,
    found: Found,
    detectors: Sequence[Described],
    latencies: Sequence[Latency],
    stream: tuple[Stream, Answers] | None,
    progress: Progress,
) -> tuple[Chooser, Frontier]:
    """The router as a way to choose, and everything to compare it with; `latencies` in the order of the detectors."""
    choosers = choosers_of(
        ("router" if found.router.kind == "learned" else found.router.kind, found.router.out_of_fold.astype(float)),
        {name: rule(found.small) for name, rule in RULES.items() if name != found.router.kind},
        found.oracle,
        router_on_stream=None if stream is None else stream[0].difficulties,
        rules_on_stream=None if stream is None else {name: rule(stream[1]) for name, rule in RULES.items()},
    )
    others = []
    for one, own, latency in zip(detectors[2:], found.others, latencies[2:], strict=True):
        matches = PairDetections(detections_of(own), tuple(_nothing() for _ in range(len(own))))
        alone = Mixes(MixedPrecision(matches, found.truth).classes, pictures=len(own))
        others.append(measured.single(one.name, alone, latency.mean_ms))
    names = (detectors[0].name, detectors[1].name)
    return choosers[0], measured.frontier(choosers, names=names, others=others, progress=progress)


def _nothing() -> Detections:
    return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def resizing_of(found: Found, resized: Answers, router: Chooser, latency: Latency | None) -> ResizingFacts:
    """What the small detector loses where it reads pictures that were fitted for the large one.

    The same pictures are hard both times, so that nothing but its own answers differs.
    """
    resized = with_table(resized, found.calibration.tables[0])
    matches = mixed_precision(found.truth, resized, found.large)
    other = Mixes(matches.classes, pictures=len(resized))
    none = np.zeros(len(resized), np.bool_)
    hard = is_hard(router.difficulties, threshold_for_easy_share(router.difficulties, _HALF))
    return ResizingFacts(
        own=found.mixes.ap(none),
        public=other.ap(none),
        own_mix=found.mixes.ap(hard),
        public_mix=other.ap(hard),
        public_ms=None if latency is None else latency.mean_ms,
    )


def promises_of(
    measured: Pair, router: Chooser, latencies: Sequence[Latency], options: PairOptions, *, measure: str
) -> tuple[Promise, ...]:
    """What the pair would give for each target; `latencies` of the small and the large detector come first."""
    small, large = (one.samples_ms for one in latencies[:2])
    scaled = small * (measured.small_ms / small.mean())  # with the router
    samples = Samples(small=scaled, large=large)
    asked = [latency_promise(target, measured, router, samples) for target in options.latency_targets]
    asked += [accuracy_promise(one, measured, router, measure=measure) for one in options.accuracy_targets]
    return tuple(asked)
