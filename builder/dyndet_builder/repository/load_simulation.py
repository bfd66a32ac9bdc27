"""Simulates a served detector under load, with the control that is rendered beside the public model.

The control itself runs, on a clock that jumps from event to event, so a minute of load takes about a second. Times are
seconds.
"""

from __future__ import annotations

import heapq
import importlib
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from dyndet_templates import TEMPLATES

_RENDERED = ("backlog", "deciding", "gears", "law", "load", "pace", "steering", "tenants")


@cache
def control_modules() -> Mapping[str, Any]:
    """The modules of the control by name, as a model imports them. No other import in this process finds them."""
    folder = str(TEMPLATES / "public")
    before = {name: sys.modules.pop(name) for name in _RENDERED if name in sys.modules}
    sys.path.insert(0, folder)
    try:
        return {name: importlib.import_module(name) for name in _RENDERED}
    finally:
        sys.path.remove(folder)
        for name in _RENDERED:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def load_control() -> Any:
    """The module `load`."""
    return control_modules()["load"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request of one image."""

    arrives: float
    difficulty: float
    tenant: str = ""
    deadline_s: float | None = None
    """from its arrival; None: the promise of its operating point"""
    priority: int = 0
    patience_s: float = math.inf
    """after which its client cancels it"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a request."""

    request: Request
    ended: float
    """when it was answered, refused or dropped"""
    route: int | None = None
    """1 easy, 2 hard, -3 degraded; None: it has no answer"""
    reason: str = ""
    """why it has no answer: late, full or cancelled"""

    @property
    def latency_s(self) -> float:
        """From the arrival to the end."""
        return self.ended - self.request.arrives


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What answers requests: workers that take a time for each answer."""

    easy_s: float = 0.007
    hard_s: float = 0.011
    jitter: float = 0.2
    """each answer takes up to this share more or less"""
    workers: int = 1
    slowdown: float = 0.0
    """by which share each further busy worker slows an answer down"""
    first: float = 0.7
    """share of an easy answer after which the difficulty is known"""
    pace: Callable[[float], float] = lambda _: 1.0
    """factor of all times, at a time: a machine that becomes slower"""

    @property
    def easy_per_s(self) -> float:
        """Capacity if all images are easy, images a second."""
        return self.workers / (self.easy_s * (1 + self.slowdown * (self.workers - 1)))


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The control at a time."""

    at: float
    threshold: float
    gear: float
    queue: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a simulation gave."""

    outcomes: Sequence[Outcome]
    """in the order in which they ended"""
    moments: Sequence[Moment]
    """each tenth of a second"""


def poisson(per_s: Callable[[float], float], *, until: float, most_per_s: float, rng: random.Random) -> list[float]:
    """Arrival times of independent requests at a rate that varies, at most `most_per_s`, by thinning."""
    found: list[float] = []
    now = 0.0
    while True:
        now += rng.expovariate(most_per_s)
        if now >= until:
            return found
        if rng.random() * most_per_s < per_s(now):
            found.append(now)


def simulate(
    requests: Iterable[Request],
    machine: Machine,
    *,
    threshold: float,
    promise_s: float | None,
    ceiling: float = 1.0,
    tenants: Mapping[str, Any] | None = None,
    bound: int = 1024,
    seed: int = 0,
) -> Run:
    """Serve requests. Without a promise the threshold stays, nothing is late, and all wait: plain queueing.

    `tenants` are rules of `load_control().TenantRule` by name.
    """
    return _Simulation(machine, threshold, promise_s, ceiling, tenants or {}, bound, seed).run(requests)


class _Simulation:
    def __init__(
        self,
        machine: Machine,
        threshold: float,
        promise_s: float | None,
        ceiling: float,
        tenants: Mapping[str, Any],
        bound: int,
        seed: int,
    ) -> None:
        self.control = load_control()
        self.machine, self.threshold = machine, threshold
        self.follow = promise_s and self.control.Follow(promise_s=promise_s, floor=threshold, ceiling=ceiling)
        self.now = 0.0
        self.load = self.control.Load(workers=machine.workers, bound=bound, clock=lambda: self.now)
        self.load.configure(tenants=tenants)
        self.rng = random.Random(seed)
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.busy = 0
        self.outcomes: list[Outcome] = []
        self.moments: list[Moment] = []

    def run(self, requests: Iterable[Request]) -> Run:
        arrivals = sorted(requests, key=lambda request: request.arrives)
        for request in arrivals:
            self.at(request.arrives, partial(self.arrive, request))
        for tenth in range(int(10 * arrivals[-1].arrives) + 1 if arrivals else 0):
            self.at(tenth / 10, self.look)
        while self.events:
            self.now, _, event = heapq.heappop(self.events)
            event()
        return Run(outcomes=self.outcomes, moments=self.moments)

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time, next(self.order), event))

    def look(self) -> None:
        state = self.load.state(threshold=self.threshold, follow=self.follow)
        self.moments.append(Moment(at=self.now, threshold=state.threshold, gear=state.gear, queue=state.queue))

    def arrive(self, request: Request) -> None:
        job = self.control.Job(
            payload=request,
            arrived=self.now,
            threshold=self.threshold,
            deadline=None if request.deadline_s is None else self.now + request.deadline_s,
            priority=request.priority,
            tenant=request.tenant,
            follow=self.follow,
        )
        fast = self.load.idle()
        refusal = self.load.enter(job) if fast else self.load.admit(job)
        if refusal is not None:
            self.end(request, reason=refusal.reason)
        elif fast:
            self.start(job)
        else:
            self.work()

    def work(self) -> None:
        """Let free workers take what waits."""
        while self.busy < self.machine.workers:
            jobs = self.load.take(1, block=False)
            late = self.load.refused_late()
            for job, refusal in late:
                self.end(job.payload, reason=refusal.reason)
            for job in jobs:
                self.start(job)
            if not jobs and not late:
                return

    def start(self, job: Any) -> None:
        self.busy += 1
        request = job.payload
        if self.now - request.arrives > request.patience_s:
            self.end(request, reason="cancelled")
            self.finish(job, None)
            return
        machine = self.machine
        factor = 1 + machine.jitter * self.rng.uniform(-1, 1)
        factor *= machine.pace(self.now) * (1 + machine.slowdown * (self.busy - 1))
        self.at(self.now + machine.first * machine.easy_s * factor, lambda: self.decide(job, factor))

    def decide(self, job: Any, factor: float) -> None:
        route = self.load.route(job, job.payload.difficulty)
        machine = self.machine
        whole = machine.hard_s if route == self.control.HARD else machine.easy_s
        self.at(self.now + (whole - machine.first * machine.easy_s) * factor, lambda: self.finish(job, route))

    def finish(self, job: Any, route: int | None) -> None:
        self.busy -= 1
        self.load.done(job, routes=() if route is None else (route,))
        if route is not None:
            self.end(job.payload, route=route)
        self.work()

    def end(self, request: Request, *, route: int | None = None, reason: str = "") -> None:
        self.outcomes.append(Outcome(request=request, ended=self.now, route=route, reason=reason))
