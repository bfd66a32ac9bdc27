"""A server that dyndet did not start: pushes builds of a detector to it, switches, and takes them back."""

from dyndet_builder.server.remote.remote_server import (
    ADMIN_HEADER,
    ADMIN_VARIABLE,
    Candidate,
    Deployed,
    RemoteServer,
    admin_headers,
)

__all__ = ["ADMIN_HEADER", "ADMIN_VARIABLE", "Candidate", "Deployed", "RemoteServer", "admin_headers"]
