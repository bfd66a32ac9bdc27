"""Requests that wait for a worker: a bounded queue in which tenants take turns.

Rendering puts this file beside every public model. Needs only Python. Nothing here locks; `load.py` does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

_KEPT = 0.93
"""share of a promise that the model may use; the rest is for the way there and back"""
_SAVED = 4
"""images that a tenant may have answered in a row after it has left its turns to others"""
_MOST_KEPT = 1000


@dataclass(frozen=True, kw_only=True)
class Follow:
    """How the threshold of an operating point follows the load."""

    promise_s: float
    """95 % of the answers take at most this long from arrival"""
    floor: float
    """least threshold in force; usually that of the operating point"""
    ceiling: float = 1.0
    """greatest threshold in force"""


@dataclass(eq=False)
class Job:
    """A request, as the control of load sees it. Times are seconds of the clock of `Load`."""

    payload: Any
    arrived: float
    threshold: float
    """of its operating point, or its own"""
    deadline: float | None = None
    """which the request itself has asked for; a request without one has its operating point's promise"""
    priority: int = 0
    """0 to 9; a higher one is taken up first, among the requests of its tenant"""
    tenant: str = ""
    images: int = 1
    follow: Follow | None = None
    """None: nothing was promised, and the threshold stays as it is"""
    second: bool = False
    """whether only detector 2 is to answer, because an earlier request has found the images hard, and has paid"""
    due: float = field(default=math.inf, init=False)
    """when the answer is due: the deadline, else the promise"""
    group: str = field(default="", init=False)
    """the tenant whose turn it waits for; tenants without a rule share one turn"""
    turn: Any = field(default=None, init=False, repr=False)
    """the work that it is part of, once a worker has it"""
    slack_s: float | None = field(default=None, init=False)
    """time that was to be left at its deadline, as predicted when it was admitted"""

    def __post_init__(self) -> None:
        if self.deadline is not None:
            self.due = self.deadline
        elif self.follow is not None:
            self.due = self.arrived + _KEPT * self.follow.promise_s

    @property
    def is_strict(self) -> bool:
        """Whether an answer after `due` is worth nothing: the request has a deadline of its own."""
        return self.deadline is not None


class _Queue:
    """The waiting requests of a tenant: by priority, then by arrival."""

    def __init__(self) -> None:
        self.by_priority: dict[int, deque[Job]] = {}
        self.jobs = self.images = 0
        self.served = 0.0
        """images taken, in the virtual time that all tenants share"""

    def add(self, job: Job) -> None:
        if job.priority not in self.by_priority:
            self.by_priority[job.priority] = deque()
            self.by_priority = dict(sorted(self.by_priority.items(), reverse=True))
        self.by_priority[job.priority].append(job)
        self.jobs += 1
        self.images += job.images

    def first(self) -> Job:
        return next(iter(self.by_priority.values()))[0]

    def take(self) -> Job:
        priority, jobs = next(iter(self.by_priority.items()))
        job = jobs.popleft()
        if not jobs:
            del self.by_priority[priority]
        self.jobs -= 1
        self.images -= job.images
        self.served += job.images
        return job

    def images_before(self, priority: int) -> int:
        """Images of those that are taken before a new request of this priority."""
        if len(self.by_priority) == 1 and priority in self.by_priority:
            return self.images
        return sum(job.images for level, jobs in self.by_priority.items() if level >= priority for job in jobs)


class Backlog:
    """At most `bound` requests. Tenants that wait take turns by images, so a tenant waits mostly for its own.

    A tenant that seldom waits may be answered a few times in a row.

    If there are several tenants, none may fill the queue: one may have at most four times as many places as are free.
    """

    def __init__(self, *, bound: int) -> None:
        self._bound = bound
        self.shared = False
        """whether there are several tenants"""
        self._queues: dict[str, _Queue] = {}
        self._served: dict[str, float] = {}
        """of tenants that do not wait now"""
        self._now = 0.0
        """virtual time: how many images a tenant that always waits has been served"""
        self.images = 0
        self._jobs = 0

    def __len__(self) -> int:
        return self._jobs

    def waiting(self, group: str) -> int:
        """Requests of a tenant that wait."""
        queue = self._queues.get(group)
        return queue.jobs if queue else 0

    def has_room(self, group: str) -> bool:
        """Whether one more request of a tenant may wait."""
        free = self._bound - self._jobs
        return free > 0 and (not self.shared or self.waiting(group) < 4 * free)

    def add(self, job: Job) -> bool:
        """Let a request wait; False if there is no room."""
        if not self.has_room(job.group):
            return False
        queue = self._queues.get(job.group)
        if queue is None:
            queue = self._queues[job.group] = _Queue()
            queue.served = self._start(job.group)
        queue.add(job)
        self._jobs += 1
        self.images += job.images
        return True

    def first(self) -> Job | None:
        """The request whose turn it is; it goes on waiting."""
        return self._turn()[1].first() if self._jobs else None

    def take(self) -> Job | None:
        """The request whose turn it is, which waits no more; None if none waits."""
        if not self._jobs:
            return None
        group, queue = self._turn()
        self._now = max(self._now, queue.served)
        job = queue.take()
        if not queue.jobs:
            del self._queues[group]
            self._keep(group, queue.served)
        self._jobs -= 1
        self.images -= job.images
        return job

    def ahead(self, job: Job) -> list[tuple[str, int]]:
        """Images that would be taken before a request if it came now, by tenant."""
        own = self._queues.get(job.group)
        before = own.images_before(job.priority) if own else 0
        start = own.served if own else self._start(job.group)
        found = [(job.group, before)]
        if len(self._queues) > (own is not None):
            until = start + before
            for group, queue in self._queues.items():
                if queue is not own:
                    found.append((group, min(queue.images, max(0, math.ceil(until - queue.served) + 1))))
        return found

    def latest_start(self, easy_s: float, *, but: Container[str] = (), most: int = 16) -> float:
        """Until when the first of the waiting must be taken up, so that easy answers to all of them are in time.

        `easy_s` is the time that the server needs for one easy answer. Requests of the tenants in `but` do not count.
        Of a long queue, about `most` requests are looked at.
        """
        latest = math.inf
        for group, queue in self._queues.items():
            if group in but:
                continue
            others, turns = self.images - queue.images, len(self._queues) - 1
            each, before = queue.images / queue.jobs, 0.0
            step = 1 + queue.jobs // most
            for jobs in queue.by_priority.values():
                last = len(jobs) - 1
                for index in range(last % step, last + 1, step):
                    due = jobs[index].due
                    if due != math.inf:
                        ahead = before + each * (index + 1)
                        start = due - easy_s * (ahead + min(others, ahead * turns))
                        if start < latest:
                            latest = start
                before += each * len(jobs)
        return latest

    def _start(self, group: str) -> float:
        """Virtual time at which a tenant begins to wait: it may have saved a few turns."""
        return max(self._now - _SAVED, self._served.get(group, -math.inf))

    def _keep(self, group: str, served: float) -> None:
        self._served[group] = served
        if len(self._served) > 2 * _MOST_KEPT:
            self._served = {name: one for name, one in self._served.items() if one > self._now - _SAVED}

    def _turn(self) -> tuple[str, _Queue]:
        if len(self._queues) == 1:
            return next(iter(self._queues.items()))
        return min(self._queues.items(), key=lambda item: item[1].served)
