"""Compares points with the line through static detectors: time saved at equal AP, AP gained at equal time.

The line joins the static detectors that no other one beats in both time and AP. Between two of them it is straight: it
stands for a detector of a size in between, which nobody trained. Beyond its ends nothing is known, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamicdet.aliases import FloatArray
from dyndet_bench.frontier.record import Comparison, Interval


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Mean latency (milliseconds) and AP (percent) of one way, of all data and in each resample of it, (R,)."""

    ms: float
    ap: float
    ms_draws: FloatArray
    ap_draws: FloatArray


def compare(point: Measured, line: Sequence[Measured]) -> Comparison:
    """One point beside the line through these static detectors."""
    faster, more = _beside(point.ms, point.ap, *_arrays(line))
    drawn = _drawn(point, line)
    return Comparison(faster=_interval(faster, drawn[:, 0]), more_ap=_interval(more, drawn[:, 1]))


def compare_on_average(points: Sequence[Measured], line: Sequence[Measured]) -> Comparison:
    """The mean over the points that can be compared; a resample counts the same points, as far as it can."""
    found = np.array([_beside(point.ms, point.ap, *_arrays(line)) for point in points])  # (points, 2)
    drawn = np.stack([_drawn(point, line) for point in points])  # (points, R, 2)
    chosen: list[Interval | None] = []
    for column in (0, 1):
        known = np.isfinite(found[:, column])
        if not known.any():
            chosen.append(None)
            continue
        of_known = drawn[known][:, :, column]
        counts = np.isfinite(of_known).sum(axis=0)
        means = np.where(counts > 0, np.nansum(of_known, axis=0) / np.maximum(counts, 1), np.nan)
        chosen.append(_interval(float(found[known, column].mean()), means))
    return Comparison(faster=chosen[0], more_ap=chosen[1])


def frontier_of(ms: FloatArray, ap: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Latency and AP of those that no other one beats in both, both ascending."""
    order = np.lexsort((-ap, ms))
    best, kept = -np.inf, []
    for one in order:
        if ap[one] > best:
            kept.append(one)
            best = ap[one]
    return ms[kept], ap[kept]


def _arrays(line: Sequence[Measured]) -> tuple[FloatArray, FloatArray]:
    return np.array([one.ms for one in line]), np.array([one.ap for one in line])


def _drawn(point: Measured, line: Sequence[Measured]) -> FloatArray:
    """The comparison in each resample, (R, 2)."""
    ms = np.stack([one.ms_draws for one in line], axis=1)
    ap = np.stack([one.ap_draws for one in line], axis=1)
    own = zip(point.ms_draws, point.ap_draws, ms, ap, strict=True)
    return np.array([_beside(*each) for each in own]).reshape(-1, 2)


def _beside(ms: float, ap: float, line_ms: FloatArray, line_ap: FloatArray) -> tuple[float, float]:
    """Share of time saved at equal AP, and AP gained at equal time; NaN beyond the ends of the line."""
    known_ms, known_ap = frontier_of(line_ms, line_ap)
    faster = more = float("nan")
    if known_ap[0] <= ap <= known_ap[-1]:
        faster = 1 - ms / float(np.interp(ap, known_ap, known_ms))
    if known_ms[0] <= ms <= known_ms[-1]:
        more = ap - float(np.interp(ms, known_ms, known_ap))
    return faster, more


def _interval(value: float, draws: FloatArray) -> Interval | None:
    return Interval.of(value, draws) if np.isfinite(value) else None
