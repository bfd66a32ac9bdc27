"""Makes the calls that a session asks for, through any sender, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, TypeVar

from dyndet_client.protocol import Call

T = TypeVar("T")
Flow: TypeAlias = Generator[Call, Any, T]


class InFlight:
    """Calls in flight in several threads that are cancelled together."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._cancels: set[Callable[[], object]] = set()

    def cancel(self) -> None:
        """Cancel all calls in flight and all later ones."""
        with self._lock:
            self.cancelled.set()
            cancels = list(self._cancels)
        for cancel in cancels:
            cancel()

    @contextmanager
    def holding(self, cancel: Callable[[], object]) -> Iterator[None]:
        """During a call: `cancel` ends it."""
        with self._lock:
            self._cancels.add(cancel)
            cancelled = self.cancelled.is_set()
        if cancelled:
            cancel()
        try:
            yield
        finally:
            with self._lock:
                self._cancels.discard(cancel)


class Sender(Protocol):
    """A blocking connection to a server; threads may share it."""

    @property
    def is_full(self) -> bool:
        """Whether a call would have to wait, because too many were given up."""

    def send(self, call: Call, in_flight: InFlight | None) -> Any:
        """Triton's answer. Raises only InferenceServerException."""

    def close(self, farewell: Flow[None]) -> None:
        """Make the last calls and end the connection; who still waits gets an error at once."""


class AsyncSender(Protocol):
    """A connection to a server for one event loop."""

    @property
    def is_full(self) -> bool:
        """Whether a call would have to wait, because too many were given up."""

    async def send(self, call: Call) -> Any:
        """Triton's answer. Raises only InferenceServerException."""

    async def close(self, farewell: Flow[None]) -> None:
        """Make the last calls and end the connection; who still waits gets an error at once."""


def run(flow: Flow[T], sender: Sender, in_flight: InFlight | None = None) -> T:
    """Make each call that the flow yields; returns its result."""
    try:
        call = next(flow)
        while True:
            try:
                answer = sender.send(call, in_flight)
            except BaseException as error:
                call = flow.throw(error)
            else:
                call = flow.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def run_async(flow: Flow[T], sender: AsyncSender) -> T:
    """`run` for an event loop."""
    try:
        call = next(flow)
        while True:
            try:
                answer = await sender.send(call)
            except BaseException as error:
                call = flow.throw(error)
            else:
                call = flow.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result
