"""Addresses and ports that a server can listen on."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from contextlib import ExitStack

from dynamicdet.errors import InputError, ServerError

_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9.])+", re.IGNORECASE)
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def free_ports(count: int, host: str = "127.0.0.1") -> tuple[int, ...]:
    """Ports that nothing listens on now, all different. Raises InputError if this machine has no such address."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            try:
                one.bind((host, 0))
            except OSError as error:
                raise _bad_host(host, error) from error
        return tuple(one.getsockname()[1] for one in sockets)


def check_port_free(port: int, host: str, purpose: str) -> None:
    """Raise ServerError if another program listens on the port, or this user must not use it.

    Raises InputError if this machine has no such address.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno in _NOT_HERE:
                raise _bad_host(host, error) from error
            raise ServerError(
                f"port {port} for {purpose} on {host} cannot be used ({error.strerror}); "
                f"stop the program that uses it, or give another port with --{purpose}-port"
            ) from error


def is_free(port: int, host: str) -> bool:
    """Whether a server could listen on a port. Raises InputError if this machine has no such address."""
    try:
        check_port_free(port, host, "")
    except ServerError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address or name.

    Raises InputError if it is neither an IPv4 address nor a name of one: this is all that the server listens on.
    """
    if _NUMERIC.fullmatch(host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError as error:  # the resolver takes it, but clients and browsers do not agree on what it means
            raise _bad_host(host, error) from error
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError) as error:
        raise _bad_host(host, error) from error
    if not found:
        raise InputError("the host is empty; give an IPv4 address such as 127.0.0.1, or a name of one")
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


def _bad_host(host: str, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(
        f"a server cannot listen on host {host!r} ({reason}); give an IPv4 address of this machine, or a name of one"
    )
