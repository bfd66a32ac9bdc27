"""What a detector's connection is made with: certificates, headers, keep-alive, retries. Values without behaviour."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_client.address import Address, parse_addresses
from dyndet_client.checks import optional, seconds, shown

TransportChoice: TypeAlias = Literal["auto", "network", "shared-memory", "cuda-shared-memory"]
"""How images reach the server; auto: shared memory if the server is on this machine and can read it."""

_FilePath: TypeAlias = "str | os.PathLike[str]"
_LONGEST_SILENCE_S = 2_147_483  # gRPC counts milliseconds in 32 bits
_LONGEST_PATH = 4096  # bytes, in Linux
_LARGEST_PEM = 4 << 20  # bytes; all public authorities together take less than one
_HEADERS_OF_THE_CONNECTION = (
    "connection content-encoding content-length content-type expect inference-header-content-length te trailer "
    "transfer-encoding upgrade"
).split()


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Certificates for a server that speaks TLS, PEM files. Raises InputError for files that cannot be read."""

    ca_file: _FilePath | None = None
    """authorities that the server's certificate is checked against; None: the usual public ones"""
    certificate_file: _FilePath | None = None
    """this client's certificate, for servers that require one"""
    key_file: _FilePath | None = None
    """the key of this client's certificate"""

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise InputError("a client certificate needs both certificate_file and key_file")
        for name in ("ca_file", "certificate_file", "key_file"):
            read_pem(getattr(self, name), name)


@dataclass(frozen=True, kw_only=True)
class KeepAlive:
    """When gRPC checks whether a silent connection is still alive.

    Triton's default limits allow a ping every 300 s, and none while no request is in flight. If it gets more pings, the
    server ends the connection, unless its `--grpc-http2-*` and `--grpc-keepalive-*` options allow them.
    """

    interval_s: float = 300.0
    """seconds of silence before a ping"""
    timeout_s: float = 20.0
    """seconds to wait for the answer to a ping before the connection counts as broken"""
    while_idle: bool = False
    """also while no request is in flight"""

    def __post_init__(self) -> None:
        for name in ("interval_s", "timeout_s"):
            value = getattr(self, name)
            if not 0.001 <= seconds(name, value) <= _LONGEST_SILENCE_S:
                raise InputError(f"{name} must be from 0.001 to {_LONGEST_SILENCE_S} seconds, not {shown(value)}")
        if not isinstance(self.while_idle, bool):
            raise InputError(f"while_idle must be True or False, not {shown(self.while_idle)}")


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often a call is tried if the server cannot be reached, within the call's deadline.

    The wait before attempt n + 1 is drawn evenly between 0 and `first_wait_s` * 2^(n - 1), at most `longest_wait_s`. So
    clients that lost a server together do not come back together. A detection has no side effects, so it may be sent
    twice. A request that the server refused is never sent again, except once where the server is overloaded: after the
    wait that it names, or at once to another replica.
    """

    attempts: int = 3
    """attempts in total; 1: no retries"""
    first_wait_s: float = 0.1
    longest_wait_s: float = 2.0
    on_not_ready: bool = False
    """also when the model is not ready, for instance while the server loads it"""

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise InputError(f"attempts must be a whole number of at least 1, not {shown(self.attempts)}")
        seconds("first_wait_s", self.first_wait_s)
        seconds("longest_wait_s", self.longest_wait_s)


@dataclass(frozen=True, kw_only=True)
class AbandonedCalls:
    """Calls over gRPC for which nobody waits any longer, and which end on the server all the same.

    tritonserver before 25.06 can crash if a gRPC call is cancelled. So a call whose time is over, whose loop was left
    or whose detector was closed is not cancelled there: it goes on until the server answers. Servers with a newer
    release, and HTTP, do without this.
    """

    limit: int = 64
    """while so many of a detector's calls are abandoned, it starts no further one, but waits for a place"""
    grace_s: float = 60.0
    """seconds beyond its own time after which a call is cancelled in any case, so that a server that hangs costs
    nothing for ever"""

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1:
            raise InputError(f"limit must be a whole number of at least 1, not {shown(self.limit)}")
        if seconds("grace_s", self.grace_s) > _LONGEST_SILENCE_S:
            raise InputError(f"grace_s must be at most {_LONGEST_SILENCE_S} seconds, not {shown(self.grace_s)}")


