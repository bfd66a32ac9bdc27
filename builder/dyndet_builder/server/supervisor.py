"""Keeps a server answering: notices when it does not, says why, and restarts it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from dynamicdet.errors import DyndetError, InputError, ServerError
from dyndet_builder.server.health import Health, Patience
from dyndet_builder.server.triton import TritonServer

_POLL_S = 0.2


class StopRequest:
    """Like `threading.Event`, for one thread that waits, but a signal handler can set it.

    `threading.Event` has a lock that is not reentrant: a handler that sets it while the thread it interrupts is inside
    `wait` waits for that thread, and so for itself, for ever. `SimpleQueue.put` is reentrant (Python's documentation of
    `queue`).
    """

    def __init__(self) -> None:
        self._asked = False
        self._news: Final[queue.SimpleQueue[None]] = queue.SimpleQueue()

    def set(self) -> None:
        """Ask to stop; from any thread or signal handler, any number of times."""
        self._asked = True
        self._news.put(None)

    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked

    def wait(self, timeout_s: float) -> bool:
        """Wait until a stop is asked for, or for `timeout_s`; whether it was asked for."""
        if not self._asked:
            try:
                self._news.get(timeout=timeout_s)
            except queue.Empty:
                pass
        return self._asked


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """When a server is restarted, and when not any more. All times are seconds. Raises InputError for bad values."""

    at_most: int = 5
    """restarts within `window_s`; 0: none, the first fault is the end"""
    window_s: float = 600.0
    first_pause_s: float = 1.0
    """pause before the second restart within the window; the first is at once, each further pause is twice as long"""
    longest_pause_s: float = 30.0
    stop_within_s: float = 0.0
    """time that a broken server gets to answer what it still can; meanwhile it answers NOT_FOUND to new requests"""

    ports_within_s: float = 30.0
    """time that another program gets to leave a port of the server, before a restart counts as failed"""

    def __post_init__(self) -> None:
        if self.at_most < 0:
            raise InputError(f"at_most must be at least 0, got {self.at_most}")


@dataclass(kw_only=True)
class Supervisor:
    """Watches a running server, and restarts it when it has ended, a stub has died, or a detector does not answer.

    The whole server is restarted, since Triton neither replaces a stub nor reloads a model whose stub is dead. It keeps
    its ports and its log; in explicit mode the models that were ready are loaded again.
    """

    server: TritonServer
    patience: Patience = field(default_factory=Patience)
    restarts: Restarts = field(default_factory=Restarts)
    say: Callable[[str], None] = lambda _sentence: None
    """gets one sentence for each fault, each restart, and each changed file that the server refused"""
    starting: bool = field(default=False, init=False)
    """whether a restart is in progress; `TritonServer.kill` ends it"""
    _warned: set[str] = field(default_factory=set, init=False)

    def run(self, stop: StopRequest) -> None:
        """Watch until `stop` is set; does not stop the server then.

        Raises ServerError if there were too many restarts; the server is stopped then.
        """
        times: list[float] = []
        wanted: tuple[str, ...] = ()
        health = Health(self.server, self.patience)
        while not stop.wait(self.patience.look_every_s):
            self._pass_on_warnings()
            fault = health.look()
            if fault is None or stop.is_set():
                continue
            wanted = health.wanted(wanted)
            self.server.stop(within_s=self.restarts.stop_within_s)
            while fault is not None and not stop.is_set():
                self._wait_before_restart(fault, times, stop)
                fault = None if stop.is_set() else self._start(wanted, stop)
            if not stop.is_set():
                health = Health(self.server, self.patience)

    def _pass_on_warnings(self) -> None:
        """Say what models warn of; each of their instances does, so each sentence is said once."""
        for warning in self.server.warnings():
            if warning not in self._warned:
                self._warned.add(warning)
                self.say(f"Warning: {warning}; correct the file, because a restarted server needs it")

    def _wait_before_restart(self, fault: str, times: list[float], stop: StopRequest) -> None:
        """Say what is wrong and wait for the next attempt. Raises ServerError if there is none."""
        limits = self.restarts
        if limits.at_most == 0:
            raise ServerError(f"{fault}; the server was stopped")
        now = time.monotonic()
        times[:] = [one for one in times if now - one < limits.window_s]
        if len(times) >= limits.at_most:
            tried = f"{len(times)} restart{'s' if len(times) > 1 else ''} within {limits.window_s:g} s"
            raise ServerError(f"{fault}; the server was stopped, since {tried} did not help")
        pause_s = min(limits.longest_pause_s, limits.first_pause_s * 2 ** (len(times) - 1)) if times else 0.0
        when = f"in {pause_s:g} s" if pause_s else "now"
        self.say(f"{fault}; the server restarts {when} (restart {len(times) + 1} of at most {limits.at_most})")
        stop.wait(pause_s)
        times.append(time.monotonic())

    def _wait_for_ports(self, stop: StopRequest) -> None:
        """Wait until no other program uses a port of the server, or the time for that is over."""
        deadline = time.monotonic() + self.restarts.ports_within_s
        said = False
        while (taken := self.server.taken_ports()) and time.monotonic() < deadline and not stop.wait(_POLL_S):
            if not said:
                ports = " and ".join(map(str, taken))
                self.say(f"another program uses port {ports}; the restart waits for it")
                said = True

    def _start(self, wanted: Sequence[str], stop: StopRequest) -> str | None:
        """Start the server again; the fault if that failed.

        There is no warm-up: clients that have waited for the server send requests at once, and `Health` watches it.
        """
        began = time.monotonic()
        self._wait_for_ports(stop)
        if stop.is_set():
            return None
        self.starting = True
        try:
            self.server.start(warm_up=False)
            if self.server.options.model_control == "explicit":
                for error in self.server.load(wanted):
                    self.say(f"After the restart, {error}")
        except DyndetError as error:
            self.server.stop(within_s=self.restarts.stop_within_s)
            return f"the restart failed: {error}"
        finally:
            self.starting = False
        if not stop.is_set():
            self.say(f"The server is ready again after {time.monotonic() - began:.1f} s, at the same addresses")
        return None


@contextmanager
def watched(server: TritonServer, patience: Patience | None = None) -> Iterator[None]:
    """Watch a running server in a thread, as `dyndet serve` does; at its first fault, it is stopped for good.

    Who uses the server then gets the error of a server that is gone.
    """
    stop = StopRequest()
    supervisor = Supervisor(server=server, patience=patience or Patience(), restarts=Restarts(at_most=0))

    def watch() -> None:
        with suppress(ServerError):
            supervisor.run(stop)

    watcher = threading.Thread(target=watch, name="watchdog", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
