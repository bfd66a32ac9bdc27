"""The headers of one call: the one place where they are made."""

from __future__ import annotations

from dyndet_client.settings import Connection
from dyndet_client.tracing import trace_headers


def call_headers(connection: Connection) -> dict[str, str]:
    """A new dictionary each time: Triton's HTTP client adds to it. Called where the caller's context is current."""
    return {**trace_headers(), **connection.headers}
