"""The control of load: what the public model asks about every request. All of docs/load.md is behind this class.

Rendering puts this file beside every public model. Needs only Python.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from backlog import Backlog, Follow, Job  # type: ignore[import-not-found]
from deciding import DEGRADED, EASY, FULL, HARD, LATE, Margin, Refusal, is_hard  # type: ignore[import-not-found]
from gears import Correction, capacity, hard_share, target_utilisation  # type: ignore[import-not-found]
from pace import Pace  # type: ignore[import-not-found]
from tenants import Tenant, TenantRule, Tenants, fair_shares  # type: ignore[import-not-found]

__all__ = ["DEGRADED", "EASY", "HARD", "Follow", "Job", "Load", "Refusal", "State", "TenantRule"]


@dataclass(frozen=True, kw_only=True)
class State:
    """What metrics show."""

    threshold: float
    """in force for the operating point that was asked about"""
    gear: float
    """hard share that the load allows, 0 to 1"""
    queue: int
    """requests that wait"""
    busy: int
    """workers that are busy"""
    per_s: float
    """images offered in a second"""
    easy_s: float
    """the server's time for an easy answer; 0: not measured yet"""
    hard_s: float
    utilisation: float
    """share of its time that the server may work"""


_LATEST = 4.0
"""how late an answer may be that only its operating point has promised, in units of the promise"""
_MOST = 0.97
"""utilisation that is never exceeded on purpose"""


