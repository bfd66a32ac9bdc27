"""The queues of the model that takes image files: one for ordinary pictures, one for those that take long.

Needs only what the queue of every public model needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backlog import Follow, Job  # type: ignore[import-not-found]
from load import Load, Refusal  # type: ignore[import-not-found]
from operating_points import FILE_NAME, OperatingPoints  # type: ignore[import-not-found]
from pools import picture_pool  # type: ignore[import-not-found]
from workers import MOST_WAITING_BYTES, Workers  # type: ignore[import-not-found]

OPERATING_POINT = "dyndet_operating_point"


class Lane:
    """A queue with its own workers and threads for pictures."""

    def __init__(
        self,
        answer: Any,
        refuse: Any,
        *,
        threads: int,
        bound: int,
        most_bytes: int = MOST_WAITING_BYTES,
        niceness: int = 0,
    ) -> None:
        """`answer` and `refuse` as in `Workers`."""
        self.load = Load(workers=threads, bound=bound)
        self.pictures = picture_pool(niceness=niceness)
        self._workers = Workers(self.load, answer, refuse, threads=threads, most_bytes=most_bytes)

    @property
    def waiting(self) -> int:
        """Requests that wait here."""
        return int(self.load.state().queue)

    def admit(self, job: Job, size: int) -> Refusal | None:
        """Let a request wait, or say why not."""
        (refusal,) = self._workers.admit([job], [size])
        return refusal

    def begins(self, job: Job) -> None:
        """Note that all images of a request are taken up: this model has but one way to answer them."""
        self.load.route(job, 0.0, images=job.images)

    def send(self, request: Any, response: Any, size: int) -> None:
        """Send the response to a request that has waited here."""
        self._workers.send(request, response, size)

    def close(self) -> None:
        """Answer everything that waits, and stop the threads."""
        self._workers.close()
        self.pictures.shutdown()


class Promises:
    """What the detector beside this model promises, so that the time in this model's queue counts, too.

    If the detector is not beside it, as in a repository in a cloud, only the detector's own queue keeps the promise.
    """

    def __init__(self, path: Path, warn: Any) -> None:
        self._points: OperatingPoints | None = None
        try:
            self._points = OperatingPoints(path / FILE_NAME, warn)
        except ValueError:  # not there, or damaged: the detector says so
            return

    def refresh(self) -> None:
        """Read the file again if it was replaced."""
        if self._points is not None:
            self._points.refresh()

    def of(self, parameters: Mapping[str, Any], tenant: str) -> Follow | None:
        """What is promised to a request with these parameters that sets no threshold; None: nothing."""
        if self._points is None:
            return None
        name = str(parameters.get(OPERATING_POINT, self._points.of_tenant(tenant)))
        follow = self._points.follow(name)
        return None if follow is None else Follow(promise_s=follow.promise_s, floor=1.0)