@dataclass(frozen=True, kw_only=True)
class Balancing:
    """When a replica that cannot be reached is asked again, and how often a name is looked up."""

    first_pause_s: float = 0.25
    """doubles with each failure in a row"""
    longest_pause_s: float = 2.0
    look_up_s: float = 5.0
    answer_s: float = 3.0
    """the most seconds for a replica to answer when it joins"""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Everything that decides how a server is reached. Raises InputError for contradictory values."""

    addresses: tuple[Address, ...]
    """of the replicas; usually one"""
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    keep_alive: KeepAlive = field(default_factory=KeepAlive)
    abandoned_calls: AbandonedCalls = field(default_factory=AbandonedCalls)

    @property
    def address(self) -> Address:
        """The address; of several, the first."""
        return self.addresses[0]

    @property
    def is_dns(self) -> bool:
        """Whether the addresses are to be looked up."""
        return self.address.is_dns

    @classmethod
    def make(
        cls,
        url: str | Sequence[str],
        *,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        keep_alive: KeepAlive | None = None,
        abandoned_calls: AbandonedCalls | None = None,
    ) -> Connection:
        """From the arguments of a detector. A token becomes the header `authorization: Bearer TOKEN`."""
        addresses = parse_addresses(url)
        address = addresses[0]
        optional("tls", tls, Tls)
        optional("headers", headers, Mapping)
        optional("token", token, str)
        optional("keep_alive", keep_alive, KeepAlive)
        optional("abandoned_calls", abandoned_calls, AbandonedCalls)
        if tls is not None and not address.tls and address.has_scheme:
            raise InputError(f"{url!r} means a connection without TLS, but tls was given: use grpcs:// or https://")
        given = {_header_name(name, address): _header_value(name, value) for name, value in (headers or {}).items()}
        if token is not None:
            if "authorization" in given:
                raise InputError("token and the header authorization exclude each other")
            given["authorization"] = _header_value("authorization", f"Bearer {token}")
        return cls(
            addresses=addresses,
            tls=tls or (Tls() if address.tls else None),
            headers=given,
            keep_alive=keep_alive or KeepAlive(),
            abandoned_calls=abandoned_calls or AbandonedCalls(),
        )


def check_transport(choice: str) -> TransportChoice:
    """The choice itself. Raises InputError for any other text."""
    for known in get_args(TransportChoice):
        if isinstance(choice, str) and choice == known:
            return known  # type: ignore[no-any-return]
    raise InputError(f"transport must be one of {', '.join(get_args(TransportChoice))}, not {shown(choice)}")


def read_pem(path: _FilePath | None, name: str) -> bytes | None:
    """Content of a file; None for no file. Raises InputError if it is unreadable, too large or has no PEM block."""
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{name} must be the path of a file, not {type(path).__name__}")
    if len(os.fspath(path)) > _LONGEST_PATH or "-----BEGIN" in str(path):  # it may be a key: not shown
        raise InputError(f"{name} must be the path of a file, not the content of one")
    shown = f"{name} {printable(os.fspath(path))}"
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # it is read more than once, and a pipe only once
            raise InputError(f"{shown} is not a regular file; give a file in PEM format")
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_PEM + 1)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{shown} cannot be read: {reason}") from error
    if len(content) > _LARGEST_PEM:
        raise InputError(f"{shown} is too large: at most {_LARGEST_PEM:,} bytes are read")
    if b"-----BEGIN " not in content:
        raise InputError(f"{shown} contains no certificate or key in PEM format")
    return content


def _header_name(name: str, address: Address) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[0-9A-Za-z_.-]+", name):
        # It may be the secret itself: not shown.
        raise InputError("what was given is not a header name: use letters, digits, '-', '_' and '.'")
    lower = name.lower()
    if lower in _HEADERS_OF_THE_CONNECTION:
        raise InputError(f"the connection itself sets the header {name}: leave it out")
    if address.protocol == "grpc" and (lower.startswith("grpc-") or lower.endswith("-bin")):
        raise InputError(f"the header {name} cannot be sent: gRPC reserves names like grpc-* and *-bin")
    return lower


def _header_value(name: str, value: str) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise InputError(
            f"the value of the header {name} must be printable ASCII text"
        )  # it may be a secret: not shown
    return value
