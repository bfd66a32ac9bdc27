"""When requests arrive: Poisson processes whose rate changes over time, and recorded traces.

The arrivals of a profile depend only on its parameters and the seed, so every system gets the same ones.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from dynamicdet.aliases import BoolArray, FloatArray, IntArray
from dynamicdet.errors import InputError
from dynamicdet.records import read_bytes
from dynamicdet.text import printable

ProfileName = Literal["steady", "step", "burst", "ramp", "sinus"]
PROFILES: tuple[ProfileName, ...] = get_args(ProfileName)
Kind = Literal["following", "plain", "static"]
"""a threshold that follows the load; today's behaviour, the point's threshold and a queue; another fixed threshold"""
KINDS: tuple[Kind, ...] = get_args(Kind)
TRACE = "trace"
"""name of a profile that was recorded"""

BURST_S = 5.0
"""length of the burst"""
BASE = 0.5
"""rate outside of steps, bursts and peaks, as a multiple of the capacity"""
MOST_REQUESTS = 1_000_000
"""of one run"""
MOST_PROCESSES = 16
"""that send"""
LONGEST_S = 24 * 3600.0
_LARGEST = 64 << 20
"""bytes of a trace"""
_STEPS_PER_S = 100
"""resolution of a rate that changes"""
_BURST_FROM, _THIRD = 0.25, 1 / 3
_SINUS_PERIODS = 3
_ADVICE = 'a trace is a text file with one arrival a line, in seconds from the start: 0.25, or {"arrival_s": 0.25}'
_FIELD = "arrival_s"


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """The requests of one run; arrays (requests,)."""

    due_s: FloatArray
    """seconds from the start"""
    images: IntArray
    """which image each sends"""
    cancelled: BoolArray
    """which are given up soon after they were sent"""

    def __len__(self) -> int:
        return int(self.due_s.size)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How the rate changes: `level` is its height, as a multiple of the capacity, and `base` the rate around it.

    Raises InputError for a profile that is not possible.
    """

    name: ProfileName
    level: float
    seconds: float
    base: float = BASE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.level) and 0 < self.level <= 1000):
            raise InputError(f"a level must be above 0 and at most 1000 times the capacity, got {self.level}")
        if not (math.isfinite(self.base) and 0 < self.base <= 1000):
            raise InputError(f"the base rate must be above 0 and at most 1000 times the capacity, got {self.base}")
        if not 1 <= self.seconds <= LONGEST_S:
            raise InputError(f"a level takes from 1 to {LONGEST_S:.0f} seconds, got {self.seconds:g}")
        if self.name == "burst" and self.seconds < 3 * BURST_S:
            raise InputError(
                f"a burst of {BURST_S:g} s needs a run of at least {3 * BURST_S:g} s, got {self.seconds:g} s"
            )

    def rate(self, at_s: FloatArray) -> FloatArray:
        """The rate at these times (n,), seconds, as multiples of the capacity."""
        return np.where(at_s < self.seconds, _SHAPES[self.name](self, at_s), 0.0)

    @property
    def over_s(self) -> tuple[float, float] | None:
        """Start and end of a burst or step, seconds; None if there is no sudden end."""
        if self.name == "burst":
            start = _BURST_FROM * self.seconds
            return start, start + BURST_S
        if self.name == "step":
            return _THIRD * self.seconds, 2 * _THIRD * self.seconds
        return None

    @property
    def mean(self) -> float:
        """Mean rate over the run, as a multiple of the capacity."""
        return float(self.rate(_grid(self.seconds)).mean())

    @property
    def peak(self) -> float:
        """Highest rate, as a multiple of the capacity."""
        return float(self.rate(_grid(self.seconds)).max())


def _within(profile: Profile, at_s: FloatArray) -> FloatArray:
    assert profile.over_s is not None
    start, end = profile.over_s
    return np.where((at_s >= start) & (at_s < end), profile.level, profile.base)


def _ramp(profile: Profile, at_s: FloatArray) -> FloatArray:
    half = profile.seconds / 2
    way = 1 - np.abs(at_s - half) / half
    return np.asarray(profile.base + (profile.level - profile.base) * np.clip(way, 0, 1), np.float64)


def _sinus(profile: Profile, at_s: FloatArray) -> FloatArray:
    way = 0.5 - 0.5 * np.cos(2 * np.pi * _SINUS_PERIODS * at_s / profile.seconds)
    return np.asarray(profile.base + (profile.level - profile.base) * way, np.float64)


