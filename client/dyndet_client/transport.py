"""A bare connection for tools that speak gRPC to a server on their own, such as the benchmarks."""

from __future__ import annotations

from typing import Any

import tritonclient.grpc as triton

from dynamicdet.errors import InputError
from dyndet_client.address import parse_address
from dyndet_client.protocol import Call
from dyndet_client.retrying import Deadline
from dyndet_client.senders.grpc import GrpcSender
from dyndet_client.senders.run import run
from dyndet_client.session import Session
from dyndet_client.settings import Connection


def parse_url(url: str) -> str:
    """`host:port` from `host`, `host:port` or `grpc://host:port`; the default port is 8001.

    Raises InputError for another scheme, or if the text is not an address.

    >>> parse_url("grpc://localhost"), parse_url("[::1]:9001")
    ('localhost:8001', '[::1]:9001')
    """
    address = parse_address(url)
    if address.protocol != "grpc" or address.tls or address.is_dns:
        raise InputError(
            f"{url!r} cannot be used here, because this tool speaks only gRPC without TLS, to one server: give "
            "host:port or grpc://host:port (Triton's default gRPC port is 8001)"
        )
    return str(address)


def triton_client(url: str) -> triton.InferenceServerClient:
    """Triton's own client of a server; a context manager. Raises InputError as `parse_url` does."""
    return triton.InferenceServerClient(parse_url(url), channel_args=[("grpc.enable_http_proxy", 0)])


class GrpcTransport:
    """A gRPC connection without TLS to one model of one server. Nothing is sent before the first call."""

    def __init__(self, url: str, model: str) -> None:
        self.address = parse_url(url)
        connection = Connection.make(url)
        self._session = Session(connection.address, model)
        self._sender = GrpcSender(connection)

    def model_config(self, timeout_s: float) -> dict[str, Any]:
        """The model's configuration as JSON. Raises ServerUnreachableError or ModelNotReadyError."""
        return run(self._session.model_config(Deadline(timeout_s)), self._sender)

    def ask(self, method: str, timeout_s: float, **arguments: Any) -> Any:
        """Triton's answer to a call of its own client, by the method's name. Raises InferenceServerException alone."""
        return self._sender.send(Call(method, arguments, timeout_s), None)

    def close(self) -> None:
        """Close the connection."""
        self._sender.close(self._session.close())
