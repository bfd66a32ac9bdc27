"""The control of load: what the public model asks about every request. docs/load.md explains it.

Rendering puts this file beside every public model. Needs only Python.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from backlog import Follow, Job  # type: ignore[import-not-found]
from deciding import DEGRADED, EASY, HARD, Refusal  # type: ignore[import-not-found]
from law import Law, State  # type: ignore[import-not-found]
from tenants import TenantRule  # type: ignore[import-not-found]

__all__ = ["DEGRADED", "EASY", "HARD", "Follow", "Job", "Load", "Refusal", "State", "TenantRule"]


class Load:
    """Takes requests into a queue, hands them to workers, and says for each image which route answers it.

    All methods may be called from any thread. A request is `admit`ted and then comes out of `take`, or is `enter`ed;
    for each of its images `route` is called as soon as the difficulty is known, and at last `done`, also if it was
    cancelled or failed. Times of routes are measured between these calls, so nothing else has to be told.
    """

    def __init__(self, *, workers: int, bound: int = 1024, clock: Callable[[], float] = time.monotonic) -> None:
        self._law = Law(workers=workers, bound=bound, now=clock())
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
        with self._lock:
            refusals = [self._law.admit(job, self._clock()) for job in jobs]
            if self._sleeping:
                self._changed.notify(refusals.count(None))
            return refusals

    def take(self, most: int = 1, *, block: bool = True) -> list[Job] | None:
        """The next requests to compute, of at most `most` images (one request may have more), for one worker.

        Waits for requests; None once `close` was called and none waits. The list is empty if only requests were there
        whose time has run out, or if nothing waits and `block` is False. A worker asks `refused_late` each time.
        """
        with self._lock:
            while True:
                jobs: list[Job] = self._law.take(most, self._clock())
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
            late: list[tuple[Job, Refusal]] = self._law.late
            self._law.late = []
        return late

    def threshold(self, job: Job) -> float:
        """The threshold in force for a request."""
        return float(self._law.threshold(job))

    def route(self, job: Job, difficulty: float, *, images: int = 1, later: bool = False) -> int:
        """Which route answers an image of a request that `take` gave, or that was entered: EASY, HARD or DEGRADED.

        HARD uses a tenant's budget. `images` is how many images of the request get this route. With `later`, detector 2
        does its work for another request, `Job.second`, which costs no budget and only needs time.
        """
        with self._lock:
            if job.second:
                return int(self._law.second(job, images, self._clock()))
            return int(self._law.route(job, difficulty, images, self._clock(), later=later))

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
