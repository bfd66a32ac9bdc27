"""The processes that send: as many as keep up, so that the client is not what is measured."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from types import TracebackType

import numpy as np

from dynamicdet.aliases import IntArray, UInt8Array
from dynamicdet.errors import InputError
from dyndet_bench.load.arrivals import MOST_PROCESSES, Arrivals
from dyndet_bench.load.messages import System
from dyndet_bench.load.sending import Job, Sender, Sent, Target

PER_PROCESS = 400.0
"""requests a second that one process sends on time; above, several share them"""
_LEAD_S = 0.3
"""time until the first request, in which every process gets its share"""


class Generators:
    """Processes that send to one detector; a context manager. Leaving waits until what was sent has been answered.

    Raises InputError for a number of processes out of range.
    """

    def __init__(self, target: Target, images: Sequence[UInt8Array], *, processes: int | None = None) -> None:
        """`processes`: how many send; None: as many as the rate of a run needs."""
        if processes is not None and not 1 <= processes <= MOST_PROCESSES:
            raise InputError(f"requests are sent by 1 to {MOST_PROCESSES} processes, got {processes}")
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._wanted = processes
        self._arguments = (target, tuple(images), self._stop)
        self._context = context
        self._pools: list[ProcessPoolExecutor] = []

    def __enter__(self) -> Generators:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def processes(self, peak_per_s: float) -> int:
        """How many send at this rate."""
        return self._wanted or min(MOST_PROCESSES, max(1, math.ceil(peak_per_s / PER_PROCESS)))

    def open_loop(
        self, system: System, arrivals: Arrivals, *, peak_per_s: float, most_outstanding: int, drain_s: float
    ) -> tuple[Sent, float]:
        """Send every request when it is due, from several processes if one would be late.

        Returns what became of them, and the time.monotonic() of the start.
        """
        count = self.processes(peak_per_s)
        pools = self._started(count)
        start = time.monotonic() + _LEAD_S
        whole = Job(
            system=system,
            start=start,
            due_s=arrivals.due_s,
            images=arrivals.images,
            cancelled=arrivals.cancelled,
            most_outstanding=max(1, most_outstanding // count),
            drain_s=drain_s,
        )
        parts = [slice(first, None, count) for first in range(count)]
        jobs = [
            replace(whole, due_s=whole.due_s[part], images=whole.images[part], cancelled=whole.cancelled[part])
            for part in parts
        ]
        running = [pool.submit(_open_loop, job) for pool, job in zip(pools, jobs, strict=True)]
        return _together(len(arrivals), parts, self._results(running)), start

    def closed_loop(self, system: System, images: IntArray, *, concurrency: int, seconds: float) -> Sent:
        """Keep some requests in flight; see `Sender.closed_loop`."""
        (pool, *_) = self._started(1)
        (sent,) = self._results([pool.submit(_closed_loop, system, images, concurrency, seconds)])
        return sent

    def _results(self, running: Sequence[Future[Sent]]) -> list[Sent]:
        try:
            return [one.result() for one in running]
        except BaseException:  # Ctrl-C: nothing more is sent
            self._stop.set()
            raise

    def _started(self, count: int) -> list[ProcessPoolExecutor]:
        """So many running processes, each with the images."""
        new = []
        while len(self._pools) < count:
            pool = ProcessPoolExecutor(1, self._context, initializer=_prepare, initargs=self._arguments)
            self._pools.append(pool)
            new.append(pool.submit(_ready))
        for one in new:
            one.result()
        return self._pools[:count]


def _together(requests: int, parts: Sequence[slice], results: Sequence[Sent]) -> Sent:
    """The results of several processes as one, in the order of arrivals."""
    sent_s, ended_s = np.full(requests, np.nan), np.full(requests, np.nan)
    outcome, answer = np.zeros(requests, np.int8), np.full(requests, -1, np.int64)
    places: dict[bytes, int] = {}
    for part, one in zip(parts, results, strict=True):
        sent_s[part], ended_s[part], outcome[part] = one.sent_s, one.ended_s, one.outcome
        where = np.array([places.setdefault(content, len(places)) for content in one.answers], np.int64)
        known = one.answer >= 0
        own = np.full(one.answer.shape, -1, np.int64)
        own[known] = where[one.answer[known]] if where.size else -1
        answer[part] = own
    return Sent(
        sent_s=sent_s,
        ended_s=ended_s,
        outcome=outcome,
        answer=answer,
        answers=list(places),
        sentences=list(dict.fromkeys(sentence for one in results for sentence in one.sentences)),
        gone=any(one.gone for one in results),
    )


_sender: Sender | None = None
"""of a process that sends"""


def _prepare(target: Target, images: Sequence[UInt8Array], stop: object) -> None:
    global _sender
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the process that started this one says when to stop
    threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    _sender = Sender(target, images, stop)


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, however it ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _ready() -> None:
    assert _sender is not None


def _open_loop(job: Job) -> Sent:
    assert _sender is not None
    return _sender.open_loop(job)


def _closed_loop(system: System, images: IntArray, concurrency: int, seconds: float) -> Sent:
    assert _sender is not None
    return _sender.closed_loop(system, images, concurrency, seconds)
