"""A model's own queue: threads that answer what waits in it, and one that sends the answers.

While nothing waits, a model answers in `execute`, which costs nothing. Otherwise `execute` puts requests into the queue
and returns at once, so that the model knows what waits, how long, and for whom. Rendering puts this file beside every
public model. Needs only Triton's own module.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import triton_python_backend_utils as pb_utils
from backlog import Job  # type: ignore[import-not-found]
from deciding import FULL  # type: ignore[import-not-found]
from load import Load, Refusal  # type: ignore[import-not-found]
from room import Room  # type: ignore[import-not-found]

MOST_WAITING_BYTES = 64 << 20
"""of waiting requests in each queue. `dyndet_builder.repository.memory` counts them in what /dev/shm must hold."""


class Sender:
    """Sends responses in a thread of its own: `send` waits for the server, and the next request can run meanwhile."""

    def __init__(self) -> None:
        self._responses: queue.SimpleQueue[tuple[Any, Any, Callable[[], None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="sender", daemon=True)
        self._thread.start()

    def send(self, request: Any, response: Any, then: Callable[[], None]) -> None:
        """Send the only response to a request soon, and call `then`. Nothing may use the request any more."""
        self._responses.put((request, response, then))

    def close(self) -> None:
        """Wait until everything is sent."""
        self._responses.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (due := self._responses.get()) is not None:
            request, response, then = due
            try:
                request.get_response_sender().send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            except Exception as error:
                pb_utils.Logger.log_warn(f"an answer was not sent: {type(error).__name__}: {error}")
            then()
            del due, request, response, then  # or they would be held until the next one comes


class Workers:
    """The queue of one model and the threads that answer what waits in it."""

    def __init__(
        self,
        load: Load,
        answer: Callable[[list[Job]], None],
        refuse: Callable[[Job, Refusal], None],
        *,
        threads: int,
        most: int = 1,
        most_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        """`answer` gets requests of up to `most` images, `refuse` each whose time has run out while it waited.

        Both send a response for every request here, and raise nothing.
        """
        self._load, self._answer, self._refuse, self._most = load, answer, refuse, most
        self._room = Room(most_bytes)
        self._sender = Sender()
        self._outstanding = 0
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=f"worker-{row}") for row in range(threads)]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def admit(self, jobs: Sequence[Job], sizes: Sequence[int]) -> list[Refusal | None]:
        """Let requests of so many bytes wait, or say why not.

        If too many bytes wait, a request that must be answered in time is refused. Another one waits here, and with it
        all that comes later waits in Triton's queue, whose memory is given back.
        """
        entered = [self._room.enter(size, waits=job.due == inf) for job, size in zip(jobs, sizes, strict=True)]
        inside = [job for job, is_in in zip(jobs, entered, strict=True) if is_in]
        with self._changed:
            self._outstanding += len(inside)
        refusals = iter(self._load.admit_all(inside))
        found = [next(refusals) if is_in else _no_room(job) for job, is_in in zip(jobs, entered, strict=True)]
        for refusal, is_in, size in zip(found, entered, sizes, strict=True):
            if is_in and refusal is not None:
                self._left(size)
        return found

    def send(self, request: Any, response: Any, size: int) -> None:
        """Send the response to a request that was admitted with so many bytes."""
        self._sender.send(request, response, lambda: self._left(size))

    def close(self) -> None:
        """Answer everything that waits, and stop the threads."""
        with self._changed:
            self._changed.wait_for(lambda: self._outstanding == 0)
        self._load.close()
        for thread in self._threads:
            thread.join()
        self._sender.close()

    def _left(self, size: int) -> None:
        self._room.leave(size)
        with self._changed:
            self._outstanding -= 1
            self._changed.notify_all()

    def _work(self) -> None:
        jobs: list[Job] | None
        while (jobs := self._load.take(self._most)) is not None:
            for job, refusal in self._load.refused_late():
                self._refuse(job, refusal)
                del job
            if jobs:
                self._answer(jobs)
            del jobs  # or its picture would be held while this thread waits


def _no_room(job: Job) -> Refusal:
    return Refusal(reason=FULL, retry_after_s=job.due - job.arrived)
