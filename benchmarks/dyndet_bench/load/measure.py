"""Measures a served detector under load: first its capacity in a closed loop, then every system at every level.

All systems share one server. A request with an explicit threshold has no operating point, so nothing follows the load
and it has no deadline: that is today's behaviour, a queue. All systems of a level get the same arrivals, one after
another, in an order that changes from level to level. Each finished cell is stored, and a command that is started again
measures what is missing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from pydantic import JsonValue

from dynamicdet.aliases import FloatArray, Progress, UInt8Array, silent
from dynamicdet.errors import InputError
from dynamicdet.thresholds import is_hard
from dyndet_bench.load.arrivals import Arrivals, Kind
from dyndet_bench.load.capacity import Base, ClosedLoop, not_answered
from dyndet_bench.load.generators import Generators
from dyndet_bench.load.hindsight import Looking
from dyndet_bench.load.messages import Found, System, read_answer
from dyndet_bench.load.plan import LoadPlan, Run, name_of
from dyndet_bench.load.record import Capacity, Cell, LoadRecord, Promise
from dyndet_bench.load.scoring import Accuracy, Measured
from dyndet_bench.load.sending import Target
from dyndet_bench.load.watching import GEAR, Watch
from dyndet_bench.measuring.attempts import Attempts, check_any
from dyndet_bench.measuring.journal import JournalFolder, Replayed
from dyndet_bench.measuring.machine import circumstances
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD, Served

FOLLOWING, PLAIN = "following", "plain queueing"
PROMISED_TIMES, PROMISED_SHARE = 10.0, 0.95
"""the promise by default: p95 of so many times the mean latency of the easy route"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The detector under load."""

    served: Served
    http_address: str
    operating_point: str
    """whose threshold follows the load"""
    threshold: float
    """of this point"""
    promise: Promise | None
    """None: 10 x the mean latency of the easy route"""
    follow: Callable[[Promise], object] | None = None
    """makes the operating point follow the load with this promise; None: nothing follows"""
    memory: Callable[[], float] | None = None
    """the server's memory, MiB"""
    ending: Callable[[], str | None] = lambda: None
    """how the server ended, though nobody stopped it"""


def measure_load(
    subject: Subject,
    images: Sequence[UInt8Array],
    *,
    plan: LoadPlan,
    accuracy: Accuracy | None = None,
    journals: JournalFolder | None = None,
    progress: Progress = silent,
) -> LoadRecord:
    """Measure every system at every level of the plan.

    `images` (H, W, 3) uint8, fitted, are those that `accuracy` knows by their place. Raises ServerError if nothing
    could be measured, or if the server cannot follow the load although the plan asks for it; InputError.
    """
    if not images:
        raise InputError("a load needs at least one image")
    served = subject.served
    target = Target(address=subject.http_address, model=served.name)
    with Generators(target, images, processes=plan.processes) as generators:
        return _Measurement(subject, images, plan, accuracy, journals, generators, progress).record()