class Load:
    """Takes requests into a queue, hands them to workers, and says for each image which route answers it.

    All methods may be called from any thread. A request is `admit`ted and then comes out of `take`, or is `enter`ed;
    for each of its images `route` is called as soon as the difficulty is known, and at last `done`, also if it was
    cancelled or failed. Times of routes are measured between these calls, so nothing else has to be told.
    """

    def __init__(self, *, workers: int, bound: int = 1024, clock: Callable[[], float] = time.monotonic) -> None:
        self._law = _Law(workers=workers, bound=bound, now=clock())
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._sleeping = 0
        """workers that wait for requests"""
        self._closed = False

    def configure(self, *, tenants: Mapping[str, TenantRule]) -> None:
        """Put the rules of tenants into force. Tenants without a rule share one place, and no budget limits them."""
        with self._lock:
            self._law.configure(tenants, self._clock())

    def idle(self) -> bool:
        """Whether nothing waits and no worker is busy, so that the caller may compute the next request itself."""
        law = self._law
        return not law.busy and not len(law.backlog)

    def enter(self, job: Job) -> Refusal | None:
        """Count a request that the caller computes itself at once; or says why it must not: no time for any answer."""
        with self._lock:
            return self._law.enter(job, self._clock())

    def admit(self, job: Job) -> Refusal | None:
        """Let a request wait for a worker, or say why not."""
        with self._lock:
            refusal = self._law.admit(job, self._clock())
            if refusal is None and self._sleeping:
                self._changed.notify()
            return refusal

    def admit_all(self, jobs: Sequence[Job]) -> list[Refusal | None]:
        """The same for requests that came together, so that a worker that merges takes them together."""
        with self._changed:
            refusals = [self._law.admit(job, self._clock()) for job in jobs]
            self._changed.notify(refusals.count(None))
            return refusals

    def take(self, most: int = 1, *, block: bool = True) -> list[Job] | None:
        """The next requests to compute, of at most `most` images (one request may have more), for one worker.

        Waits for requests; None once `close` was called and none waits. The list is empty if only requests were there
        whose time has run out, or if nothing waits and `block` is False. A worker asks `refused_late` each time.
        """
        with self._lock:
            while True:
                jobs = self._law.take(most, self._clock())
                if jobs or self._law.late:
                    return jobs
                if self._closed:
                    return None
                if not block:
                    return []
                self._sleeping += 1
                self._changed.wait()
                self._sleeping -= 1

    def refused_late(self) -> list[tuple[Job, Refusal]]:
        """Requests whose time has run out while they waited, each once; they are not `done`."""
        if not self._law.late:
            return []
        with self._lock:
            late, self._law.late = self._law.late, []
        return late

    def threshold(self, job: Job) -> float:
        """The threshold in force for a request."""
        return self._law.threshold(job.threshold, job.follow, job.group or job.tenant)

    def route(self, job: Job, difficulty: float, *, images: int = 1, later: bool = False) -> int:
        """Which route answers an image of a request that `take` gave, or that was entered: EASY, HARD or DEGRADED.

        HARD uses a tenant's budget. `images` is how many images of the request get this route. With `later`, detector 2
        does its work for another request, `Job.second`, which costs no budget and only needs time.
        """
        with self._lock:
            if job.second:
                return self._law.second(job, images, self._clock())
            return self._law.route(job, difficulty, images, self._clock(), later=later)

    def done(self, job: Job, *, routes: Sequence[int]) -> None:
        """Count a request that is answered, with the route of each image; without routes one that failed.

        The worker is free once all requests of a `take` are done.
        """
        with self._lock:
            self._law.done(job, routes, self._clock())

    def state(self, *, threshold: float = 0.0, follow: Follow | None = None, tenant: str = "") -> State:
        """What metrics show, for an operating point with this threshold."""
        with self._lock:
            return self._law.state(threshold, follow, tenant, self._clock())

    def close(self) -> None:
        """Let workers end once nothing waits."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()


class _Turn:
    """The work of one worker between `take` and the last `done`."""

    __slots__ = ("busy", "degraded", "easy", "hard", "images", "jobs", "routed", "seconds", "started")

    def __init__(self, started: float, *, jobs: int, images: int, busy: int) -> None:
        self.started, self.jobs, self.images, self.busy = started, jobs, images, busy
        self.routed = self.easy = self.hard = self.seconds = 0


class _Law:
    """The same without lock and clock."""

    _TICK_S = 0.1

    def __init__(self, *, workers: int, bound: int, now: float) -> None:
        self._workers = workers
        self.backlog = Backlog(bound=bound)
        self.late: list[tuple[Job, Refusal]] = []
        self._turns: set[_Turn] = set()
        self._pace = Pace(workers=workers)
        self._tenants = Tenants(now=now)
        self._margin = Margin()
        self._flooding: frozenset[str] = frozenset()
        self._utilisation = 0.9
        self._correction = Correction(now)
        self._promise_s = math.inf
        self._ticked = now
        self._seen_changes = 0

    @property
    def busy(self) -> int:
        return len(self._turns)

    def configure(self, rules: Mapping[str, TenantRule], now: float) -> None:
        self._tenants.configure(rules, now=now)
        self.backlog.shared = len(self._tenants) > 1

    def enter(self, job: Job, now: float) -> Refusal | None:
        self._arrived(job, now)
        easy = self._pace.easy(1)
        if job.is_strict and easy and now + easy.mean * job.images > job.due:
            return Refusal(reason=LATE, retry_after_s=easy.mean)
        self._tenants[job.group].allowance.admitted()
        self._begin([job], now)
        return None

    def admit(self, job: Job, now: float) -> Refusal | None:
        self._arrived(job, now)
        easy_s = self._pace.server_easy_s
        if not self.backlog.has_room(job.group):
            return Refusal(reason=FULL, retry_after_s=max(0.001, len(self.backlog) * easy_s / 2))
        if easy_s and job.due != math.inf:
            job.slack_s = job.due - self._finish(job, now) - self._margin.answers * easy_s
            if job.slack_s < 0 and not self._may_be_late(job):
                self._correction.answered(late=True)
                return Refusal(reason=LATE, retry_after_s=max(easy_s, -job.slack_s))
        self._tenants[job.group].allowance.admitted()
        self.backlog.add(job)
        return None

    def _arrived(self, job: Job, now: float) -> None:
        job.group = self._tenants.group(job.tenant)
        if not job.second:
            self._tenants.arrived(job.group, job.images, now)
        if job.follow is not None and job.follow.promise_s < self._promise_s:
            self._promise_s = job.follow.promise_s
        if now - self._ticked >= self._TICK_S:
            self._tick(now)

    def _finish(self, job: Job, now: float) -> float:
        """When a request that is let in now would have an easy answer."""
        easy_s, hard_s = self._pace.server_easy_s, self._pace.server_hard_s
        needed = 0.0
        for group, images in self.backlog.ahead(job):
            tenant = self._tenants[group]
            needed += images * easy_s
            if group != job.group and job.group in self._flooding and hard_s > easy_s:  # the other need not give way
                needed += images * min(tenant.gear.share, tenant.gear.due) * (hard_s - easy_s)
        own = self._pace.easy(self._workers)
        return float(now + self._in_progress(now) / self._workers + needed + own.mean * job.images)

    def _in_progress(self, now: float) -> float:
        """Time that the busy workers still need, in all."""
        busy = len(self._turns)
        easy_s, hard_s = self._pace.easy(busy).mean, self._pace.hard(busy).mean
        left = 0.0
        for turn in self._turns:
            needed = turn.hard * hard_s + (turn.images - turn.hard) * easy_s - (now - turn.started)
            if needed > 0:
                left += needed
        return left

    def _may_be_late(self, job: Job) -> bool:
        """Whether a request is let in though it will miss what its operating point promises."""
        if job.is_strict or job.slack_s < -_LATEST * (job.due - job.arrived):
            return False
        return bool(self._tenants[job.group].allowance.take())

    def take(self, most: int, now: float) -> list[Job]:
        jobs: list[Job] = []
        images = 0
        while (first := self.backlog.first()) is not None:
            if jobs and images + first.images > most:
                break
            job = self.backlog.take()
            if self._is_too_late(job, now):
                self.late.append((job, Refusal(reason=LATE, retry_after_s=self._pace.server_easy_s)))
                self._margin.learn(late=True)
                self._correction.answered(late=True)
                continue
            jobs.append(job)
            images += job.images
        if jobs:
            self._begin(jobs, now)
        return jobs

    def _is_too_late(self, job: Job, now: float) -> bool:
        easy = self._pace.easy(len(self._turns) + 1)
        if job.due == math.inf or not easy:
            return False
        over = now + easy.mean * job.images - job.due
        may_be_late = self._tenants[job.group].allowance.is_open and not job.is_strict
        return bool(over > (_LATEST * (job.due - job.arrived) if may_be_late else 0.0))

    def _begin(self, jobs: Sequence[Job], now: float) -> None:
        turn = _Turn(now, jobs=len(jobs), images=sum(job.images for job in jobs), busy=self.busy + 1)
        self._turns.add(turn)
        for job in jobs:
            job.turn = turn

    def threshold(self, base: float, follow: Follow | None, tenant: str) -> float:
        if follow is None:
            return base
        return float(min(follow.ceiling, max(follow.floor, self._tenants[tenant].gear.threshold)))

    def route(self, job: Job, difficulty: float, images: int, now: float, *, later: bool = False) -> int:
        turn, tenant = job.turn, self._tenants[job.group]
        if turn.routed == 0 and turn.images == 1:
            self._pace.first.add(now - turn.started)
        turn.routed += images
        floor = job.threshold if job.follow is None else job.follow.floor
        for _ in range(images):
            tenant.difficulties.add(difficulty)
            tenant.gear.saw(is_hard(difficulty, floor))
        route: int = EASY
        if is_hard(difficulty, self.threshold(job.threshold, job.follow, job.group)):
            fits = self._fits(job, images, now)
            if not fits:
                self._correction.degraded()
            if fits and tenant.bucket.take(images, now):
                route = HARD
            elif is_hard(difficulty, job.threshold):
                route = DEGRADED
        if route == HARD and not later:
            turn.hard += images
        else:
            turn.easy += images
        return route

    def second(self, job: Job, images: int, now: float) -> int:
        turn = job.turn
        turn.routed += images
        turn.seconds += images
        turn.hard += images
        return int(HARD if self._fits(job, images, now) else DEGRADED)

    def _fits(self, job: Job, images: int, now: float) -> bool:
        """Whether there is time for detector 2: until the job's own deadline, and those of the jobs that wait."""
        busy = len(self._turns)
        hard, easy = self._pace.hard(busy), self._pace.easy(busy)
        if not hard:
            return True
        turn = job.turn
        first_s = self._pace.first.mean if turn.images == 1 else 0.0
        hard_left = max(0.0, hard.high - first_s) * images
        if easy:
            hard_left += easy.mean * max(0, turn.images - turn.routed)
        if now + hard_left > job.due:
            return False
        if not len(self.backlog) or not easy:
            return True
        extra = max(0.0, hard.mean - easy.mean) * images
        easy_s = self._pace.server_easy_s
        latest = self.backlog.latest_start(easy_s, but=self._flooding - {job.group}) - self._margin.answers * easy_s
        return bool(now + (self._in_progress(now) + extra) / self._workers <= latest)

    def done(self, job: Job, routes: Sequence[int], now: float) -> None:
        turn = job.turn
        if turn is None:
            return
        job.turn = None
        turn.jobs -= 1
        if not routes:
            turn.images -= job.images
        elif job.due != math.inf:
            self._correction.answered(late=now > job.due)
            if job.slack_s is not None and 0 <= job.slack_s < 0.25 * (job.due - job.arrived):
                self._margin.learn(late=now > job.due)
        if turn.jobs:
            return
        self._turns.discard(turn)
        if routes and turn.images == turn.easy + turn.hard:
            spent_s = now - turn.started
            if turn.seconds:  # detector 1 has worked for an earlier request
                easy = self._pace.easy(turn.busy)
                if not easy or turn.seconds != turn.images:
                    return
                spent_s += easy.mean * turn.images
            self._pace.answered(spent_s, easy=turn.easy, hard=turn.hard, busy=turn.busy)

    def state(self, threshold: float, follow: Follow | None, tenant: str, now: float) -> State:
        if now - self._ticked >= self._TICK_S:
            self._tick(now)
        group = self._tenants.group(tenant)
        return State(
            threshold=self.threshold(threshold, follow, group),
            gear=self._tenants[group].gear.share,
            queue=len(self.backlog),
            busy=self.busy,
            per_s=sum(one.rate.per_s for one in self._tenants.active.values()),
            easy_s=self._pace.server_easy_s,
            hard_s=self._pace.server_hard_s,
            utilisation=self._utilisation,
        )

    def _tick(self, now: float) -> None:
        """Let thresholds follow what has been seen."""
        self._ticked = now
        self._tenants.roll(now)
        active = self._tenants.active
        changes = self._pace.jumps + sum(tenant.rate.changes for tenant in active.values())
        changed, self._seen_changes = changes != self._seen_changes, changes
        if changed:
            self._correction.begin(now)
        easy_s, hard_s = self._pace.server_easy_s, self._pace.server_hard_s
        if not easy_s or not hard_s:
            return
        per_s = sum(tenant.rate.per_s for tenant in active.values())
        self._target(per_s, easy_s, hard_s)
        demands = [one.rate.per_s * (easy_s + one.gear.due * max(0.0, hard_s - easy_s)) for one in active.values()]
        shares = fair_shares(demands, self._utilisation)
        spare = self._utilisation - sum(shares)
        self._correction.judge(
            may_rise=spare <= 0 and per_s * easy_s < 0.95,
            may_fall=any(one.gear.share > 0 for one in active.values()),
            now=now,
        )
        for tenant, share in zip(active.values(), shares, strict=True):
            self._shift(tenant, share + spare, changed, now)
        self._flooding = frozenset(name for name, tenant in active.items() if tenant.floods)

    def _shift(self, tenant: Tenant, utilisation: float, changed: bool, now: float) -> None:
        """Let a tenant's threshold follow the part of the server's time that it may use."""
        easy_s, hard_s, per_s = self._pace.server_easy_s, self._pace.server_hard_s, tenant.rate.per_s
        allowed = hard_share(utilisation=utilisation, per_s=per_s, easy_s=easy_s, hard_s=hard_s)
        allowed = min(allowed, tenant.rule.hard_per_s / per_s)
        tenant.floods = per_s * easy_s > utilisation
        sure = 1 - 2 * max(0.0, tenant.rate.uncertainty - 0.02)  # a short crowd at light load is no overload
        tenant.allowance.load_is(sure * per_s * easy_s * self._utilisation / max(1e-9, utilisation))
        scatter = tenant.rate.uncertainty * utilisation / per_s / max(1e-9, hard_s - easy_s)
        tenant.difficulties.refresh()
        tenant.gear.follow(allowed, tenant.difficulties, band=min(0.15, max(0.04, scatter)), changed=changed, now=now)

    def _target(self, per_s: float, easy_s: float, hard_s: float) -> None:
        """Set the part of its time that the server may work."""
        if self._promise_s == math.inf:
            return
        allowed = []
        for server_s, one in ((easy_s, self._pace.easy(self._workers)), (hard_s, self._pace.hard(self._workers))):
            target = target_utilisation(
                promise_s=self._promise_s,
                answer_s=one.mean,
                server_s=server_s,
                variation=(1.25 * one.deviation / one.mean) ** 2,
                workers=self._workers,
            )
            allowed.append(min(_MOST, target + self._correction.value))
        self._utilisation = capacity(
            all_easy=allowed[0], all_hard=allowed[1], per_s=per_s, easy_s=easy_s, hard_s=hard_s
        )
