"""An open loop: requests leave at the times of a Poisson process, whether or not earlier ones were answered.

perf_analyzer counts from the moment when a request was really sent, so the wait in its own queue is missing. Here,
latency counts from the moment when a request was due. It includes the wait in the client, on the way and in the server.

Calls end on the server: cancelled calls can end a tritonserver before release 25.06. A run that is over waits for the
answers to what it has sent, for a bounded time. Its calls have a deadline on the wire that is far behind.
"""

from __future__ import annotations

import asyncio
import functools
import math
import selectors
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from dynamicdet.aliases import FloatArray, UInt8Array
from dynamicdet.errors import InputError, ServerError
from dyndet_bench.measuring.counters import RouteCounts
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.measure import PERCENTILES, Run
from dyndet_bench.measuring.served import Served
from dyndet_client.codec import OUTPUTS
from dyndet_client.errors import ServerUnreachableError

_Send = Callable[..., Awaitable[Any]]

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)
_WIRE_S = 600.0
"""how far the deadline on the wire is behind our own"""
_WARM_UP = 4  # the first request of a connection is slower
_CLIENT_LIMIT = 0.1
_HARD = 2


@dataclass(frozen=True, kw_only=True)
class OpenLoopRun:
    """The measurements of one open loop; arrays are in order of sending."""

    threshold: float | None
    load: Load
    latencies_ms: FloatArray
    """(requests,) from the time a request was due to its answer"""
    send_lag_ms: FloatArray
    """(requests,) how late each request left the client; part of its latency"""
    routes: npt.NDArray[np.int32]
    """(requests, batch) as answered: 1 easy, 2 hard, negative if detector 1 replaced detector 2"""
    achieved_rate_per_s: float
    """requests answered a second, from the start to the last answer"""
    counts: RouteCounts
    """from the server's own counters, without warm-up requests"""

    @property
    def client_share(self) -> float:
        """Share of the total latency that is the client's own delay in sending."""
        return float(self.send_lag_ms.sum() / self.latencies_ms.sum())

    @property
    def warning(self) -> str | None:
        """One sentence if the client did not send on time: the latencies then say less about the server."""
        if self.client_share <= _CLIENT_LIMIT:
            return None
        return (
            f"the client did not keep up with {self.load}: it sent requests {np.median(self.send_lag_ms):.1f} ms late "
            f"(median; at most {self.send_lag_ms.max():.1f} ms), which is {self.client_share:.0%} of the measured "
            "latency"
        )

    def as_run(self) -> Run:
        """The same in the form of a run of perf_analyzer, with all latencies."""
        return Run(
            threshold=self.threshold,
            requests=self.latencies_ms.size,
            mean_ms=float(self.latencies_ms.mean()),
            percentiles_ms={
                percent: float(np.quantile(self.latencies_ms, percent / 100, method="inverted_cdf"))
                for percent in PERCENTILES
            },
            throughput_per_s=self.achieved_rate_per_s * self.load.batch,
            counts=self.counts,
            latencies_ms=self.latencies_ms,
        )


