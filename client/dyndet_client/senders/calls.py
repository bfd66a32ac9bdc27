"""Calls that end on the server, whatever becomes of those who wait for them.

tritonserver before 25.06 can end by SIGSEGV if a gRPC call is cancelled, and a deadline that passes on the wire cancels
too. So a call is made by a resident thread, with a deadline on the wire that lies well behind. Who waits for it waits
for the handed-over outcome, and may stop waiting at any time: the call is then abandoned, and ends when the server
answers. Handing over costs 0.04 ms; a future of gRPC, which starts a thread each time, costs 0.2 to 0.45 ms.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from tritonclient.utils import InferenceServerException

from dyndet_client.settings import AbandonedCalls

_IDLE_S = 10.0
"""A thread without work ends after this time."""


@dataclass(frozen=True)
class Outcome:
    """What a call gave, or why nobody is to wait for it any more."""

    answer: Any = None
    error: BaseException | None = None

    def get(self) -> Any:
        """The answer. Raises the error."""
        if self.error is not None:
            raise self.error
        return self.answer


def cancelled(reason: str) -> Outcome:
    """What those get who wait for a call that goes on without them."""
    return Outcome(error=InferenceServerException(reason, status="CANCELLED"))


class Pending:
    """One call on the wire."""

    def __init__(
        self, make: Callable[[], Any], ended: Callable[[], object], deliver: Callable[[Outcome], object]
    ) -> None:
        self.make, self.ended, self.deliver = make, ended, deliver
        self.is_over = self.is_abandoned = False


class Calls:
    """The calls of one connection, and the threads that make them. Threads and event loops may share it."""

    def __init__(self, limits: AbandonedCalls) -> None:
        self.limits = limits
        self.abandoned = 0
        """calls on the wire for which nobody waits"""
        # Reentrant: a detector may be garbage-collected, and so closed, at any point of a thread that holds the lock.
        self._lock = threading.RLock()
        self._on_wire: set[Pending] = set()
        self._idle: list[SimpleQueue[Pending | None]] = []
        self._places: set[Callable[[], object]] = set()
        self._all_ended = threading.Event()
        self._all_ended.set()
        self._stopped = False

    @property
    def is_full(self) -> bool:
        """Whether so many calls are abandoned that a further one is to wait."""
        return self.abandoned >= self.limits.limit and not self._stopped

    @property
    def is_idle(self) -> bool:
        """Whether no call is on the wire."""
        return self._all_ended.is_set()

    def start(
        self,
        make: Callable[[], Any],
        *,
        ended: Callable[[], object],
        deliver: Callable[[Outcome], object],
        is_last: bool = False,
    ) -> Pending:
        """Have `make` called by a thread of ours.

        `deliver` gets the outcome, from that thread; `ended` is called when the call is off the wire, also if it was
        abandoned. Once `stop` was called, only the last calls are made, those that take leave of the server.
        """
        pending = Pending(make, ended, deliver)
        with self._lock:
            refused = self._stopped and not is_last
            if not refused:
                self._on_wire.add(pending)
                self._all_ended.clear()
            inbox = self._idle.pop() if self._idle and not refused else None
        if refused:
            ended()
            deliver(cancelled("the connection is closed"))
        elif inbox is None:
            self._start_thread(pending)
        else:
            inbox.put(pending)
        return pending

    def abandon(self, pending: Pending) -> None:
        """Stop waiting; nothing happens if the call is over."""
        with self._lock:
            if not pending.is_over and not pending.is_abandoned:
                pending.is_abandoned = True
                self.abandoned += 1

    def stop(self) -> None:
        """Wake all who wait, and let nobody start a further call."""
        with self._lock:
            self._stopped = True
            waiting, places = list(self._on_wire), list(self._places)
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)
        for pending in waiting:
            pending.deliver(cancelled("the connection is closed"))
        for tell in places:
            tell()

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until all calls are off the wire. False if some are not after this time."""
        return self._all_ended.wait(timeout_s)

    @contextmanager
    def telling_of_places(self, tell: Callable[[], object]) -> Iterator[None]:
        """Meanwhile, call `tell` each time when an abandoned call has ended."""
        with self._lock:
            self._places.add(tell)
        try:
            yield
        finally:
            with self._lock:
                self._places.discard(tell)

    def _start_thread(self, pending: Pending) -> None:
        inbox: SimpleQueue[Pending | None] = SimpleQueue()
        inbox.put(pending)
        try:
            threading.Thread(target=self._work, args=(inbox,), name="dyndet-call", daemon=True).start()
        except RuntimeError:  # Python refuses new threads while the interpreter ends
            inbox.put(None)
            self._work(inbox)

    def _work(self, inbox: SimpleQueue[Pending | None]) -> None:
        while True:
            try:
                pending = inbox.get(timeout=_IDLE_S)
            except Empty:
                with self._lock:
                    if inbox in self._idle:
                        self._idle.remove(inbox)
                        return
                continue  # it was chosen just now
            if pending is None:
                return
            goes_on = self._make(pending, inbox)
            del pending  # else an idle thread would keep the last image
            if not goes_on:
                return

    def _make(self, pending: Pending, inbox: SimpleQueue[Pending | None]) -> bool:
        """Make the call and deliver its outcome; whether the thread is wanted any longer."""
        try:
            outcome = Outcome(pending.make())
        except BaseException as error:
            outcome = Outcome(error=error)
        pending.ended()
        with self._lock:
            pending.is_over = True
            was_abandoned, places = pending.is_abandoned, list(self._places)
            self.abandoned -= was_abandoned
            self._on_wire.discard(pending)
            if not self._on_wire:
                self._all_ended.set()
            goes_on = not self._stopped
            if goes_on:  # before the outcome is known: who gets it may start the next call at once
                self._idle.append(inbox)
        if was_abandoned:
            for tell in places:
                tell()
        else:
            pending.deliver(outcome)
        return goes_on


def left_s(end: float) -> float:
    """Seconds until a time of the monotonic clock; 0 if it has passed."""
    return max(end - time.monotonic(), 0.0)
