"""Serves a model repository with the tritonserver inside the nvidia-pytriton wheel: no Docker, no root."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType

from dynamicdet.errors import DyndetError, ServerError
from dyndet_bench.measuring.served import Served, served_detectors
from dyndet_builder.engines.record import check_engines_here
from dyndet_builder.repository.config_files import read_configs
from dyndet_builder.repository.memory import pool_arguments
from dyndet_builder.repository.rendered import read_repository
from dyndet_builder.server.admin import (
    RESTRICTED,
    SHARED_MEMORY,
    closing_argument,
    grpc_headers,
    new_key,
    restricting_arguments,
)
from dyndet_builder.server.api import TritonApi
from dyndet_builder.server.embedded import find_server
from dyndet_builder.server.ending import signal_name
from dyndet_builder.server.headers import FORWARDING
from dyndet_builder.server.log import last_signal
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.ports import check_port_free, free_ports, is_free
from dyndet_builder.server.process import ServerProcess
from dyndet_builder.server.stubs import StubWatch, listens
from dyndet_client.errors import ServerUnreachableError

DEFAULT_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}

_REPOSITORY = "--model-repository"
_POLL_S = 0.1
_WARM_UP_ROUNDS = 3
_LOAD_ATTEMPTS = 2  # of a model whose process died while it was loaded, and Triton noticed
_DIED = "is not healthy"
_PAUSE_S = (0.2, 0.8)  # between two attempts to start; by chance, so that two servers do not meet again
_PORT_TAKEN = re.compile(r"Socket '\S+:(\d+)' already in use")


class TritonServer:
    """A running tritonserver that serves one model repository; a context manager.

    Entering starts it and returns when every model is loaded and both routes of every dyndet detector are warmed up.
    Leaving stops it. The server also stops when this process dies, however it dies. A server that was stopped can be
    started again; it keeps its ports.

    Raises InputError if the folder is not a repository or the log cannot be written, and ServerError if a port is
    taken, a model fails to load (with the server's own words) or the server dies. An error that leaves the `with` block
    of a server that has died becomes a ServerError that says how it died.
    """

    def __init__(self, repository: Path, options: ServerOptions | None = None) -> None:
        self._options = options or ServerOptions()
        self._contents = read_repository(repository, explicit=self._options.model_control == "explicit")
        self._repository = repository.resolve()
        self._ports: dict[str, int] = {}
        self._process: ServerProcess | None = None
        self._killable: ServerProcess | None = None
        """also while it is being stopped"""
        self._was_ready = False
        self.inference_key = None if self._options.http_inference else new_key()
        """what inference over HTTP requires, if clients do not get it"""
        self.detectors: tuple[str, ...] = ()
        """names of the dyndet detectors that were warmed up"""
        self.answers_s: dict[str, float] = {}
        """time in which each of them answered one image on both routes, one after the other, when it was warm"""

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
    def memory_is_readable(self) -> bool:
        """Whether other users of this machine can read the shared memory in which pictures are passed."""
        return self._started().is_readable

    @property
    def options(self) -> ServerOptions:
        """How it is started and stopped."""
        return self._options

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

    @property
    def ending(self) -> str | None:
        """How the server ended, though nobody stopped it, in one sentence; None if it runs or was stopped."""
        ending = None if self._process is None else self._process.ending
        return None if ending is None else f"the server was {ending}"

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            end = (self.ending or self._asked_to_end()) if isinstance(error, Exception) else None
            if end is not None and end not in str(error):
                raise ServerError(
                    f"{end}; it was not restarted, and what was measured and stored before is not lost: run the "
                    f"command again ({error})"
                ) from error
        finally:
            self.stop()

    def start(self, *, warm_up: bool | None = None) -> None:
        """Start the server and wait until it answers. If anything fails, no process is left running.

        `warm_up` replaces the option of this name. A warm-up that gets no answer in time, since clients keep the server
        busy, is no failure.

        If the server crashes meanwhile, or another program takes a port that this one was to use and that was not
        asked for, it is tried again, `start_attempts` times in all.
        """
        if self._process is not None:
            raise ServerError("this server has been started already")
        check_engines_here(self._repository)
        kept = self._ports if self._was_ready else {}
        attempts = self._options.start_attempts
        for attempt in range(1, attempts + 1):
            self._ports = _choose_ports(self._options, kept)
            try:
                self._start_once(warm_up=self._options.warm_up if warm_up is None else warm_up)
            except _StartError as error:
                if not error.may_pass or attempt == attempts:
                    tried = f" ({attempt} attempts)" if attempt > 1 else ""
                    raise ServerError(f"{error}{tried}") from error
                time.sleep(random.uniform(*_PAUSE_S))
            else:
                self._was_ready = True
                return

    def taken_ports(self) -> tuple[int, ...]:
        """Ports of a stopped server that another program uses; while there are any, `start` fails."""
        return tuple(port for port in self._ports.values() if not is_free(port, self._options.host))

    def stop(self, *, within_s: float | None = None) -> None:
        """Stop the server and wait until it, its stubs and its shared memory are gone. Does nothing if stopped.

        It takes no longer than `within_s`, by default the option `stop_timeout_s`.
        """
        process, self._process = self._process, None
        if process is not None:
            process.stop(within_s=within_s)

    def kill(self) -> None:
        """End the server at once, also while another thread starts or stops it; can be called by a signal handler."""
        if self._killable is not None:
            self._killable.kill()

    def load(self, models: Sequence[str]) -> list[str]:
        """Load models one by one, in explicit mode; returns a sentence for each model that failed.

        Raises ServerError if the server ends meanwhile, or the process of a model does: Triton then waits in vain.
        """
        process, failed = self._started(), []
        for name in models:
            for _attempt in range(_LOAD_ATTEMPTS):
                error = self._load(process, name)
                if _DIED not in str(error):
                    break
            if error is not None and (ending := process.ending) is not None:
                raise ServerError(f"while loading model {name}, the server was {ending}") from error
            if isinstance(error, (OSError, ServerError)):
                failed.append(str(error))
            elif error is not None:
                raise error
        return failed

    def _load(self, process: ServerProcess, model: str) -> BaseException | None:
        """Load one model; the error if that failed. Raises ServerError if a process dies and Triton does not notice."""
        watch = StubWatch(process.pid)
        with ThreadPoolExecutor(max_workers=1) as pool:
            loading = pool.submit(self._api().load, model)
            while not wait([loading], timeout=_POLL_S).done:
                if (dead := watch.dead()) is not None:
                    process.kill()  # which also ends the wait for the answer
                    raise ServerError(dead)
        return loading.exception()

    def warm_up(self) -> None:
        """Send images down both routes of every dyndet detector that is ready."""
        self.detectors = tuple(served_detectors(self.grpc_url, headers=grpc_headers(self._options.admin_key)))
        for name in self.detectors:
            with Served(self.grpc_url, name) as served:
                for _ in range(_WARM_UP_ROUNDS):
                    began = time.monotonic()
                    served.warm_up(rounds=1)
                    self.answers_s[name] = time.monotonic() - began

    def _asked_to_end(self) -> str | None:
        """That somebody else sent the server a signal, for which it refuses requests until it ends."""
        number = None if self._process is None else last_signal(self._process.read_log())
        return None if number is None else f"the server is ending, since somebody sent it {signal_name(number)}"

    def error_lines(self) -> list[str]:
        """Errors in the server's log."""
        return self._started().error_lines()

    def warnings(self) -> list[str]:
        """What its models warn of since the last call, and whoever runs the server can mend; none if it is stopped."""
        return [] if self._process is None else self._process.warnings()

    def _api(self) -> TritonApi:
        return TritonApi(self.http_url, admin_key=self._options.admin_key)

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
            f"{_REPOSITORY}={self._repository}",
            *(f"--{kind}-address={options.host}" for kind in self._ports),
            *(f"--{kind}-port={port}" for kind, port in self._ports.items()),
            *self._contents.memory.arguments(self._contents.gpus),
            *self._pool_arguments(),
            *FORWARDING,
            f"--log-verbose={options.log_verbose}",
            f"--model-control-mode={options.model_control}",
            *(() if options.admin_key is None else restricting_arguments((*RESTRICTED, SHARED_MEMORY))),
            *(() if self.inference_key is None else (closing_argument(self.inference_key),)),
            *(() if options.tracing is None else options.tracing.arguments),
            *options.extra_arguments,
        ]

    def _pool_arguments(self) -> tuple[str, ...]:
        """The flag for graphs that share their threads; it is for those of all repositories that the server has."""
        given = (argument.partition("=") for argument in self._options.extra_arguments)
        beside = [Path(folder) for name, _, folder in given if name == _REPOSITORY]
        others = (config for folder in beside for config in read_configs(folder, explicit=True)[0])
        return self._contents.pool_arguments and pool_arguments((*self._contents.configs, *others))

    def _start_once(self, *, warm_up: bool) -> None:
        try:
            self._process = self._killable = ServerProcess(
                find_server(),
                self._arguments(),
                log_file=self._options.log_file,
                stop_timeout_s=self._options.stop_timeout_s,
                environment={} if self._options.tracing is None else self._options.tracing.environment,
                admin_key=self._options.admin_key,
            )
            self._wait_until_ready(self._process)
            if warm_up:
                self._warm_up_unless_busy(self._process)
        except BaseException as error:
            is_answer = isinstance(error, DyndetError) and not isinstance(error, _StartError)  # of the warm-up
            ending = self._process.ending if is_answer and self._process is not None else None
            self.stop()
            if ending is not None:
                raise _StartError(f"while warming up, the server was {ending}", may_pass=ending.crashed) from error
            raise

    def _warm_up_unless_busy(self, process: ServerProcess) -> None:
        """Clients can send requests as soon as the server listens, so the warm-up may wait behind them for too long."""
        try:
            self.warm_up()
        except ServerError as error:
            late = "DEADLINE_EXCEEDED" in str(getattr(error.__cause__, "status", str)())
            if not (late or isinstance(error, ServerUnreachableError)) or process.ending is not None:
                raise

    def _wait_until_ready(self, process: ServerProcess) -> None:
        watch = StubWatch(process.pid)
        timeout_s = self._options.ready_timeout_s
        deadline = time.monotonic() + timeout_s
        api = self._api()
        # Another server can answer at a port that this one has not yet found to be taken.
        while not (all(listens(process.pid, port) for port in self._ports.values()) and api.ready()):
            if not process.running:
                raise self._start_error(process)
            if (dead := watch.dead()) is not None:
                process.kill()
                raise _StartError(dead, may_pass=True)
            if time.monotonic() > deadline:
                words = process.start_words()
                raise _StartError(f"the server was not ready within {timeout_s:g} s: {words}", may_pass=False)
            time.sleep(_POLL_S)

    def _start_error(self, process: ServerProcess) -> _StartError:
        ending = process.ending
        assert ending is not None
        log = process.read_log()
        taken = {int(port) for port in _PORT_TAKEN.findall(log)}
        given = {port for port in self._options.ports.values() if port is not None}
        may_pass = ending.crashed or (bool(taken) and not (taken & given or self._was_ready))
        if ending.status is None or ending.status < 0:
            return _StartError(f"while starting, the server was {ending}", may_pass=may_pass)
        return _StartError(f"the server stopped while starting: {process.start_words()}", may_pass=may_pass)


class _StartError(ServerError):
    """A start that failed; it may succeed at another attempt."""

    def __init__(self, sentence: str, *, may_pass: bool) -> None:
        super().__init__(sentence)
        self.may_pass = may_pass


def _choose_ports(options: ServerOptions, kept: Mapping[str, int]) -> dict[str, int]:
    """The given ports and those to keep, checked to be free, and free ports for the rest."""
    chosen = {**{kind: port for kind, port in options.ports.items() if port is not None}, **kept}
    for kind, port in chosen.items():
        check_port_free(port, options.host, kind)
    if options.prefer_default_ports:
        for kind, port in DEFAULT_PORTS.items():
            if kind not in chosen and port not in chosen.values() and is_free(port, options.host):
                chosen[kind] = port
    free = (port for port in free_ports(len(options.ports), options.host) if port not in chosen.values())
    return {kind: chosen[kind] if kind in chosen else next(free) for kind in options.ports}
