"""Calls of Triton's HTTP protocol in an event loop, one on each connection; connections are used again.

HTTP takes a fifth of the processor time that a gRPC client takes for the same pixels, which the server would lose on
the same machine. And a connection can be closed at any time, while a cancelled gRPC call can end a tritonserver before
release 25.06.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass

from dyndet_bench.load.messages import JSON_LENGTH

_LARGEST = 64 << 20
"""bytes of an answer"""
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_JSON = re.compile(rb"^inference-header-content-length: *(\d{1,12})\r?$", re.IGNORECASE | re.MULTILINE)
_BODY = re.compile(rb"^content-length: *(\d{1,12})\r?$", re.IGNORECASE | re.MULTILINE)


class CallError(Exception):
    """The server answered with an error, or not at all."""


@dataclass(frozen=True)
class Message:
    """A request: what stands before the pixels, and the pixels."""

    head: bytes
    pixels: bytes


class Connections:
    """Connections to one server; use it in one event loop."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._idle: list[_Connection] = []

    async def call(self, message: Message) -> bytes:
        """The answer, as `messages.read_answer` takes it. Raises CallError."""
        connection = await self._connected()
        try:
            return await connection.ask(message)
        finally:
            if connection.is_free:
                self._idle.append(connection)

    async def give_up(self, message: Message, after_s: float) -> None:
        """Send a request, and close the connection some seconds later. Raises CallError."""
        connection = await self._connected()
        answer = asyncio.ensure_future(connection.ask(message))
        await asyncio.wait([answer], timeout=after_s)
        connection.close()
        await asyncio.gather(answer, return_exceptions=True)

    async def _connected(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_free:
                return connection
        try:
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        except OSError as error:
            raise CallError(f"no connection to the server ({error.strerror or error})") from error
        return connection


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._received = bytearray()
        self._body_from = self._whole = 0
        self._head = b""

    @property
    def is_free(self) -> bool:
        """Whether another request can be sent."""
        is_open = self._transport is not None and not self._transport.is_closing()
        return is_open and (self._answer is None or self._answer.done())

    def close(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, message: Message) -> bytes:
        """The answer to a request. Raises CallError."""
        assert self._transport is not None
        self._received.clear()
        self._whole = 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message.head)
        self._transport.write(message.pixels)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._fail(f"the server closed the connection{'' if exc is None else f' ({exc})'}")

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._received += data
        if not self._whole:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._head = bytes(self._received[:end])
            found = _BODY.search(self._head)
            if found is None or int(found[1]) > _LARGEST:
                self._fail("the server's answer is no answer of Triton's HTTP protocol")
                self.close()
                return
            self._body_from, self._whole = end + 4, end + 4 + int(found[1])
        if len(self._received) >= self._whole:
            self._finish(bytes(self._received[self._body_from : self._whole]))

    def _finish(self, body: bytes) -> None:
        status = _STATUS.match(self._head)
        if status is None or status[1] != b"200":
            self._fail(_error(body))
        elif self._answer is not None and not self._answer.done():
            length = _JSON.search(self._head)
            of_json = len(body) if length is None else int(length[1])
            self._answer.set_result(JSON_LENGTH.pack(min(of_json, len(body))) + body)

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(CallError(reason))


def _error(body: bytes) -> str:
    """The server's sentence."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return body[:300].decode(errors="replace") or "it gave no reason"
