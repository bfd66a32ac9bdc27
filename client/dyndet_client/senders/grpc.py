"""Sends over gRPC, with Triton's own clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import grpc
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from dyndet_client.protocol import Call
from dyndet_client.senders.run import InFlight
from dyndet_client.settings import Connection, read_pem


class GrpcSender:
    """Sends over gRPC and waits."""

    def __init__(self, connection: Connection) -> None:
        self._client = triton.InferenceServerClient(**_grpc_arguments(connection))
        self._headers = dict(connection.headers) or None

    def send(self, call: Call, in_flight: InFlight | None) -> Any:
        """Triton's answer; with `in_flight`, an inference can be cancelled, which costs a change of threads."""
        arguments = {**call.arguments, "headers": self._headers, "client_timeout": call.timeout_s}
        with _closed_as_cancelled():
            if in_flight is None or call.method != "infer":
                return getattr(self._client, call.method)(**arguments)
            answers: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
            under_way = self._client.async_infer(
                callback=lambda result, error: answers.put((result, error)), **arguments
            )
            with in_flight.holding(under_way.cancel):
                result, error = answers.get()
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """End the connection."""
        self._client.close()


class AsyncGrpcSender:
    """Sends over gRPC in an event loop. The connection is made in the loop that sends first."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._headers = dict(connection.headers) or None
        self._client: Any = None

    async def send(self, call: Call) -> Any:
        """Triton's answer."""
        if self._client is None:
            import tritonclient.grpc.aio as triton_aio  # imported only if it is used

            self._client = triton_aio.InferenceServerClient(**_grpc_arguments(self._connection))
        method = getattr(self._client, call.method)
        with _closed_as_cancelled():
            return await method(**call.arguments, headers=self._headers, client_timeout=call.timeout_s)

    async def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            await self._client.close()


@contextmanager
def _closed_as_cancelled() -> Iterator[None]:
    """Where the connection was closed meanwhile, gRPC raises ValueError or its own UsageError."""
    try:
        yield
    except (ValueError, grpc.aio.UsageError) as error:
        raise InferenceServerException(str(error), status="CANCELLED") from error


def _grpc_arguments(connection: Connection) -> dict[str, Any]:
    keep_alive = connection.keep_alive
    options: list[tuple[str, int]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
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
    arguments: dict[str, Any] = {"url": str(connection.address), "channel_args": options}
    if connection.tls is not None:
        tls = connection.tls
        arguments["creds"] = grpc.ssl_channel_credentials(
            root_certificates=read_pem(tls.ca_file, "ca_file"),
            private_key=read_pem(tls.key_file, "key_file"),
            certificate_chain=read_pem(tls.certificate_file, "certificate_file"),
        )
    return arguments
