"""Decides about requests: whether they may wait, when a worker takes them up, which route answers an image.

Rendering puts this file beside every public model. Needs only Python. Nothing here locks or reads a clock; times are
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backlog import Backlog, Follow, Job  # type: ignore[import-not-found]
from deciding import DEGRADED, EASY, FULL, HARD, LATE, Margin, Refusal, is_hard  # type: ignore[import-not-found]
from steering import Steering  # type: ignore[import-not-found]
from tenants import TenantRule  # type: ignore[import-not-found]

_PROMISED_LATE, _STRICT_LATE = 0.03, 0.02
"""shares of answers that may be late: of all with a promise, and of those that were close to a deadline of their own"""
_LATEST, _LATEST_TAKEN = 4.0, 1.0
"""how late an answer may be that only its operating point has promised, in units of the promise: when it comes, and
when its turn has come; a late answer is better than none for one that has waited"""


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


class _Turn:
    """The work of one worker between `take` and the last `done`."""

    __slots__ = ("busy", "easy", "hard", "images", "jobs", "routed", "seconds", "started")

    def __init__(self, started: float, *, jobs: int, images: int, busy: int) -> None:
        self.started, self.jobs, self.images, self.busy = started, jobs, images, busy
        self.routed = self.easy = self.hard = self.seconds = 0


_TRIED = 4
"""of so many requests that would be late on an idle server, one is tried"""


class Law:
    """What `Load` does, without its lock and its clock."""

    def __init__(self, *, workers: int, bound: int, now: float) -> None:
        self._workers = workers
        self.backlog = Backlog(bound=bound)
        self.late: list[tuple[Job, Refusal]] = []
        self._turns: set[_Turn] = set()
        self._steering = Steering(workers=workers, now=now)
        self._pace, self._tenants = self._steering.pace, self._steering.tenants
        self._strict, self._promised = Margin(late=_STRICT_LATE), Margin(late=_PROMISED_LATE)
        self._refused_idle = 0

    @property
    def busy(self) -> int:
        """Workers that compute."""
        return len(self._turns)

    def configure(self, rules: Mapping[str, TenantRule], now: float) -> None:
        """Put the rules of tenants into force."""
        self._steering.configure(rules, now)
        self.backlog.shared = len(self._tenants) > 1

    def enter(self, job: Job, now: float) -> Refusal | None:
        """Begin a request at once, or say why not.

        Nobody waits, so one in four that would be late is tried: what is refused is not measured, and an estimate that
        became wrong, such as that of a cold start, would stay for ever.
        """
        self._arrived(job, now)
        easy = self._pace.easy(1)
        if job.is_strict and easy and now + easy.mean * job.images > job.due:
            self._refused_idle += 1
            if self._refused_idle % _TRIED or now >= job.due:
                return Refusal(reason=LATE, retry_after_s=easy.mean)
        self._tenants[job.group].allowance.admitted()
        self._begin([job], now)
        return None

    def admit(self, job: Job, now: float) -> Refusal | None:
        """Let a request wait, or say why not."""
        self._arrived(job, now)
        easy_s = self._pace.server_easy_s
        if not self.backlog.has_room(job.group):
            return Refusal(reason=FULL, retry_after_s=max(0.001, len(self.backlog) * easy_s / 2))
        if easy_s and job.due != math.inf:
            job.slack_s = job.due - self._finish(job, now) - self._margin(job) * easy_s
            if job.slack_s < 0 and not self._may_be_late(job):
                self._steering.correction.answered(late=True)
                return Refusal(reason=LATE, retry_after_s=self._wait_s(job))
        self._tenants[job.group].allowance.admitted()
        self.backlog.add(job)
        return None

    def _arrived(self, job: Job, now: float) -> None:
        job.group = self._tenants.group(job.tenant)
        self._steering.arrived(job, now)

    def _finish(self, job: Job, now: float) -> float:
        """When a request that is let in now would have an easy answer."""
        easy_s, hard_s = self._pace.server_easy_s, self._pace.server_hard_s
        needed = 0.0
        for group, images in self.backlog.ahead(job):
            tenant = self._tenants[group]
            needed += images * easy_s
            if (
                group != job.group and job.group in self._steering.flooding and hard_s > easy_s
            ):  # the other need not give way
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

    def _margin(self, job: Job) -> float:
        """What a prediction for a request must leave, in easy answers."""
        return float((self._strict if job.is_strict else self._promised).answers)

    def _learn(self, job: Job, *, late: bool) -> None:
        """Count whether a request that has waited was late.

        A promise is about all answers, so all count but those that were let in as late. Deadlines differ, so only
        answers that were predicted to be close say whether a prediction was good.
        """
        if job.slack_s is None or job.slack_s < 0:
            return
        if not job.is_strict:
            self._promised.learn(late=late)
        elif job.slack_s < 0.25 * (job.due - job.arrived):
            self._strict.learn(late=late)

    def _wait_s(self, job: Job) -> float:
        """After which a request that would be late may come again: what is missing, or more where much is missing."""
        floods = job.group in self._steering.flooding
        fair_s = 0.5 * (job.due - job.arrived) if floods else 0.0
        return float(max(self._pace.server_easy_s, -job.slack_s, fair_s))

    def _may_be_late(self, job: Job) -> bool:
        """Whether a request is let in though it will miss what its operating point promises."""
        if job.is_strict or job.slack_s < -_LATEST * (job.due - job.arrived):
            return False
        return bool(self._tenants[job.group].allowance.take())

    def take(self, most: int, now: float) -> list[Job]:
        """The next requests for one worker; those whose time has run out go to `late`."""
        jobs: list[Job] = []
        images = 0
        while (first := self.backlog.first()) is not None:
            if jobs and images + first.images > most:
                break
            job = self.backlog.take()
            if self._is_too_late(job, now):
                self.late.append((job, Refusal(reason=LATE, retry_after_s=self._pace.server_easy_s)))
                self._learn(job, late=True)
                self._steering.correction.answered(late=True)
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
        floods = self.backlog.shared and job.group in self._steering.flooding
        return bool(over > (0.0 if job.is_strict or floods else _LATEST_TAKEN * (job.due - job.arrived)))

    def _begin(self, jobs: Sequence[Job], now: float) -> None:
        turn = _Turn(now, jobs=len(jobs), images=sum(job.images for job in jobs), busy=self.busy + 1)
        self._turns.add(turn)
        for job in jobs:
            job.turn = turn

    def threshold(self, job: Job) -> float:
        """The threshold in force for a request."""
        return float(self._steering.threshold(job.threshold, job.follow, job.group))

    def route(self, job: Job, difficulty: float, images: int, now: float, *, later: bool = False) -> int:
        """Which route answers images of a request."""
        turn, tenant = job.turn, self._tenants[job.group]
        if turn.routed == 0 and turn.images == 1:
            self._pace.first.add(now - turn.started)
        turn.routed += images
        floor = job.threshold if job.follow is None else job.follow.floor
        for _ in range(images):
            tenant.difficulties.add(difficulty)
            tenant.gear.saw(is_hard(difficulty, floor))
        route: int = EASY
        if is_hard(difficulty, self.threshold(job)):
            fits = self._fits(job, images, now)
            if not fits:
                self._steering.correction.degraded()
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
        """The same for images that an earlier request has found hard, and has paid for."""
        turn = job.turn
        turn.routed += images
        turn.seconds += images
        turn.hard += images
        return int(HARD if self._fits(job, images, now) else DEGRADED)

    def _fits(self, job: Job, images: int, now: float) -> bool:
        """Whether there is time for detector 2: until the job's own deadline, and those of the jobs that wait.

        A request without promise and deadline is answered as its threshold says, whoever waits.
        """
        if job.due == math.inf:
            return True
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
        latest = (
            self.backlog.latest_start(easy_s, but=self._steering.flooding - {job.group}) - self._margin(job) * easy_s
        )
        return bool(now + (self._in_progress(now) + extra) / self._workers <= latest)

    def done(self, job: Job, routes: Sequence[int], now: float) -> None:
        """Count a request that is answered or failed, and the time of its worker if that is free now."""
        turn = job.turn
        if turn is None:
            return
        job.turn = None
        turn.jobs -= 1
        if not routes:
            turn.images -= job.images
        elif job.due != math.inf:
            self._steering.correction.answered(late=now > job.due)
            if job.slack_s is not None and job.slack_s < 0 and now <= job.due:
                self._tenants[job.group].allowance.give_back()
            self._learn(job, late=now > job.due)
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
        """What metrics show."""
        self._steering.tick(now)
        group = self._tenants.group(tenant)
        return State(
            threshold=self._steering.threshold(threshold, follow, group),
            gear=self._tenants[group].gear.share,
            queue=len(self.backlog),
            busy=self.busy,
            per_s=sum(one.rate.per_s for one in self._tenants.active.values()),
            easy_s=self._pace.server_easy_s,
            hard_s=self._pace.server_hard_s,
            utilisation=self._steering.utilisation,
        )
