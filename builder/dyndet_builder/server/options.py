"""How an embedded server is started and stopped: its ports, its log, its models, its time limits."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from dynamicdet.errors import InputError
from dyndet_builder.pins import SERVER_VERSION
from dyndet_builder.server.admin import check_key
from dyndet_builder.server.ports import is_loopback
from dyndet_builder.server.tracing import LARGEST_INT, Tracing

STOP_TIMEOUT_VARIABLE = "DYNDET_STOP_TIMEOUT_S"
"""The environment variable that changes the default of `ServerOptions.stop_timeout_s`."""

ModelControl = Literal["none", "poll", "explicit"]
MODEL_CONTROLS: tuple[ModelControl, ...] = get_args(ModelControl)

_STOP_TIMEOUT_S = 20.0
_LONGEST_S = 1e6  # some eleven days; Triton's own options hold no more than 32 bits
_ACCEPTED = f"from 0 to {_LONGEST_S:.0f}"


def _default_stop_timeout_s() -> float:
    text = os.environ.get(STOP_TIMEOUT_VARIABLE)
    if text is None:
        return _STOP_TIMEOUT_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not _is_duration(seconds):
        raise InputError(
            f"the environment variable {STOP_TIMEOUT_VARIABLE} must be a number of seconds {_ACCEPTED}, got {text!r}"
        )
    return seconds


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How `TritonServer` starts and stops a server. Raises InputError for a value that makes no sense.

    A port of None is any free one.
    """

    http_port: int | None = None
    grpc_port: int | None = None
    metrics_port: int | None = None
    prefer_default_ports: bool = False
    """in place of any free port, take 8000, 8001 and 8002 if they are free"""
    host: str = "127.0.0.1"
    """IPv4 address to listen on, or a name of one"""
    expose: bool = False
    """consent to a host that other machines can reach, though the embedded release has known security holes"""
    admin_key: str | None = field(default=None, repr=False)
    """what the administrative endpoints require; None: they are open, which a host on this machine alone can be"""
    open_admin: bool = False
    """consent to administrative endpoints that are open to other machines"""
    http_inference: bool = True
    """whether clients get answers over HTTP; False: only the health checks of dyndet do, and clients use gRPC"""
    log_file: Path | None = None
    """gets the log appended; None: the log goes to a file that is removed when the server stops"""
    log_verbose: int = 0
    """Triton's verbosity"""
    model_control: ModelControl = "none"
    """whether models can be loaded and unloaded while the server runs"""
    tracing: Tracing | None = None
    """where spans go; None: none are made"""
    extra_arguments: tuple[str, ...] = ()
    """more arguments of tritonserver"""
    ready_timeout_s: float = 180.0
    """longest time until all models are loaded"""
    start_attempts: int = 3
    """how often to try to start it, if it crashes while it starts or another program takes a port that it was to use"""
    stop_timeout_s: float = field(default_factory=_default_stop_timeout_s)
    """longest time that a stop may take; then the server is killed. See `STOP_TIMEOUT_VARIABLE`, without it 20 s"""
    warm_up: bool = True
    """send images down both routes of every dyndet detector before the server counts as started"""

    def __post_init__(self) -> None:
        for kind, port in self.ports.items():
            if port is not None and not 1 <= port <= 65535:
                raise InputError(f"{kind}_port must be a port from 1 to 65535, got {port}")
        given = [port for port in self.ports.values() if port is not None]
        if len(set(given)) < len(given):
            ports = ", ".join("any" if port is None else str(port) for port in self.ports.values())
            raise InputError(f"HTTP, gRPC and metrics need three different ports, got {ports}")
        if not is_loopback(self.host) and not self.expose:
            raise InputError(
                f"other machines can reach the host {self.host!r}, but the embedded Triton {SERVER_VERSION} has known "
                "security holes; use 127.0.0.1, or consent with --expose (in Python: expose=True)"
            )
        if self.admin_key is not None:
            check_key(self.admin_key, "admin_key")
        elif not is_loopback(self.host) and not self.open_admin:
            raise InputError(
                f"other machines can reach the host {self.host!r}, and so the administrative endpoints; give "
                "admin_key, or consent with open_admin=True"
            )
        if self.start_attempts < 1:
            raise InputError(f"start_attempts must be at least 1, got {self.start_attempts}")
        if not 0 <= self.log_verbose <= LARGEST_INT:
            raise InputError(f"log_verbose must be from 0 to {LARGEST_INT}, got {self.log_verbose}")
        if self.model_control not in MODEL_CONTROLS:
            raise InputError(f"model_control must be {', '.join(MODEL_CONTROLS)}; got {self.model_control!r}")
        for name in ("ready_timeout_s", "stop_timeout_s"):
            if not _is_duration(getattr(self, name)):
                raise InputError(f"{name} must be a number of seconds {_ACCEPTED}, got {getattr(self, name)}")

    @property
    def ports(self) -> Mapping[str, int | None]:
        """The given ports by kind: http, grpc, metrics."""
        return {"http": self.http_port, "grpc": self.grpc_port, "metrics": self.metrics_port}


def _is_duration(seconds: float) -> bool:
    return math.isfinite(seconds) and 0 <= seconds <= _LONGEST_S