_SHAPES: dict[ProfileName, Callable[[Profile, FloatArray], FloatArray]] = {
    "steady": lambda profile, at_s: np.full(at_s.shape, profile.level),
    "step": _within,
    "burst": _within,
    "ramp": _ramp,
    "sinus": _sinus,
}


def _grid(seconds: float) -> FloatArray:
    """The middles of small steps of time, (n,)."""
    steps = max(1, math.ceil(seconds * _STEPS_PER_S))
    return (np.arange(steps) + 0.5) * (seconds / steps)


def arrivals_s(profile: Profile, capacity_per_s: float, *, seed: int = 0) -> FloatArray:
    """When each request is due, seconds from the start, (requests,): Poisson arrivals at the profile's rate.

    Raises InputError if there would be too many requests.
    """
    grid = _grid(profile.seconds)
    step = profile.seconds / grid.size
    expected = np.concatenate([[0.0], np.cumsum(profile.rate(grid) * capacity_per_s * step)])
    if expected[-1] > MOST_REQUESTS:
        raise InputError(
            f"{profile.seconds:g} s at {profile.mean * capacity_per_s:.0f} requests a second are "
            f"{expected[-1]:,.0f} requests; at most {MOST_REQUESTS:,} are possible"
        )
    # A Poisson process of rate 1 on the axis of expected requests, mapped back to time.
    rng = np.random.default_rng(seed)
    count = int(expected[-1] + 10 * math.sqrt(expected[-1]) + 20)
    unit = np.cumsum(rng.exponential(1.0, count))
    due: FloatArray = np.interp(unit[unit < expected[-1]], expected, np.linspace(0, profile.seconds, expected.size))
    return due


def read_trace(path: Path) -> FloatArray:
    """The arrivals of a CSV file or of JSON lines, seconds from the start, (requests,), in order.

    A CSV file has one column of numbers, or a column `arrival_s`. A JSON line is a number, or an object with the key
    `arrival_s`. Raises InputError for anything else, and for arrivals that are negative, not in order or too many.
    """
    content = read_bytes(path, advice=_ADVICE, largest=_LARGEST)
    try:
        lines = [line for line in content.decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(path)} is not a text file; {_ADVICE}") from error
    as_json = bool(lines) and (path.suffix.lower() in (".jsonl", ".ndjson", ".json") or lines[0].lstrip()[0] == "{")
    numbers = _json_lines(path, lines) if as_json else _csv_column(path, lines)
    return _checked(path, np.array(numbers, np.float64))


def _json_lines(path: Path, lines: list[str]) -> list[float]:
    found = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _damaged(path, number, line) from error
        if isinstance(value, dict):
            value = value.get(_FIELD)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _damaged(path, number, line)
        found.append(_as_number(path, number, line, value))
    return found


def _csv_column(path: Path, lines: list[str]) -> list[float]:
    try:
        rows = list(csv.reader(io.StringIO("\n".join(lines)), strict=True))
    except csv.Error as error:
        raise InputError(f"{printable(path)} cannot be read ({error}); {_ADVICE}") from error
    column, first = 0, 0
    if rows and _FIELD in (names := [cell.strip() for cell in rows[0]]):
        column, first = names.index(_FIELD), 1
    elif rows and len(rows[0]) != 1:
        raise InputError(f"{printable(path)} has several columns and none is called {_FIELD}; {_ADVICE}")
    found = []
    for number, row in enumerate(rows[first:], first + 1):
        if len(row) != len(rows[0]):
            raise _damaged(path, number, ",".join(row))
        found.append(_as_number(path, number, row[column], row[column]))
    return found


def _as_number(path: Path, line: int, text: str, value: str | float) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError) as error:
        raise _damaged(path, line, text) from error


def _damaged(path: Path, line: int, found: str) -> InputError:
    return InputError(f"line {line} of {printable(path)} is not an arrival: {printable(found, limit=60)!r}; {_ADVICE}")


def _checked(path: Path, arrivals: FloatArray) -> FloatArray:
    name = printable(path)
    if not 1 <= arrivals.size <= MOST_REQUESTS:
        raise InputError(f"{name} has {arrivals.size:,} arrivals; a trace has from 1 to {MOST_REQUESTS:,}")
    if not np.isfinite(arrivals).all() or arrivals.min() < 0 or arrivals.max() > LONGEST_S:
        raise InputError(f"{name} has arrivals that are not between 0 and {LONGEST_S:.0f} seconds")
    if (np.diff(arrivals) < 0).any():
        place = int(np.flatnonzero(np.diff(arrivals) < 0)[0]) + 2
        raise InputError(f"arrival {place} of {name} is earlier than the one before; sort the trace by time")
    return arrivals