def arrivals_s(rate: float, requests: int, seed: int = 0) -> FloatArray:
    """When each request is due, seconds from the start, (requests,): a Poisson process with `rate` arrivals a second.

    Raises InputError for a rate or a number of requests that is not positive.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"the request rate must be a positive number of requests a second, got {rate}")
    if requests < 1:
        raise InputError(f"a measurement needs at least one request, got {requests}")
    gaps = np.random.default_rng(seed).exponential(1.0 / rate, requests)
    due: FloatArray = np.cumsum(gaps)
    return due


def measure_open_loop(
    served: Served,
    images: Sequence[UInt8Array],
    *,
    load: Load,
    threshold: float | None,
    requests: int,
    seed: int = 0,
    timeout_s: float = 300.0,
    max_backlog_bytes: int = 2**29,
    drain_s: float = 60.0,
) -> OpenLoopRun:
    """Send `requests` requests at `load.request_rate`, and measure each one's latency from the time it was due.

    `images` (H, W, 3) uint8, fitted, are sent in the given order, again from the first after the last. A request
    demands all six outputs, like a client that detects objects. Requests are encoded before the clock starts.

    A run that ends early, also by Ctrl-C, sends nothing more, and waits up to `drain_s` for the answers that are due.
    Answers that are still missing then are left to the server.

    Raises InputError for a load without a rate, and if the arrivals alone take longer than `timeout_s`; ServerError if
    the server fails or dies, has not answered everything after `timeout_s`, or leaves more than `max_backlog_bytes` of
    requests unanswered.
    """
    rate = load.request_rate
    if rate is None:
        raise InputError("an open loop needs a request rate; perf_analyzer measures closed loops")
    if not images:
        raise InputError("an open loop needs at least one image")
    due = arrivals_s(rate, requests, seed)
    if due[-1] >= timeout_s:
        raise InputError(f"{requests} requests at {rate} a second take {due[-1]:.0f} s, more than {timeout_s:g} s")
    encoded = _encode(served, images, load.batch, requests, served.sent_threshold(threshold))
    loop = _Loop(served, load, encoded, due, timeout_s, max_backlog_bytes, drain_s)
    _run(loop.measure())
    return OpenLoopRun(
        threshold=threshold,
        load=load,
        latencies_ms=(loop.answered_s - due) * 1e3,
        send_lag_ms=(loop.sent_s - due) * 1e3,
        routes=loop.routes,
        achieved_rate_per_s=requests / float(loop.answered_s.max()),
        counts=loop.counts,
    )


class _Loop:
    """One measurement: what to send when, and what came back. Times are seconds from the start."""

    def __init__(
        self,
        served: Served,
        load: Load,
        encoded: Sequence[bytes],
        due: FloatArray,
        timeout_s: float,
        max_backlog_bytes: int,
        drain_s: float,
    ) -> None:
        self._served = served
        self._load = load
        self._encoded = encoded
        self._due = due
        self._timeout_s = timeout_s
        self._max_backlog_bytes = max_backlog_bytes
        self._drain_s = drain_s
        self._calls: set[asyncio.Future[Any]] = set()  # sent and not answered
        self.sent_s = np.full(due.shape, np.nan)
        self.answered_s = np.full(due.shape, np.nan)
        self.routes: npt.NDArray[np.int32] = np.zeros((due.size, load.batch), np.int32)
        self.counts = RouteCounts(total=0, hard=0)
        self._unanswered = 0  # requests
        self._start = 0.0

    async def measure(self) -> None:
        channel = grpc.aio.insecure_channel(self._served.address, options=_CHANNEL_OPTIONS)
        # Messages are sent as encoded bytes: Triton's own client would copy the image twice per request.
        send: _Send = channel.unary_unary(_METHOD, None, service_pb2.ModelInferResponse.FromString)
        try:
            before = self._served.counts()
            for number in range(_WARM_UP):
                await self._warm_up(send, number)
            before = self._served.counts_after(before, _WARM_UP * self._load.batch)
            await self._send_all(send)
            after = self._served.counts_after(before, self.routes.size)
            self.counts = after.since(before)
            if self._served.topology == "graph":  # the answers say what the server does not count
                self.counts = replace(self.counts, hard=int((self.routes == _HARD).sum()))
        finally:
            await self._leave(channel)

    async def _send_all(self, send: _Send) -> None:
        # All requests sleep before the first is due: creating the tasks takes some 20 us each.
        self._start = time.perf_counter() + 0.05 + 1e-4 * self._due.size
        tasks = [asyncio.ensure_future(self._one(send, number)) for number in range(self._due.size)]
        try:
            left_s = self._timeout_s - self._now()
            done, pending = await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:  # ends their waiting, not their calls
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        if pending:
            raise self._behind()

    async def _leave(self, channel: grpc.aio.Channel) -> None:
        """Wait for the calls on their way, and close the channel: closing it earlier would cancel them."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._drain_s)
        _left.append((channel, self._calls))
        for channel, calls in [one for one in _left if all(call.done() for call in one[1])]:
            _left.remove((channel, calls))
            await channel.close()

    async def _one(self, send: _Send, number: int) -> None:
        await asyncio.sleep(self._due[number] - self._now())
        self.sent_s[number] = self._now()
        # Sending can keep the event loop too busy to notice the timeout.
        backlog_bytes = self._unanswered * len(self._encoded[0])
        if self.sent_s[number] > self._timeout_s or backlog_bytes > self._max_backlog_bytes:
            raise self._behind()
        self._unanswered += 1
        self.routes[number], self.answered_s[number] = await self._answer(send, number)
        self._unanswered -= 1

    async def _warm_up(self, send: _Send, number: int) -> None:
        try:
            await asyncio.wait_for(self._answer(send, number), self._timeout_s)
        except asyncio.TimeoutError:
            raise ServerError(
                f"no answer from model {self._served.name!r} at {self._served.address} within {self._timeout_s:g} s"
            ) from None

    async def _answer(self, send: _Send, number: int) -> tuple[npt.NDArray[np.int32], float]:
        """The routes, and when the answer came. The wait for it can be cancelled; the call itself goes on."""
        name, address = self._served.name, self._served.address
        answer = asyncio.ensure_future(self._call(send, number))
        self._calls.add(answer)
        answer.add_done_callback(self._calls.discard)
        response, answered_s = await asyncio.shield(answer)
        if isinstance(response, grpc.RpcError):
            reason = str(response.details() or "no reason given").strip().partition("\n")[0]
            if response.code() == grpc.StatusCode.UNAVAILABLE:
                raise ServerUnreachableError(f"the server at {address} stopped answering: {reason}") from response
            raise ServerError(f"model {name!r} at {address} answered with an error: {reason}") from response
        outputs = [output.name for output in response.outputs]
        try:
            routes = np.frombuffer(response.raw_output_contents[outputs.index("route")], np.int32)
            return routes.reshape(self._load.batch), answered_s
        except (ValueError, IndexError) as error:
            raise ServerError(f"model {name!r} at {address} gave a malformed answer: {error}") from error

    async def _call(self, send: _Send, number: int) -> tuple[Any, float]:
        """The answer or the error, so that no error of a call that was left goes unread."""
        wire_s = self._timeout_s + self._drain_s + _WIRE_S
        try:
            response = await send(self._encoded[number % len(self._encoded)], timeout=wire_s)
        except grpc.RpcError as error:
            response = error
        return response, self._now()

    def _now(self) -> float:
        return time.perf_counter() - self._start

    def _behind(self) -> ServerError:
        answered = int(np.isfinite(self.answered_s).sum())
        return ServerError(
            f"the server at {self._served.address} does not keep up with {self._load}: after {self._now():.1f} s it "
            f"has answered {answered} of {self._due.size} requests, and {self._unanswered} wait; give a lower rate"
        )


