"""Sends over HTTP, with Triton's asyncio client (the extra `dyndet[http]`).

A `Detector` runs it in its own thread: threads must not share Triton's blocking HTTP client, and that client has no
deadline per call.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any

from tritonclient.utils import InferenceServerException

from dynamicdet.errors import InputError
from dynamicdet.extras import missing_extra
from dyndet_client.protocol import Call
from dyndet_client.senders.headers import call_headers
from dyndet_client.senders.run import Flow, InFlight, run, run_async
from dyndet_client.settings import Connection

_HTTP_CONNECTIONS = 100


class AsyncHttpSender:
    """Sends over HTTP in an event loop."""

    is_full = False

    def __init__(self, connection: Connection) -> None:
        try:
            import aiohttp
            import rapidjson  # what Triton's client reads answers with

            from dyndet_client.senders.answers import BoundedClient
        except (ImportError, RuntimeError) as error:  # RuntimeError: what Triton's client makes of it
            raise missing_extra(
                "HTTP needs packages that are not installed (gRPC, host:8001, does not)", "aiohttp", among=("http",)
            ) from error
        self._connection, self._make = connection, BoundedClient
        self._failures = (aiohttp.ClientError, OSError)
        self._no_http = aiohttp.ClientResponseError
        # The others come from JSON that is nested too deep, or of another form.
        self._no_json = (rapidjson.JSONDecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError)
        self._client: Any = None
        self._ended = False

    async def send(self, call: Call) -> Any:
        """Triton's answer."""
        if self._client is None:
            self._client = self._make(
                str(self._connection.address),
                conn_limit=_HTTP_CONNECTIONS,
                conn_timeout=None,  # each call has its own
                ssl=self._connection.tls is not None,
                ssl_context=_ssl_context(self._connection),
            )
        headers = call_headers(self._connection)
        waiting = getattr(self._client, call.method)(**call.arguments, headers=headers)
        try:
            return await asyncio.wait_for(waiting, call.timeout_s)
        except asyncio.TimeoutError as error:
            raise InferenceServerException("no answer in time", status="DEADLINE_EXCEEDED") from error
        except self._no_http as error:
            raise InferenceServerException("the answer is not HTTP", status="UNAVAILABLE") from error
        except self._no_json as error:
            raise InferenceServerException(
                "the answer is not from Triton's HTTP endpoint", status="UNAVAILABLE"
            ) from error
        except MemoryError as error:
            raise InferenceServerException("the answer does not fit into memory", status="INTERNAL") from error
        except self._failures as error:
            if self._ended:
                raise _closed() from error
            cause = str(error) or type(error).__name__
            raise InferenceServerException(cause, status="UNAVAILABLE") from error
        except RuntimeError as error:  # aiohttp: Session is closed
            if self._ended:
                raise _closed() from error
            raise InferenceServerException(str(error), status="CANCELLED") from error
        finally:
            call.ended()

    async def close(self, farewell: Flow[None]) -> None:
        """Make the last calls and end the connections, which cancels what is under way."""
        try:
            await run_async(farewell, self)
        finally:
            await self.end()

    async def end(self) -> None:
        """End the connections."""
        self._ended = True
        if self._client is not None:
            await self._client.close()


class HttpSender:
    """Sends over HTTP and waits; the event loop that does it runs in a thread of its own."""

    is_full = False

    def __init__(self, connection: Connection) -> None:
        self._sender = AsyncHttpSender(connection)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dyndet-http", daemon=True)
        self._thread.start()
        self._closing = threading.Lock()
        self._closed = False

    def send(self, call: Call, in_flight: InFlight | None) -> Any:
        """Triton's answer."""
        with self._closing:  # what is handed over before the end is cancelled by it, what comes later is refused here
            if self._closed:
                call.ended()
                raise _closed()
            answer = asyncio.run_coroutine_threadsafe(self._sender.send(call), self._loop)
        try:
            if in_flight is None:
                return answer.result()
            with in_flight.holding(answer.cancel):
                return answer.result()
        except concurrent.futures.CancelledError as error:
            if self._closed:
                raise _closed() from error
            raise InferenceServerException("its loop was left", status="CANCELLED") from error
        except BaseException:
            answer.cancel()
            raise

    def close(self, farewell: Flow[None]) -> None:
        """Make the last calls, cancel what is under way, end the connections and the thread."""
        try:
            run(farewell, self)
        finally:
            self._stop()

    def _stop(self) -> None:
        with self._closing:
            closed, self._closed = self._closed, True
        if not closed:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._sender.end()


def _closed() -> InferenceServerException:
    return InferenceServerException("the connection is closed", status="CANCELLED")


def _ssl_context(connection: Connection) -> Any:
    tls = connection.tls
    if tls is None:
        return None
    import ssl

    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.certificate_file is not None:
            context.load_cert_chain(tls.certificate_file, tls.key_file)
    except ssl.SSLError as error:
        raise InputError(f"the given certificates or key are damaged: {error}") from error
    return context