class _Measurement:
    """One call of `measure_load`."""

    def __init__(
        self,
        subject: Subject,
        images: Sequence[UInt8Array],
        plan: LoadPlan,
        accuracy: Accuracy | None,
        journals: JournalFolder | None,
        generators: Generators,
        progress: Progress,
    ) -> None:
        self._subject, self._images, self._plan, self._accuracy = subject, images, plan, accuracy
        self._journals, self._generators, self._progress = journals, generators, progress
        self._served = subject.served
        self._name = self._served.name
        self._closed = ClosedLoop(
            generators, model=self._name, images=len(images), seconds=plan.capacity_s, seed=plan.seed
        )

    def record(self) -> LoadRecord:
        easy, hard = self._every_image(ALL_EASY), self._every_image(ALL_HARD)
        base, replayed = self._base()
        promise = self._subject.promise or self._default_promise(base)
        if self._subject.follow is not None and "following" in self._plan.kinds:
            self._subject.follow(promise)
            self._check_follows()
        systems = self._systems(np.array([one.difficulty for one in easy]))
        attempts = self._attempts(base, promise)
        looking = Looking(
            easy=easy,
            hard=hard,
            service=base.service,
            promise=promise,
            seed=self._plan.seed,
            accuracy=self._accuracy,
        )
        cells: list[Cell] = []
        hindsights = []
        for number, run in enumerate(self._plan.runs()):
            arrivals = self._arrivals(run, base)
            found = self._level(run, arrivals, systems, attempts, base, promise, shift=number)
            cells += found
            hindsights.append(looking.back(run, arrivals, found))
        check_any(attempts.missing, len(cells))
        gone = attempts.server_is_gone
        return LoadRecord(
            model=self._name,
            bundle_sha256=self._served.bundle_sha256,
            operating_point=self._subject.operating_point,
            base_threshold=self._subject.threshold,
            images=len(self._images),
            data=None if self._accuracy is None else self._accuracy.data,
            promise=promise,
            capacity=base.capacity if gone else self._capacity_after(base),
            seed=self._plan.seed,
            processes=max(self._generators.processes(self._peak(run, base)) for run in self._plan.runs()),
            most_outstanding=self._outstanding,
            cancel_share=self._plan.cancel_share,
            cells=tuple(cells),
            hindsight=tuple(hindsights),
            both_ap=looking.both_ap(),
            missing=tuple(attempts.missing),
            ending=self._subject.ending(),
            replayed=Replayed.together([replayed, attempts.replayed]),
            circumstances=circumstances(**({} if gone else self._served.versions())),
        )

    def _capacity_after(self, base: Base) -> Capacity:
        """The capacity, measured again: a machine that shares its cores changes its speed."""
        after = self._closed.throughput(ALL_EASY, base.concurrency)
        return base.capacity.model_copy(update={"after_per_s": after})

    def _every_image(self, threshold: float) -> list[Found]:
        step = f"ask for every image, all {'easy' if threshold == ALL_EASY else 'hard'}"
        self._progress(step, 0, 1)
        found = self._closed.every_image(threshold)
        self._progress(step, 1, 1)
        return found

    @property
    def _outstanding(self) -> int:
        return self._plan.outstanding(self._images[0].nbytes)

    def _base(self) -> tuple[Base, Replayed | None]:
        """Latencies of both routes, and the capacity: measured, or as an earlier run measured them."""
        journal = None if self._journals is None else self._journals.open(self._identity("capacity"), Base)
        attempts = Attempts(journal)
        step = "measure the capacity"
        entry = attempts.measure(
            {"seconds": self._plan.capacity_s},
            lambda: self._closed.base(lambda done, of: self._progress(step, done, of)),
            what=step,
        )
        check_any(attempts.missing, 0 if entry is None else 1)
        assert entry is not None
        return entry.measured, attempts.replayed

    def _default_promise(self, base: Base) -> Promise:
        ms = PROMISED_TIMES * float(np.mean(base.easy_ms))
        return Promise(statistic="p95", share=PROMISED_SHARE, ms=ms, source="10 x the mean latency of the easy route")

    def _check_follows(self) -> None:
        """Raise InputError if the server has no gear: its repository was rendered before this existed."""
        for _ in range(3):
            self._served.infer(self._images[0], threshold=None, outputs=("route",))
        if not self._served.metrics.read(GEAR):
            raise InputError(
                f"model {self._name!r} cannot follow the load: its server has no metric {GEAR}; render the repository "
                "again with this version, or give --system plain --system static"
            )

    def _systems(self, difficulties: FloatArray) -> list[tuple[System, Kind]]:
        """Following, plain queueing, and the other fixed thresholds."""
        own = self._subject.threshold
        statics = self._plan.thresholds or (_middle(difficulties, own), ALL_EASY)
        others = [one for one in dict.fromkeys(statics) if one != own]
        found: list[tuple[System, Kind]] = []
        if self._subject.follow is not None:
            found.append((System(name=FOLLOWING, operating_point=self._subject.operating_point), "following"))
        found.append((System(name=PLAIN, threshold=own), "plain"))
        found += [(System(name=name_of(one, others), threshold=one), "static") for one in others]
        chosen = [(system, kind) for system, kind in found if kind in self._plan.kinds]
        if not chosen:
            raise InputError("no system is left to measure: every fixed threshold is that of the operating point")
        return chosen

    def _identity(self, part: str, **more: object) -> dict[str, object]:
        digest = hashlib.sha256()
        for image in self._images:
            digest.update(image.tobytes())
        data = None if self._accuracy is None else self._accuracy.data
        return {
            "bench": "load",
            "part": part,
            "server": self._served.identity(),
            "images": digest.hexdigest(),
            "data": data,
            "seed": self._plan.seed,
            **more,
        }

    def _attempts(self, base: Base, promise: Promise) -> Attempts[Cell]:
        if self._journals is None:
            return Attempts(None)
        plan, point = self._plan, self._subject.operating_point
        identity = self._identity(
            "cells",
            promise=promise.model_dump(),
            capacity=base.capacity.model_dump(),
            point=point,
            cancelled=plan.cancel_share,
            processes=plan.processes,
            outstanding=self._outstanding,
            trace=None if plan.trace is None else hashlib.sha256(plan.trace.tobytes()).hexdigest(),
        )
        return Attempts(self._journals.open(identity, Cell))

    def _peak(self, run: Run, base: Base) -> float:
        if run.shape is not None:
            return run.shape.peak * base.easy_per_s
        assert self._plan.trace is not None
        return float(np.bincount(self._plan.trace.astype(np.int64)).max())

    def _arrivals(self, run: Run, base: Base) -> Arrivals:
        arrivals = self._plan.arrivals(run, capacity_per_s=base.easy_per_s, images=len(self._images))
        if not len(arrivals):
            raise InputError(f"no request is due in {run.seconds:g} s of {run.title}; give more --seconds")
        return arrivals

    def _level(
        self,
        run: Run,
        arrivals: Arrivals,
        systems: Sequence[tuple[System, Kind]],
        attempts: Attempts[Cell],
        base: Base,
        promise: Promise,
        *,
        shift: int,
    ) -> list[Cell]:
        """All systems with the same arrivals, in an order that changes from level to level."""
        found: dict[str, Cell] = {}
        for done in range(len(systems)):
            system, kind = systems[(done + shift) % len(systems)]
            self._progress(run.title, done, len(systems))
            question: JsonValue = {
                "profile": run.profile,
                "level": run.level,
                "seconds": run.seconds,
                "base": None if run.shape is None else run.shape.base,
                "system": system.name,
                "threshold": system.threshold,
            }
            entry = attempts.measure(
                question,
                partial(self._cell, run, arrivals, system, kind, base, promise),
                what=f"{run.title}, {system.name}",
                accept=lambda cell: cell.valid,
            )
            if entry is not None:
                found[system.name] = entry.measured
        self._progress(run.title, len(systems), len(systems))
        return [found[system.name] for system, _ in systems if system.name in found]

    def _cell(self, run: Run, arrivals: Arrivals, system: System, kind: Kind, base: Base, promise: Promise) -> Cell:
        time.sleep(self._plan.settle_s)
        peak = self._peak(run, base)
        with Watch(self._served.metrics, memory=self._subject.memory) as watch:
            sent, start = self._generators.open_loop(
                system, arrivals, peak_per_s=peak, most_outstanding=self._outstanding, drain_s=self._plan.drain_s
            )
        if sent.gone:
            raise not_answered(sent.sentences, gone=True)
        measured = Measured(
            run=run,
            system=system.name,
            kind=kind,
            threshold=system.threshold,
            arrivals=arrivals,
            sent=sent,
            answers=[read_answer(one, model=self._name) for one in sent.answers],
            watched=watch.since(start),
            promise=promise,
            service=base.service,
            accuracy=self._accuracy,
        )
        return measured.cell()


def _middle(difficulties: FloatArray, threshold: float) -> float:
    """The threshold at which half as many images are hard as at `threshold`."""
    hard = is_hard(difficulties, threshold)
    slower = difficulties[hard & ~np.isnan(difficulties)]
    return float(np.float32(np.median(slower))) if slower.size else ALL_EASY
