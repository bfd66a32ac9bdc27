"""Ports that a server can listen on."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from dynamicdet.errors import ServerError


def free_ports(count: int, host: str = "127.0.0.1") -> tuple[int, ...]:
    """Ports that nothing listens on now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return tuple(one.getsockname()[1] for one in sockets)


def check_port_free(port: int, host: str, purpose: str) -> None:
    """Raise ServerError if another program listens on the port, or this user must not use it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServerError(
                f"port {port} for {purpose} on {host} cannot be used ({error.strerror}); "
                f"stop the program that uses it, or give another port with --{purpose}-port"
            ) from error


def is_free(port: int, host: str) -> bool:
    """Whether a server could listen on a port."""
    try:
        check_port_free(port, host, "")
    except ServerError:
        return False
    return True
