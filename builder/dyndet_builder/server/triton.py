"""Runs the tritonserver that the nvidia-pytriton wheel carries: no Docker, no root, nothing left behind."""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from dynamicdet.errors import InputError, ServerError
from dyndet_builder.engines.record import check_engines_here
from dyndet_builder.repository.check import check_repository
from dyndet_builder.repository.memory import gpus_of, memory_needs
from dyndet_builder.server.embedded import EmbeddedServer, find_server, server_environment
from dyndet_builder.server.log import error_lines, open_log
from dyndet_builder.server.ports import check_port_free, free_ports, is_free

__all__ = [
    "DEFAULT_PORTS",
    "EmbeddedServer",
    "TritonServer",
    "check_port_free",
    "check_repository",
    "find_server",
    "free_ports",
]

DEFAULT_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}

_POLL_S = 0.1
_STUB_TIMEOUT_S = 120  # importing onnxruntime on a busy machine takes longer than Triton's 30 s


class TritonServer:
    """A running tritonserver that serves one model repository; a context manager.

    Entering starts it and returns when every model is loaded and both routes of a dynamic detector have been warmed;
    leaving stops it. The server also stops when this process dies, however it dies. A port left as None is chosen
    among the free ones (with `prefer_default_ports`: 8000, 8001, 8002 where they are free). Logs go to `log_file`, else
    to a file that lives as long as the server.

    Raises ServerError when a port is taken, a model fails to load (with the server's own words) or the server dies.
    """

    def __init__(
        self,
        repository: Path,
        *,
        http_port: int | None = None,
        grpc_port: int | None = None,
        metrics_port: int | None = None,
        prefer_default_ports: bool = False,
        host: str = "127.0.0.1",
        log_file: Path | None = None,
        log_verbose: int = 0,
        model_control: Literal["none", "poll", "explicit"] = "none",
        load_models: Sequence[str] = (),
        extra_arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        ready_timeout_s: float = 180.0,
        stop_timeout_s: float = 20.0,
        warm_up: bool = True,
    ) -> None:
        check_repository(repository, explicit=model_control == "explicit")
        self._repository = repository.resolve()
        self._given = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
        self._prefer_default_ports = prefer_default_ports
        self._host = host
        self._given_log = log_file
        self._arguments = [f"--log-verbose={log_verbose}", f"--model-control-mode={model_control}"]
        self._arguments += [f"--load-model={name}" for name in load_models]
        self._arguments += list(extra_arguments)
        self._environment = dict(environment or {})
        self._ready_timeout_s = ready_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._warm_up = warm_up
        self._ports: dict[str, int] = {}
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._run_folder: Path | None = None
        self._log_file: Path | None = None
        self._log_start = 0
        self.detectors: tuple[str, ...] = ()
        """names of the dyndet detectors that it serves"""

    @property
    def http_url(self) -> str:
        """`host:port` of the HTTP endpoint."""
        return self._url("http")

    @property
    def grpc_url(self) -> str:
        """`host:port` of the gRPC endpoint."""
        return self._url("grpc")

    @property
    def metrics_url(self) -> str:
        """Full URL of the Prometheus metrics."""
        return f"http://{self._url('metrics')}/metrics"

    @property
    def pid(self) -> int:
        """Process id of tritonserver itself."""
        if self._pid is None:
            raise ServerError("the server is not running; enter the context manager first")
        return self._pid

    @property
    def repository(self) -> Path:
        """The folder being served."""
        return self._repository

    @property
    def log_file(self) -> Path:
        """Where the server logs."""
        if self._log_file is None:
            raise ServerError("the server is not running; enter the context manager first")
        return self._log_file

    @property
    def running(self) -> bool:
        """Whether the server process lives."""
        return self._guard is not None and self._guard.poll() is None

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers. On any failure nothing keeps running."""
        if self._guard is not None:
            raise ServerError("this server has been started already")
        check_engines_here(self._repository)
        embedded = find_server()
        if self._given_log is not None:
            open_log(self._given_log)
        self._choose_ports()
        try:
            self._launch(embedded)
            self._wait_until_ready()
            if self._warm_up:
                self._warm()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and wait until it, its stubs and its shared memory are gone. Does nothing when stopped."""
        guard, self._guard, self._pid = self._guard, None, None
        if guard is not None:
            assert guard.stdin is not None and guard.stdout is not None
            guard.stdin.close()
            guard.wait()  # the guard itself limits how long a stop takes
            guard.stdout.close()
        if self._run_folder is not None:
            shutil.rmtree(self._run_folder, ignore_errors=True)
            self._run_folder = None

    def error_lines(self) -> list[str]:
        """What the server said went wrong."""
        return error_lines(self._read_log())

    def _url(self, kind: str) -> str:
        if kind not in self._ports:
            raise ServerError("the server is not running; enter the context manager first")
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)
        return f"{host}:{self._ports[kind]}"

    def _choose_ports(self) -> None:
        chosen: dict[str, int | None] = {}
        for kind, port in self._given.items():
            if port is not None:
                check_port_free(port, self._host, kind)
            elif self._prefer_default_ports and is_free(DEFAULT_PORTS[kind], self._host):
                port = DEFAULT_PORTS[kind]
            chosen[kind] = port
        free = iter(free_ports(len(chosen), self._host))
        self._ports = {kind: next(free) if port is None else port for kind, port in chosen.items()}
        if len(set(self._ports.values())) < len(self._ports):
            ports = ", ".join(map(str, self._ports.values()))
            raise InputError(f"HTTP, gRPC and metrics need three different ports, got {ports}")

    def _launch(self, embedded: EmbeddedServer) -> None:
        run_folder = self._run_folder = Path(tempfile.mkdtemp(prefix="dyndet-server-"))
        backend = run_folder / "backends" / "python"
        backend.mkdir(parents=True)
        for file in embedded.python_backend.iterdir():
            if file.is_file():
                (backend / file.name).symlink_to(file)
        (backend / embedded.stub.name).symlink_to(embedded.stub)
        self._log_file = self._given_log or run_folder / "server.log"
        self._log_start = open_log(self._log_file)
        prefix = f"dyndet_{os.getpid()}_{secrets.token_hex(4)}"
        command = [
            str(embedded.binary),
            f"--model-repository={self._repository}",
            f"--backend-directory={backend.parent}",
            f"--backend-config=python,shm-region-prefix-name={prefix}",
            f"--backend-config=python,stub-timeout-seconds={_STUB_TIMEOUT_S}",
            f"--http-address={self._host}",
            f"--grpc-address={self._host}",
            f"--metrics-address={self._host}",
            *(f"--{kind}-port={port}" for kind, port in self._ports.items()),
            f"--exit-timeout-secs={int(self._stop_timeout_s / 2)}",
            *memory_needs(self._repository).arguments(gpus_of(self._repository)),
            *self._arguments,
        ]
        guard = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))]
        guard += [f"--run-folder={run_folder}", f"--log={self._log_file.resolve()}", f"--shm-prefix={prefix}"]
        guard += [f"--grace-s={self._stop_timeout_s}", "--"]
        self._guard = subprocess.Popen(
            guard + command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=server_environment(embedded, self._environment),
            start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which then stops the server
        )
        assert self._guard.stdout is not None
        self._pid = _read_pid(self._guard.stdout)

    def _read_log(self) -> str:
        try:
            with self.log_file.open("rb") as file:
                file.seek(self._log_start)
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._ready_timeout_s
        while not self._answers_ready():
            if not self.running:
                raise ServerError(self._with_log("the server stopped while starting"))
            if time.monotonic() > deadline:
                raise ServerError(self._with_log(f"the server was not ready within {self._ready_timeout_s:.0f} s"))
            time.sleep(_POLL_S)

    def _with_log(self, what: str) -> str:
        log = self._read_log()
        lines = error_lines(log)[:6]
        shown = (
            "; ".join(lines) or "; ".join(line.strip() for line in log.strip().splitlines()[-3:]) or "it said nothing"
        )
        return f"{what}: {shown}"

    def _answers_ready(self) -> bool:
        host, _, port = self.http_url.rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=2)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _warm(self) -> None:
        from dyndet_bench.measuring.served import Served, served_detectors

        self.detectors = tuple(served_detectors(self.grpc_url))
        for name in self.detectors:
            with Served(self.grpc_url, name) as served:
                served.warm_up()


def _read_pid(stream: IO[bytes]) -> int:
    line = stream.readline().strip()
    if not line.isdigit():
        raise ServerError("the server process could not be started; see the messages above")
    return int(line)
