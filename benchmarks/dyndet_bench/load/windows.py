"""What happened over time: windows of half a second, when it was normal again, how often the threshold turned."""

from __future__ import annotations

import math

import numpy as np

from dynamicdet.aliases import BoolArray, FloatArray

WINDOW_S = 0.5
CALM_WINDOWS = 2
"""windows in a row that count as normal"""
_SETTLING_S = 2.0
"""at the start of a run, not part of what is normal"""
_DEAD_BAND = 0.01
"""of the threshold: smaller moves are no change of direction"""
_NEAR = 0.02
"""of the threshold: as near it counts as back"""


def starts_s(seconds: float) -> FloatArray:
    """Where windows begin, (windows,)."""
    return np.arange(max(1, math.ceil(seconds / WINDOW_S))) * WINDOW_S


def rate_per_window(at_s: FloatArray, seconds: float) -> FloatArray:
    """Events a second in each window, (windows,)."""
    windows = starts_s(seconds).size
    return np.bincount(_window(at_s, windows), minlength=windows)[:windows] / WINDOW_S


def quantile_per_window(at_s: FloatArray, values: FloatArray, seconds: float, share: float) -> FloatArray:
    """A quantile of the values of each window, (windows,); NaN where there are none. Infinite values are possible."""
    windows = starts_s(seconds).size
    place = _window(at_s, windows)
    found = np.full(windows, np.nan)
    for window in np.unique(place):
        found[window] = np.quantile(values[place == window], share, method="inverted_cdf")
    return found


def share_per_window(at_s: FloatArray, chosen: BoolArray, seconds: float) -> FloatArray:
    """Share of the events of each window that are chosen, (windows,); NaN where there are none."""
    windows = starts_s(seconds).size
    place = _window(at_s, windows)
    total = np.bincount(place, minlength=windows)[:windows]
    hits = np.bincount(place, weights=chosen.astype(np.float64), minlength=windows)[:windows]
    return np.where(total > 0, hits / np.maximum(total, 1), np.nan)


def normal_again_s(latency: FloatArray, *, begin_s: float, end_s: float) -> float | None:
    """Seconds from the end of a burst until the latency of two windows in a row is as before it; None: never.

    `latency` (windows,) is a quantile of each window. As before: at most the highest one before the burst began,
    without the first two seconds of the run. A window without requests says nothing.
    """
    start = np.arange(latency.size) * WINDOW_S
    before = latency[(start >= _SETTLING_S) & (start + WINDOW_S <= begin_s) & ~np.isnan(latency)]
    if not before.size:
        return None
    normal = float(before.max())
    after = [(at, value) for at, value in zip(start, latency, strict=True) if at >= end_s and not np.isnan(value)]
    for place in range(len(after) - CALM_WINDOWS + 1):
        if all(value <= normal for _, value in after[place : place + CALM_WINDOWS]):
            return float(after[place][0] - end_s)
    return None


def threshold_back_s(at_s: FloatArray, threshold: FloatArray, *, begin_s: float, end_s: float) -> float | None:
    """Seconds from the end of a burst until the threshold is where it was before; None: never, or not known.

    Where it was: between its lowest and highest value before the burst, without the first two seconds of the run.
    """
    known = ~np.isnan(threshold)
    at_s, threshold = at_s[known], threshold[known]
    before = threshold[(at_s >= min(_SETTLING_S, begin_s / 2)) & (at_s < begin_s)]
    after = at_s >= end_s
    if not before.size or not after.any():
        return None
    back = (threshold >= before.min() - _NEAR) & (threshold <= before.max() + _NEAR) & after
    return float(at_s[back][0] - end_s) if back.any() else None


def turns_s(at_s: FloatArray, values: FloatArray, *, dead_band: float = _DEAD_BAND) -> FloatArray:
    """When a line changed its direction, (turns,): at each extreme from which it then moved by `dead_band` or more."""
    known = ~np.isnan(values)
    at_s, values = at_s[known], values[known]
    turns: list[float] = []
    if not values.size:
        return np.array(turns)
    direction, extreme, when = 0, values[0], at_s[0]
    for time, value in zip(at_s[1:], values[1:], strict=True):
        if direction == 0:
            if abs(value - extreme) >= dead_band:
                direction, extreme, when = (1 if value > extreme else -1), value, time
        elif (value - extreme) * direction >= 0:
            extreme, when = value, time
        elif abs(value - extreme) >= dead_band:
            turns.append(float(when))
            direction, extreme, when = -direction, value, time
    return np.array(turns)


def most_within(events_s: FloatArray, span_s: float) -> int:
    """The largest number of events in any span of time."""
    events = np.sort(events_s)
    return int(max((np.searchsorted(events, at + span_s) - place for place, at in enumerate(events)), default=0))


def _window(at_s: FloatArray, windows: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.clip((at_s / WINDOW_S).astype(np.int64), 0, windows - 1)
