"""Reads the address of a server, and looks up a name that stands for several."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from dynamicdet.errors import InputError
from dynamicdet.redaction import has_secrets, public_address

Protocol: TypeAlias = Literal["grpc", "http"]

DEFAULT_PORTS: dict[Protocol, int] = {"grpc": 8001, "http": 8000}
_SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
    "http": ("http", False),
    "https": ("http", True),
}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens, and which protocol it speaks."""

    protocol: Protocol
    tls: bool
    host: str
    """a name, an IPv4 address, or an IPv6 address in brackets"""
    port: int
    has_scheme: bool = True
    """whether the scheme says if TLS is used"""
    is_dns: bool = False
    """whether the host is a name that stands for all replicas, as Kubernetes' headless services do"""
    tls_name: str = ""
    """the name in the server's certificate, if it is not the host"""

    def __str__(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether this is the machine's own loopback, by its name: nothing is resolved."""
        return re.fullmatch(r"localhost|127(\.\d{1,3}){3}|\[::1\]", self.host.lower()) is not None


def parse_address(url: str) -> Address:
    """Read `host`, `host:port` (both gRPC), or `grpc://`, `grpcs://`, `http://` or `https://` and `host[:port]`.

    `dns:///host[:port]` is gRPC with all servers that the name stands for. The default port is Triton's own: 8001 for
    gRPC, 8000 for HTTP. Raises InputError if the text is not an address.

    >>> parse_address("localhost").protocol, str(parse_address("https://[::1]/"))
    ('grpc', '[::1]:8000')
    """
    if not isinstance(url, str):
        raise InputError(f"a server address is a text such as 127.0.0.1:8001, not of type {type(url).__name__}")
    if has_secrets(url):
        raise InputError(
            f"{public_address(url)!r} contains a user, a password or a key: give the server address without, and what "
            "the server requires as a token or a header"
        )
    scheme, separator, rest = url.strip().rpartition("://")
    is_dns = scheme.lower() == "dns"
    if is_dns:
        if not rest.startswith("/") or rest.startswith("/["):
            raise InputError(f"{url!r} is not a name to look up: give dns:///name:8001, with three slashes")
        scheme, separator, rest = "", "", rest[1:]
    if separator and scheme.lower() not in _SCHEMES:
        raise InputError(
            f"{url!r} has the scheme {scheme!r}, but the client supports only grpc, grpcs, http, https and dns: "
            f"give host:port or, for instance, grpc://host:port (Triton's default gRPC port is 8001)"
        )
    protocol, tls = _SCHEMES[scheme.lower() if separator else "grpc"]
    default = DEFAULT_PORTS[protocol]
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::([0-9]{1,5}))?/?", rest)
    port = int(match[2] or default) if match else 0
    if match is None or not 0 < port < 65536:
        raise InputError(f"{url!r} is not a server address: give host:port, such as 127.0.0.1:{default}")
    return Address(protocol=protocol, tls=tls, host=match[1], port=port, has_scheme=bool(separator), is_dns=is_dns)


def parse_addresses(url: str | Sequence[str]) -> tuple[Address, ...]:
    """Read one address, or a list of the addresses of replicas. Raises InputError, also for lists that do not fit.

    >>> [str(address) for address in parse_addresses(["a", "b:9001"])]
    ['a:8001', 'b:9001']
    """
    if isinstance(url, str) or not isinstance(url, Sequence):
        return (parse_address(url),)
    addresses = tuple(parse_address(each) for each in url)
    if not addresses:
        raise InputError("the list of server addresses is empty: give at least one, such as 127.0.0.1:8001")
    if len(addresses) > 1 and any(address.is_dns for address in addresses):
        raise InputError("an address that starts with dns:/// stands for all replicas: give it alone")
    if len({(address.protocol, address.tls) for address in addresses}) > 1:
        raise InputError(f"the addresses {', '.join(url)} mix protocols: give all of them with the same scheme")
    for address in addresses:
        if addresses.count(address) > 1:
            raise InputError(f"the address {address} is given twice: give each replica once")
    return addresses


def resolve(address: Address) -> list[Address]:
    """The servers that a name stands for now, as addresses of their own; empty where the name is not known."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = sorted({f"[{entry[4][0]}]" if entry[0] == socket.AF_INET6 else str(entry[4][0]) for entry in found})
    return [replace(address, host=host, is_dns=False, tls_name=address.host) for host in hosts]