_left: list[tuple[grpc.aio.Channel, set[asyncio.Future[Any]]]] = []
"""channels with calls that a server did not answer in time; closing a channel would cancel its calls"""


def _encode(
    served: Served, images: Sequence[UInt8Array], batch: int, requests: int, threshold: float | None
) -> list[bytes]:
    """The messages of one cycle through the images: after that many, a batch begins with the first image again."""
    cycle = math.lcm(len(images), batch) // batch
    return [
        _message(served.name, np.stack([images[(first + index) % len(images)] for index in range(batch)]), threshold)
        for first in range(0, min(cycle, requests) * batch, batch)
    ]


def _message(model: str, images: UInt8Array, threshold: float | None) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    inputs = [("image", "UINT8", images)]  # (B, H, W, 3)
    if threshold is not None:
        inputs.append(("threshold", "FP32", np.full((len(images), 1), threshold, np.float32)))
    for name, datatype, array in inputs:
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    for name in OUTPUTS:
        request.outputs.add(name=name)
    encoded: bytes = request.SerializeToString()
    return encoded


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """The one loop of all measurements, never closed.

    gRPC reports the end of a cancelled call later. If its loop is closed by then, it logs errors for ever. This
    selector waits for fractions of a millisecond; epoll rounds timeouts up to whole milliseconds.
    """
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    loop = _event_loop()
    task = loop.create_task(coroutine)
    try:
        loop.run_until_complete(task)
    finally:
        if not task.done():  # Ctrl-C
            task.cancel()
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
