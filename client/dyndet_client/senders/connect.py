"""Chooses the sender that a server's address asks for."""

from __future__ import annotations

from dyndet_client.senders.grpc import AsyncGrpcSender, GrpcSender
from dyndet_client.senders.http import AsyncHttpSender, HttpSender
from dyndet_client.senders.run import AsyncSender, Sender
from dyndet_client.settings import Connection


def make_sender(connection: Connection) -> Sender:
    """The sender for the address. Raises MissingExtraError if HTTP is not installed."""
    return GrpcSender(connection) if connection.address.protocol == "grpc" else HttpSender(connection)


def make_async_sender(connection: Connection) -> AsyncSender:
    """`make_sender` for an event loop."""
    return AsyncGrpcSender(connection) if connection.address.protocol == "grpc" else AsyncHttpSender(connection)
