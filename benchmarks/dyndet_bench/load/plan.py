"""What `dyndet bench load` measures: profiles and levels, systems, and how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamicdet.aliases import FloatArray, IntArray
from dynamicdet.errors import InputError
from dyndet_bench.load.arrivals import (
    BASE,
    KINDS,
    MOST_PROCESSES,
    TRACE,
    Arrivals,
    Kind,
    Profile,
    ProfileName,
    arrivals_s,
)

STEADY_LEVELS = (0.3, 0.5, 0.8, 0.9, 1.0, 1.5, 2.0)
LEVELS: dict[ProfileName, tuple[float, ...]] = {
    "steady": STEADY_LEVELS,
    "step": (1.5,),
    "burst": (3.0,),
    "ramp": (2.0,),
    "sinus": (1.5,),
}
"""by default"""
MOST_OUTSTANDING = 2000
_BACKLOG_BYTES = 2**29
_MOST_LEVELS = 100
_STATICS = 2
"""fixed thresholds by default, beside that of the operating point"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One level of one profile, or a trace: the same arrivals for every system."""

    profile: str
    level: float | None
    shape: Profile | None
    """None for a trace"""
    seconds: float

    @property
    def title(self) -> str:
        """For people: `steady, 0.8 x capacity`."""
        return self.profile if self.level is None else f"{self.profile}, {self.level:g} x capacity"

    @property
    def over_s(self) -> tuple[float, float] | None:
        """Start and end of a burst or step, seconds."""
        return None if self.shape is None else self.shape.over_s


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What is measured. Raises InputError for values that make no sense."""

    profiles: tuple[ProfileName, ...] = ("steady",)
    levels: tuple[float, ...] = ()
    """multiples of the all-easy capacity; empty: those of `LEVELS`"""
    seconds: float = 60.0
    """of a level"""
    base: float = BASE
    """rate around bursts, steps and peaks, as a multiple of the capacity"""
    trace: FloatArray | None = None
    """arrivals, seconds, in place of profiles"""
    thresholds: tuple[float, ...] = ()
    """of the static systems; empty: that of the operating point, one in the middle, and 1"""
    kinds: tuple[Kind, ...] = KINDS
    """of systems that are measured"""
    cancel_share: float = 0.0
    """of the requests, given up soon after they were sent"""
    processes: int | None = None
    """that send; None: as many as the rate needs"""
    seed: int = 0
    capacity_s: float = 8.0
    """of each closed loop that gives the capacity"""
    settle_s: float = 2.0
    """pause between two runs"""
    drain_s: float = 60.0
    """longest wait for answers after the last arrival"""

    def __post_init__(self) -> None:
        if not all(0 <= one <= 1 for one in self.thresholds):
            raise InputError(f"thresholds must be from 0 to 1, got {', '.join(f'{one:g}' for one in self.thresholds)}")
        if not 0 <= self.cancel_share < 1:
            raise InputError(f"the share of cancelled requests must be from 0 to below 1, got {self.cancel_share:g}")
        if self.processes is not None and not 1 <= self.processes <= MOST_PROCESSES:
            raise InputError(f"requests are sent by 1 to {MOST_PROCESSES} processes, got {self.processes}")
        if self.seed < 0:
            raise InputError(f"the seed must be 0 or more, got {self.seed}")
        if len(self.levels) > _MOST_LEVELS:
            raise InputError(f"give at most {_MOST_LEVELS} levels, got {len(self.levels)}")
        if self.trace is not None and self.levels:
            raise InputError("a trace has its own rates; give --levels with a profile only")
        if len({*self.profiles}) < len(self.profiles) or len({*self.levels}) < len(self.levels):
            raise InputError("a profile or a level occurs twice; give each once")
        if (self.trace is None and not self.profiles) or not self.kinds:
            raise InputError("give at least one profile or a trace, and at least one system")
        self.runs()

    def runs(self) -> tuple[Run, ...]:
        """Everything that is measured, in order. Raises InputError for a profile that is not possible."""
        if self.trace is not None:
            return (Run(profile=TRACE, level=None, shape=None, seconds=max(1.0, float(self.trace[-1]))),)
        shapes = [
            Profile(name=name, level=level, seconds=self.seconds, base=self.base)
            for name in self.profiles
            for level in (self.levels or LEVELS[name])
        ]
        return tuple(Run(profile=one.name, level=one.level, shape=one, seconds=one.seconds) for one in shapes)

    def arrivals(self, run: Run, *, capacity_per_s: float, images: int) -> Arrivals:
        """The requests of a run: due when, with which image, and whether they are given up."""
        if run.shape is None:
            assert self.trace is not None
            due = self.trace
        else:
            due = arrivals_s(run.shape, capacity_per_s, seed=self.seed)
        rng = np.random.default_rng((self.seed, 1))
        cancelled = np.random.default_rng((self.seed, 2)).random(due.size) < self.cancel_share
        return Arrivals(due_s=due, images=_order(rng, due.size, images), cancelled=cancelled)

    def outstanding(self, image_bytes: int) -> int:
        """How many requests may wait at once; what is due beyond that is not sent."""
        return max(1, min(MOST_OUTSTANDING, _BACKLOG_BYTES // image_bytes))

    def minutes(self) -> float:
        """About how long everything takes, at most."""
        runs = self.runs()
        statics = len({*self.thresholds}) or _STATICS
        systems = sum(statics if kind == "static" else 1 for kind in {*self.kinds})
        return (systems * sum(run.seconds + self.settle_s + 3 for run in runs) + 11 * self.capacity_s + 10) / 60


def _order(rng: np.random.Generator, requests: int, images: int) -> IntArray:
    """Which image each request sends: all of them, in another order each time."""
    cycles = [rng.permutation(images) for _ in range(-(-requests // images))]
    order: IntArray = np.concatenate(cycles or [np.empty(0, np.int64)])[:requests].astype(np.int64)
    return order


def name_of(threshold: float, others: Sequence[float]) -> str:
    """The name of a static system; thresholds that are near each other get more digits."""
    for digits in (2, 3, 4, 6):
        if len({f"{one:.{digits}f}" for one in {*others, threshold}}) == len({*others, threshold}):
            return f"static {threshold:.{digits}f}"
    return f"static {threshold!r}"
