"""What makes a server send spans to an OpenTelemetry collector: Triton's flags, and the environment of its models."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

from dynamicdet.errors import InputError
from dynamicdet.redaction import has_secrets, public_address

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
"""the environment variable in which the models of a server find the collector"""
SERVICE_VARIABLE = "OTEL_SERVICE_NAME"

_SERVICE = "dyndet"
_CONNECT_S = 2.0
_TEXT = re.compile(r"[!-~]+")  # of a URL: ASCII without blanks and control characters
_UNSAFE = frozenset("'\"$`\\,<>")  # they mean something to a shell, to Triton's options or to a manifest
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
LARGEST_INT = 2**31 - 1
"""Triton's options hold 32 bits"""
_NAME = re.compile(r"[A-Za-z0-9._/-]+")


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """Where a server sends its spans. Raises InputError for an impossible URL, rate or name."""

    url: str
    """of a collector's OTLP/HTTP endpoint, with its path: http://127.0.0.1:4318/v1/traces"""
    rate: int = 0
    """trace every n-th request, too, whose caller traces nothing; 0: only requests that are part of a caller's trace"""
    service: str | None = None
    """name of the service; None: the environment variable OTEL_SERVICE_NAME, without it dyndet"""

    def __post_init__(self) -> None:
        if has_secrets(self.url):
            raise InputError(
                f"the URL {public_address(self.url)!r} of a collector contains a user, a password or a key, which the "
                "server's flags would show; give a URL without, and headers in OTEL_EXPORTER_OTLP_HEADERS"
            )
        if not _is_url(self.url):
            raise InputError(
                f"{self.url!r} is not the URL of a collector; give one such as http://127.0.0.1:4318/v1/traces"
            )
        if not 0 <= self.rate <= LARGEST_INT:
            raise InputError(
                f"the trace rate must be from 0 to {LARGEST_INT}, got {self.rate}; 10 traces every tenth request"
            )
        if not _NAME.fullmatch(self.service_name):
            raise InputError(
                f"the service name {self.service_name!r} is not accepted; use letters, digits, '.', '_', '/' and '-'"
            )

    @property
    def service_name(self) -> str:
        """The name of the service in all spans."""
        return self.service or os.environ.get(SERVICE_VARIABLE) or _SERVICE

    def problem(self) -> str | None:
        """Why spans would be lost now; None if something listens at the collector's address."""
        parts = urllib.parse.urlsplit(self.url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        try:
            socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_S).close()
        except OSError as error:
            reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            return f"no collector can be reached at {self.url} ({reason}); spans are lost until there is one"
        return None

    @property
    def arguments(self) -> tuple[str, ...]:
        """Flags of tritonserver."""
        return (
            "--trace-config=mode=opentelemetry",
            "--trace-config=level=TIMESTAMPS",
            f"--trace-config=rate={self.rate}",
            "--trace-config=count=-1",
            f"--trace-config=opentelemetry,url={self.url}",
            f"--trace-config=opentelemetry,resource=service.name={self.service_name}",
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables of the server, for the spans of its models."""
        return {ENDPOINT_VARIABLE: self.url, SERVICE_VARIABLE: self.service_name}


def _is_url(text: str) -> bool:
    """Whether it is an HTTP URL with a host and, if it has one, a possible port."""
    if not _TEXT.fullmatch(text) or _UNSAFE & set(text):
        return False
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname or "", parts.port
        if "[" in parts.netloc:
            ipaddress.IPv6Address(host)
    except ValueError:
        return False
    is_host = "[" in parts.netloc or _HOST.fullmatch(host) is not None
    return parts.scheme in ("http", "https") and is_host and (port is None or port > 0)
