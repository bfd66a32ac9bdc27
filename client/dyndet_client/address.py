"""Reads the address of a server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from dynamicdet.errors import InputError
from dyndet_client.checks import shown

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
    """whether the scheme was given, not assumed"""

    def __str__(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether this is the machine's own loopback, by its name: nothing is resolved."""
        return re.fullmatch(r"localhost|127(\.\d{1,3}){3}|\[::1\]", self.host.lower()) is not None


def parse_address(url: str) -> Address:
    """Read `host`, `host:port` (both gRPC), or `grpc://`, `grpcs://`, `http://` or `https://` and `host[:port]`.

    The default port is Triton's own: 8001 for gRPC, 8000 for HTTP. Raises InputError if the text is not an address.

    >>> parse_address("localhost").protocol, str(parse_address("https://[::1]/"))
    ('grpc', '[::1]:8000')
    """
    if not isinstance(url, str):
        raise InputError(f"a server address is a text such as 127.0.0.1:8001, not {shown(url)}")
    scheme, separator, rest = url.strip().rpartition("://")
    if separator and scheme.lower() not in _SCHEMES:
        raise InputError(
            f"{url!r} has the scheme {scheme!r}, but the client supports only grpc, grpcs, http and https: "
            f"give host:port or, for instance, grpc://host:port (Triton's default gRPC port is 8001)"
        )
    protocol, tls = _SCHEMES[scheme.lower() if separator else "grpc"]
    default = DEFAULT_PORTS[protocol]
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::([0-9]{1,5}))?/?", rest)
    port = int(match[2] or default) if match else 0
    if match is None or not 0 < port < 65536:
        raise InputError(f"{url!r} is not a server address: give host:port, such as 127.0.0.1:{default}")
    return Address(protocol=protocol, tls=tls, host=match[1], port=port, has_scheme=bool(separator))
