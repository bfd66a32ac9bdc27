"""Sends over gRPC, with Triton's own clients."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import grpc
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from dyndet_client.protocol import Call, no_place
from dyndet_client.senders.calls import Calls, Outcome, Pending, cancelled, left_s
from dyndet_client.senders.headers import call_headers
from dyndet_client.senders.run import Flow, InFlight, run
from dyndet_client.settings import Connection, read_pem

_LARGEST_ANSWER = 256 << 20
"""bytes; thousands of detections for each of a thousand images"""


class GrpcSender:
    """Sends over gRPC and waits."""

    def __init__(self, connection: Connection) -> None:
        self.calls = Calls(connection.abandoned_calls)
        self._connection = connection
        self._client = triton.InferenceServerClient(**_grpc_arguments(connection))
        self._closing = threading.Lock()
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether a call would have to wait, because too many were given up."""
        return self.calls.is_full

    def send(self, call: Call, in_flight: InFlight | None) -> Any:
        """Triton's answer."""
        if call.may_cancel:
            try:
                return self._send_cancelling(call, in_flight)
            finally:
                call.ended()
        end = time.monotonic() + call.timeout_s
        try:
            self._wait_for_place(end, in_flight)
        except BaseException:
            call.ended()
            raise
        outcomes: SimpleQueue[Outcome] = SimpleQueue()
        pending = self.start(call, outcomes.put)
        try:
            with _holding(in_flight, lambda: outcomes.put(cancelled("its loop was left"))):
                outcome = outcomes.get(timeout=left_s(end))
        except Empty as error:
            raise InferenceServerException("no answer in time", status="DEADLINE_EXCEEDED") from error
        finally:
            self.calls.abandon(pending)
        return outcome.get()

    def start(self, call: Call, deliver: Callable[[Outcome], object]) -> Pending:
        """Make the call in a thread, with a deadline on the wire well behind the caller's own."""
        make = partial(
            _call_patiently,
            getattr(self._client, call.method),
            **call.arguments,
            headers=call_headers(self._connection),
            client_timeout=call.timeout_s + self.calls.limits.grace_s,
        )
        return self.calls.start(make, ended=call.ended, deliver=deliver, is_last=call.is_last)

    def close(self, farewell: Flow[None]) -> None:
        """Make the last calls and end the connection: now, or in the background once no call is on the wire."""
        with self._closing:
            closed, self._closed = self._closed, True
        if closed:
            return
        self.calls.stop()
        if self.calls.is_idle:
            run(farewell, self)
        if self.calls.is_idle:
            self._client.close()
            return
        # While the interpreter ends, Python refuses new threads. Then the system ends the connection.
        with suppress(RuntimeError):
            threading.Thread(target=self._close_later, args=(farewell,), name="dyndet-close", daemon=True).start()

    def _close_later(self, farewell: Flow[None]) -> None:
        if self.calls.wait_until_idle(self.calls.limits.grace_s):
            run(farewell, self)  # the server may read shared memory until then; does nothing if it was run before
        self._client.close()

    def _send_cancelling(self, call: Call, in_flight: InFlight | None) -> Any:
        """With `in_flight`, an inference can be cancelled, which costs a change of threads."""
        arguments = {
            **call.arguments,
            "headers": call_headers(self._connection),
            "client_timeout": call.timeout_s,
        }
        with _closed_as_cancelled():
            if in_flight is None or call.method != "infer":
                return getattr(self._client, call.method)(**arguments)
            answers: SimpleQueue[Outcome] = SimpleQueue()
            under_way = self._client.async_infer(
                callback=lambda result, error: answers.put(Outcome(result, error)), **arguments
            )
            with in_flight.holding(under_way.cancel):
                return answers.get().get()

    def _wait_for_place(self, end: float, in_flight: InFlight | None) -> None:
        if self.calls.is_full:
            told: SimpleQueue[None] = SimpleQueue()
            with self.calls.telling_of_places(tell := partial(told.put, None)), _holding(in_flight, tell):
                while self.calls.is_full and not _is_cancelled(in_flight):
                    try:
                        told.get(timeout=left_s(end))
                    except Empty as error:
                        raise no_place(self.calls.abandoned) from error
        if _is_cancelled(in_flight):
            cancelled("its loop was left").get()


