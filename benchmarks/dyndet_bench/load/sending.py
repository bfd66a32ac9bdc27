"""Sends requests when they are due, whether or not earlier ones were answered; runs in processes of its own.

Latency counts from the moment when a request was due. What is outstanding is bounded: a request that is due while that
many wait is not sent, and counts as late.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import FloatArray, IntArray, UInt8Array
from dynamicdet.text import printable
from dyndet_bench.load.connections import CallError, Connections, Message
from dyndet_bench.load.messages import System, is_from_detector, is_refusal, request_head

ANSWERED, REFUSED, FAILED, UNSENT, UNANSWERED, CANCELLED = range(6)
"""what became of a request"""

_MOST_FAILURES = 50
"""calls that get no answer of the model before the server counts as gone"""
_MOST_SENTENCES, _LONGEST = 5, 300
_WARM_UP = 3

_GIVEN_UP_MS = 5
"""longest time until a request is given up that is to be"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The detector that gets the requests."""

    address: str
    """host:port of HTTP"""
    model: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process sends in one run. Arrays are in the order of arrivals."""

    system: System
    start: float
    """time.monotonic() at which the run begins; the same clock in all processes of a machine"""
    due_s: FloatArray
    """(requests,) from the start"""
    images: IntArray
    """(requests,) which image each sends"""
    cancelled: npt.NDArray[np.bool_]
    """(requests,) which are given up soon after they were sent"""
    most_outstanding: int
    drain_s: float
    """longest wait for answers after the last arrival"""


@dataclass(kw_only=True)
class Sent:
    """What became of the requests. Times are seconds from the start; NaN if there is none."""

    sent_s: FloatArray
    ended_s: FloatArray
    """when the answer, the refusal or the error arrived"""
    outcome: npt.NDArray[np.int8]
    answer: IntArray
    """place of the answer in `answers`; -1 if there is none"""
    answers: list[bytes]
    """different answers, as they were encoded"""
    sentences: list[str] = field(default_factory=list)
    """different errors, a few of them"""
    gone: bool = False
    """whether the server stopped answering"""


class Sender:
    """Sends the requests of jobs to one detector, from one process."""

    def __init__(self, target: Target, images: Sequence[UInt8Array], stop: Any) -> None:
        """`stop` is an event of multiprocessing: once it is set, nothing more is sent."""
        self._target, self._stop = target, stop
        self._shape = images[0].shape
        self._pixels = [image.tobytes() for image in images]
        self._loop = asyncio.new_event_loop()
        self._connections = Connections(target.address)
        allow_many_files()

    def open_loop(self, job: Job) -> Sent:
        """Send every request when it is due, and wait for the answers."""
        return self._run(_OpenLoop(self._connections, self._message(job.system), job, self._stop).run())

    def closed_loop(self, system: System, images: IntArray, concurrency: int, seconds: float) -> Sent:
        """Keep `concurrency` requests in flight for some seconds; `images` are sent in turn, each at least once.

        With 0 seconds, each of them is sent exactly once. The arrays of the result are in the order of sending.
        """
        return self._run(self._closed(system, images, concurrency, seconds))

    def _run(self, work: Coroutine[Any, Any, Sent]) -> Sent:
        return self._loop.run_until_complete(work)

    def _message(self, system: System) -> Callable[[int], Message]:
        """Makes the request of an image, by its number."""
        target = self._target
        head = request_head(system, model=target.model, address=target.address, shape=self._shape)
        return lambda image: Message(head, self._pixels[image])

    async def _closed(self, system: System, images: IntArray, concurrency: int, seconds: float) -> Sent:
        message, log = self._message(system), _Log()
        for _ in range(_WARM_UP):
            with suppress(CallError):
                await self._connections.call(message(int(images[0])))
        start = time.monotonic()
        sent: list[float] = []
        results: list[tuple[int, float, int]] = []

        async def one_after_another() -> None:
            while (time.monotonic() - start < seconds or len(sent) < len(images)) and not log.gone:
                if self._stop.is_set():
                    return
                number = len(sent)
                sent.append(time.monotonic() - start)
                results.append((UNANSWERED, np.nan, -1))
                outcome, answer = await log.outcome(self._connections.call(message(int(images[number % len(images)]))))
                results[number] = (outcome, time.monotonic() - start, answer)

        await asyncio.gather(*(one_after_another() for _ in range(concurrency)))
        outcomes, ended, answers = zip(*results, strict=True) if results else ((), (), ())
        return log.result(np.array(sent), np.array(ended, np.float64), np.array(outcomes), np.array(answers, np.int64))


class _Log:
    """Different answers and errors."""

    def __init__(self) -> None:
        self.gone = False
        self._answers: dict[bytes, int] = {}
        self._sentences: dict[str, None] = {}
        self._failures = 0

    async def outcome(self, call: Awaitable[bytes]) -> tuple[int, int]:
        """What became of a call, and the place of its answer."""
        try:
            encoded = await call
        except CallError as error:
            details = str(error)
            if is_refusal(details):
                return REFUSED, -1
            self.failed(details)
            if not is_from_detector(details):
                self._failures += 1
                self.gone = self._failures >= _MOST_FAILURES
            return FAILED, -1
        return ANSWERED, self._answers.setdefault(encoded, len(self._answers))

    def failed(self, sentence: str) -> None:
        """Note an error."""
        if len(self._sentences) < _MOST_SENTENCES:
            self._sentences.setdefault(printable(sentence.partition("\n")[0], limit=_LONGEST))

    def result(self, sent_s: FloatArray, ended_s: FloatArray, outcome: npt.NDArray[Any], answer: IntArray) -> Sent:
        return Sent(
            sent_s=sent_s,
            ended_s=ended_s,
            outcome=outcome.astype(np.int8),
            answer=answer,
            answers=list(self._answers),
            sentences=list(self._sentences),
            gone=self.gone,
        )


class _OpenLoop:
    """One job while it runs."""

    def __init__(
        self,
        connections: Connections,
        message: Callable[[int], Message],
        job: Job,
        stop: Any,
    ) -> None:
        self._connections, self._message, self._job, self._stop = connections, message, job, stop
        self._log = _Log()
        requests = job.due_s.size
        self._sent_s, self._ended_s = np.full(requests, np.nan), np.full(requests, np.nan)
        self._outcome = np.full(requests, UNSENT, np.int8)
        self._answer = np.full(requests, -1, np.int64)
        self._outstanding = 0

    async def run(self) -> Sent:
        with suppress(CallError):
            await self._connections.call(self._message(0))  # the first request of a connection is slower
        tasks: set[asyncio.Task[None]] = set()
        for number, due_s in enumerate(self._job.due_s):
            wait_s = float(due_s) - self._now()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif number % 8 == 0:
                await asyncio.sleep(0)  # behind: let answers be read, too
            if self._stop.is_set() or self._log.gone:
                break
            if self._outstanding >= self._job.most_outstanding:
                continue
            self._outstanding += 1
            self._sent_s[number] = self._now()
            self._outcome[number] = UNANSWERED
            task = asyncio.ensure_future(self._one(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await self._drain(tasks)
        result = self._log.result(self._sent_s, self._ended_s.copy(), self._outcome.copy(), self._answer.copy())
        if tasks:  # what is late beyond the limit counts as unanswered; its end is awaited all the same
            await asyncio.wait(tasks, timeout=self._job.drain_s)
        result.gone = self._log.gone
        return result

    async def _drain(self, tasks: set[asyncio.Task[None]]) -> None:
        until_s = self._now() + self._job.drain_s
        while tasks and self._now() < until_s:
            await asyncio.wait(tasks, timeout=0.2, return_when=asyncio.ALL_COMPLETED)

    async def _one(self, number: int) -> None:
        message = self._message(int(self._job.images[number]))
        try:
            if self._job.cancelled[number]:
                outcome, answer = await self._given_up(message, number), -1
            else:
                outcome, answer = await self._log.outcome(self._connections.call(message))
            self._outcome[number], self._answer[number] = outcome, answer
            self._ended_s[number] = self._now()
        finally:
            self._outstanding -= 1

    async def _given_up(self, message: Message, number: int) -> int:
        """Send a request, and give it up before the answer can be there."""
        try:
            await self._connections.give_up(message, 0.001 * (1 + number % _GIVEN_UP_MS))
        except CallError as error:
            self._log.failed(str(error))
            return FAILED
        return CANCELLED

    def _now(self) -> float:
        return time.monotonic() - self._job.start


def allow_many_files() -> None:
    """Let this process, and those that it starts, hold as many connections as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
