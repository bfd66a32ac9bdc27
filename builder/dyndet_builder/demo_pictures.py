"""The pictures that the demo shows: chosen by difficulty alone, answered by each detector, compared with the truth."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynamicdet.aliases import FloatArray, Progress
from dynamicdet.errors import ServerError
from dynamicdet.images import read_image
from dynamicdet.matching import Matches, Objects, match, verdict
from dynamicdet.thresholds import is_hard
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD
from dyndet_client import Detections, Detector

LEVELS = (8, 25, 42, 58, 75, 92)
"""percent of the pictures that are easier than a shown one: evenly spread, without the two ends"""
MIN_SCORE = 0.3
REPEATS = 7
"""requests whose median is the time of a route"""
_CONCURRENCY = 2


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one detector found in a picture."""

    detections: Detections
    matches: Matches
    latency_ms: float
    """median of a few requests, one at a time, as the client saw them"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture with its objects and both answers."""

    picture: Path
    truth: Objects
    level: int
    """percent of the pictures that are easier"""
    difficulty: float
    is_hard: bool
    """at the calibrated threshold"""
    easy: Side
    """detector 1 alone"""
    hard: Side
    """both detectors"""

    @property
    def verdict(self) -> str:
        """What detector 2 adds, in a few words."""
        return verdict(self.easy.matches, self.hard.matches)


@dataclass(frozen=True, kw_only=True)
class Total:
    """What was found in all pictures."""

    found: int
    wrong: int
    """boxes that show no object"""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """All pictures, answered in three ways."""

    pictures: int
    objects: int
    hard_share: float
    """of the pictures, at the calibrated threshold"""
    easy: Total
    routed: Total
    """by the route of each picture"""
    hard: Total


@dataclass(frozen=True, kw_only=True)
class Showing:
    """The shown pictures from easy to hard, and the totals of all."""

    threshold: float
    shown: tuple[Shown, ...]
    totals: Totals


def show_pictures(
    detector: Detector, truth: Mapping[Path, Objects], *, threshold: float, progress: Progress
) -> Showing:
    """Ask the server for all pictures on both routes, and choose those to show; `truth` has their objects by file.

    Raises ServerError if the server fails, or if its router gives no difficulty.
    """
    files = list(truth)
    easy = _answers(detector, files, ALL_EASY, "detector 1 in all pictures", progress)
    hard = _answers(detector, files, ALL_HARD, "both detectors in all pictures", progress)
    difficulties = np.array([one.difficulty for one in easy], np.float64)
    routed = is_hard(difficulties, threshold)
    found = [[match(truth[file], one) for file, one in zip(files, answers, strict=True)] for answers in (easy, hard)]
    chosen = choose(difficulties)
    shown = []
    for number, (level, index) in enumerate(chosen):
        progress("time the shown pictures", number, len(chosen))
        times = _times(detector, files[index])
        sides = (
            Side(detections=answers[index], matches=matches[index], latency_ms=latency_ms)
            for answers, matches, latency_ms in zip((easy, hard), found, times, strict=True)
        )
        shown.append(
            Shown(
                picture=files[index],
                truth=truth[files[index]],
                level=level,
                difficulty=float(difficulties[index]),
                is_hard=bool(routed[index]),
                easy=next(sides),
                hard=next(sides),
            )
        )
    progress("time the shown pictures", len(chosen), len(chosen))
    mixed = [two if hard_one else one for one, two, hard_one in zip(*found, routed.tolist(), strict=True)]
    totals = Totals(
        pictures=len(files),
        objects=sum(one.objects for one in found[0]),
        hard_share=float(routed.mean()),
        easy=_total(found[0]),
        routed=_total(mixed),
        hard=_total(found[1]),
    )
    return Showing(threshold=threshold, shown=tuple(shown), totals=totals)


def choose(difficulties: FloatArray) -> list[tuple[int, int]]:
    """Which pictures to show, from easy to hard: percentile and index of each, without repetition.

    Only the rank of the difficulty decides. Pictures without a difficulty are left out. Raises ServerError if all are.
    """
    order = [int(index) for index in np.argsort(difficulties, kind="stable") if np.isfinite(difficulties[index])]
    if not order:
        raise ServerError("the served model gives no picture a difficulty (all NaN); its router is broken")
    ranks = {round(level / 100 * (len(order) - 1)): level for level in reversed(LEVELS)}
    return [(level, order[rank]) for rank, level in sorted(ranks.items())]


def _answers(
    detector: Detector, files: Sequence[Path], threshold: float, step: str, progress: Progress
) -> list[Detections]:
    progress(step, 0, len(files))
    answers: list[Detections] = []
    for one in detector.detect_many(files, threshold=threshold, min_score=MIN_SCORE, concurrency=_CONCURRENCY):
        if one.route == "fallback":
            raise ServerError(f"detector 2 failed in {files[len(answers)].name}; the server's log says why")
        answers.append(one)
        progress(step, len(answers), len(files))
    return answers


def _times(detector: Detector, file: Path) -> tuple[float, float]:
    """Milliseconds of each route, which take turns."""
    pixels = read_image(file)
    times: dict[float, list[float]] = {ALL_EASY: [], ALL_HARD: []}
    for _ in range(REPEATS):
        for threshold, measured in times.items():
            started = time.perf_counter()
            detector.detect(pixels, threshold=threshold)
            measured.append(1e3 * (time.perf_counter() - started))
    easy, hard = (float(np.median(measured)) for measured in times.values())
    return easy, hard


def _total(matches: Sequence[Matches]) -> Total:
    return Total(found=sum(one.hits for one in matches), wrong=sum(one.errors for one in matches))