class AsyncGrpcSender:
    """Sends over gRPC in an event loop. The connection is made in the loop that sends first.

    Calls that must not be cancelled are made by threads: gRPC's own asyncio client cancels them when the loop ends.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._patient = GrpcSender(connection)
        self._client: Any = None

    @property
    def is_full(self) -> bool:
        """Whether a call would have to wait, because too many were given up."""
        return self._patient.is_full

    async def send(self, call: Call) -> Any:
        """Triton's answer."""
        if call.may_cancel:
            try:
                return await self._send_cancelling(call)
            finally:
                call.ended()
        loop = asyncio.get_running_loop()
        end = time.monotonic() + call.timeout_s
        try:
            await self._wait_for_place(loop, end)
        except BaseException:
            call.ended()
            raise
        waiter: asyncio.Future[Outcome] = loop.create_future()
        pending = self._patient.start(call, partial(_hand_over, loop, waiter))
        late = Outcome(error=InferenceServerException("no answer in time", status="DEADLINE_EXCEEDED"))
        timer = loop.call_later(left_s(end), _settle, waiter, late)
        try:
            outcome = await waiter
        finally:
            timer.cancel()
            self._patient.calls.abandon(pending)
        return outcome.get()

    async def close(self, farewell: Flow[None]) -> None:
        """Make the last calls and end the connection; see `GrpcSender.close`."""
        try:
            await asyncio.to_thread(self._patient.close, farewell)
        finally:
            if self._client is not None:
                await self._client.close()

    async def _send_cancelling(self, call: Call) -> Any:
        if self._client is None:
            import tritonclient.grpc.aio as triton_aio  # imported only if it is used

            self._client = triton_aio.InferenceServerClient(**_grpc_arguments(self._connection))
        method = getattr(self._client, call.method)
        headers = call_headers(self._connection)
        with _closed_as_cancelled():
            return await method(**call.arguments, headers=headers, client_timeout=call.timeout_s)

    async def _wait_for_place(self, loop: asyncio.AbstractEventLoop, end: float) -> None:
        calls = self._patient.calls
        if not calls.is_full:
            return
        told = asyncio.Event()
        with calls.telling_of_places(lambda: _soon(loop, told.set)):
            while calls.is_full:
                told.clear()
                try:
                    await asyncio.wait_for(told.wait(), left_s(end))
                except asyncio.TimeoutError as error:
                    raise no_place(calls.abandoned) from error


def _call_patiently(method: Callable[..., Any], **arguments: Any) -> Any:
    with _closed_as_cancelled():
        return method(**arguments)


def _hand_over(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[Outcome], outcome: Outcome) -> None:
    _soon(loop, _settle, waiter, outcome)


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: Any) -> None:
    with suppress(RuntimeError):  # the loop has ended, and nobody waits in it any more
        loop.call_soon_threadsafe(callback, *arguments)


def _settle(waiter: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not waiter.done():
        waiter.set_result(outcome)


def _is_cancelled(in_flight: InFlight | None) -> bool:
    return in_flight is not None and in_flight.cancelled.is_set()


def _holding(in_flight: InFlight | None, cancel: Callable[[], object]) -> AbstractContextManager[None]:
    return nullcontext() if in_flight is None else in_flight.holding(cancel)


@contextmanager
def _closed_as_cancelled() -> Iterator[None]:
    """Where the connection was closed meanwhile, gRPC raises ValueError or its own UsageError."""
    try:
        yield
    except (ValueError, grpc.aio.UsageError) as error:
        raise InferenceServerException(str(error), status="CANCELLED") from error


def _grpc_arguments(connection: Connection) -> dict[str, Any]:
    keep_alive = connection.keep_alive
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", _LARGEST_ANSWER),
        ("grpc.keepalive_time_ms", round(1e3 * keep_alive.interval_s)),
        ("grpc.keepalive_timeout_ms", round(1e3 * keep_alive.timeout_s)),
        ("grpc.keepalive_permit_without_calls", int(keep_alive.while_idle)),
        ("grpc.http2.max_pings_without_data", 0),  # as often as asked for
        # gRPC's own wait after a failed connection, a second at first, would use up our retries
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if connection.address.is_loopback:
        options.append(("grpc.enable_http_proxy", 0))  # a proxy cannot reach this machine's own loopback
    if connection.address.tls_name:
        options.append(("grpc.ssl_target_name_override", connection.address.tls_name))
    arguments: dict[str, Any] = {"url": str(connection.address), "channel_args": options}
    if connection.tls is not None:
        tls = connection.tls
        arguments["creds"] = grpc.ssl_channel_credentials(
            root_certificates=read_pem(tls.ca_file, "ca_file"),
            private_key=read_pem(tls.key_file, "key_file"),
            certificate_chain=read_pem(tls.certificate_file, "certificate_file"),
        )
    return arguments
