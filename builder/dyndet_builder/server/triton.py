"""Serves a model repository with the tritonserver inside the nvidia-pytriton wheel: no Docker, no root."""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from types import TracebackType

from dynamicdet.errors import ServerError
from dyndet_bench.measuring.served import Served, served_detectors
from dyndet_builder.engines.record import check_engines_here
from dyndet_builder.repository.rendered import read_repository
from dyndet_builder.server.embedded import find_server
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.ports import check_port_free, free_ports, is_free
from dyndet_builder.server.process import ServerProcess

DEFAULT_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}

_POLL_S = 0.1


class TritonServer:
    """A running tritonserver that serves one model repository; a context manager.

    Entering starts it and returns when every model is loaded and both routes of every dyndet detector are warmed up.
    Leaving stops it. The server also stops when this process dies, however it dies.

    Raises InputError if the folder is not a repository or the log cannot be written, and ServerError if a port is
    taken, a model fails to load (with the server's own words) or the server dies.
    """

    def __init__(self, repository: Path, options: ServerOptions | None = None) -> None:
        self._options = options or ServerOptions()
        self._contents = read_repository(repository, explicit=self._options.model_control == "explicit")
        self._repository = repository.resolve()
        self._ports: dict[str, int] = {}
        self._process: ServerProcess | None = None
        self.detectors: tuple[str, ...] = ()
        """names of the dyndet detectors that were warmed up"""

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
        return self._started().pid

    @property
    def repository(self) -> Path:
        """The folder being served."""
        return self._repository

    @property
    def log_file(self) -> Path:
        """Path of the server's log."""
        return self._started().log_file

    @property
    def running(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.running

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers. If anything fails, no process is left running."""
        if self._process is not None:
            raise ServerError("this server has been started already")
        check_engines_here(self._repository)
        embedded = find_server()
        self._ports = _choose_ports(self._options)
        try:
            self._process = ServerProcess(
                embedded,
                self._arguments(),
                log_file=self._options.log_file,
                stop_timeout_s=self._options.stop_timeout_s,
            )
            self._wait_until_ready(self._process)
            if self._options.warm_up:
                self._warm_up()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and wait until it, its stubs and its shared memory are gone. Does nothing if stopped."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def error_lines(self) -> list[str]:
        """Errors in the server's log."""
        return self._started().error_lines()

    def _started(self) -> ServerProcess:
        if self._process is None:
            raise ServerError("the server is not running; enter the context manager first")
        return self._process

    def _url(self, kind: str) -> str:
        if kind not in self._ports:
            raise ServerError("the server is not running; enter the context manager first")
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._options.host, self._options.host)
        return f"{host}:{self._ports[kind]}"

    def _arguments(self) -> list[str]:
        options = self._options
        return [
            f"--model-repository={self._repository}",
            *(f"--{kind}-address={options.host}" for kind in self._ports),
            *(f"--{kind}-port={port}" for kind, port in self._ports.items()),
            *self._contents.memory.arguments(self._contents.gpus),
            f"--log-verbose={options.log_verbose}",
            f"--model-control-mode={options.model_control}",
            *options.extra_arguments,
        ]

    def _wait_until_ready(self, process: ServerProcess) -> None:
        timeout_s = self._options.ready_timeout_s
        deadline = time.monotonic() + timeout_s
        while not self._answers_ready():
            if not process.running:
                raise ServerError(f"the server stopped while starting: {process.last_words()}")
            if time.monotonic() > deadline:
                raise ServerError(f"the server was not ready within {timeout_s:g} s: {process.last_words()}")
            time.sleep(_POLL_S)

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

    def _warm_up(self) -> None:
        self.detectors = tuple(served_detectors(self.grpc_url))
        for name in self.detectors:
            with Served(self.grpc_url, name) as served:
                served.warm_up()


def _choose_ports(options: ServerOptions) -> dict[str, int]:
    """The given ports, checked to be free, and free ports for the rest."""
    chosen = {kind: port for kind, port in options.ports.items() if port is not None}
    for kind, port in chosen.items():
        check_port_free(port, options.host, kind)
    if options.prefer_default_ports:
        for kind, port in DEFAULT_PORTS.items():
            if kind not in chosen and port not in chosen.values() and is_free(port, options.host):
                chosen[kind] = port
    free = (port for port in free_ports(len(options.ports), options.host) if port not in chosen.values())
    return {kind: chosen[kind] if kind in chosen else next(free) for kind in options.ports}
