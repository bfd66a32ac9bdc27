"""The processes of a server: the stubs in which its Python models run, and what is left of it. Read from /proc."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dyndet_builder.server.ending import signal_name

_PROC = Path("/proc")
_STUB = "triton_python_backend_stub"
_INSTANCE = re.compile(r"(.+)_\d+_\d+")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_DEAD, _STOPPED = "ZX", "Tt"
_NAME_LENGTH = 15  # to which the kernel cuts the names of processes
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Process:
    """What the kernel says of a process."""

    pid: int
    name: str
    """the kernel's name of its program, cut; a dead process has no other"""
    started: int
    """tells the process from a later one with the same pid"""
    parent: int
    cpu_s: float
    """computing time of all its threads"""
    is_dead: bool
    """it has ended, and its parent has not noticed"""
    is_stopped: bool
    """it was stopped, as by SIGSTOP, and does nothing until it is continued"""
    wait_status: int
    """of a dead process: how it ended, as `os.wait` returns it"""


@dataclass(frozen=True, kw_only=True)
class Stub:
    """The process of one instance of a Python model."""

    process: Process
    model: str
    instance: str
    """Triton's name of the instance, such as `dyndet_0_1`"""


def process_of(pid: int) -> Process | None:
    """The process with this id; None if there is none."""
    try:
        before, _, after = (_PROC / str(pid) / "stat").read_text().rpartition(")")
        fields = after.split()
    except (OSError, UnicodeDecodeError):
        return None
    return Process(
        pid=pid,
        name=before.partition("(")[2],
        started=int(fields[19]),
        parent=int(fields[1]),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        is_dead=fields[0] in _DEAD,
        is_stopped=fields[0] in _STOPPED,
        wait_status=int(fields[49]),
    )


def stubs_of(server: int) -> tuple[Stub, ...]:
    """The living stubs of the server with this process id."""
    found = []
    for process in filter(None, map(process_of, _pids())):
        words = _words(process.pid) if process.parent == server and not process.is_dead else []
        if len(words) > 2 and _STUB in words[0]:
            instance = words[-2]
            path = Path(words[1])  # REPOSITORY/MODEL/VERSION/model.py; a copy of a remote model has no such name
            named = _INSTANCE.fullmatch(instance)
            model = named[1] if named and path.parent.parent.name not in instance else path.parent.parent.name
            found.append(Stub(process=process, model=model, instance=instance))
    return tuple(found)


class StubWatch:
    """Notices stubs that die while a server loads models, for which Triton waits in vain.

    A stub that ends on purpose is dead for a moment only; after `dead_s` Triton will never notice.
    """

    def __init__(self, server: int, *, dead_s: float = 3.0) -> None:
        self._server, self._dead_s = server, dead_s
        self._models: dict[int, str] = {}
        self._dead_since: dict[int, float] = {}
        self._looked = -_LOOK_EVERY_S

    def dead(self) -> str | None:
        """What happened to a stub, in one sentence; None if nothing did. Looks twice a second at most."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return None
        self._looked = now
        self._models.update((stub.process.pid, stub.model) for stub in stubs_of(self._server))
        children = [one for one in map(process_of, _pids()) if one is not None and one.parent == self._server]
        dead = {one.pid: one for one in children if one.is_dead and one.name == _STUB[:_NAME_LENGTH]}
        self._dead_since = {pid: self._dead_since.get(pid, now) for pid in dead}
        for pid, since in self._dead_since.items():
            if now - since >= self._dead_s:
                number, status = dead[pid].wait_status & 0x7F, dead[pid].wait_status >> 8
                how = f"by {signal_name(number)}" if number else f"with exit status {status}"
                model = f"model {self._models[pid]}" if pid in self._models else "a model"
                return f"the process of {model} ended {how} while models were loaded"
        return None


def end_processes(mark: str, *, within_s: float) -> None:
    """Kill all processes with this mark in their command lines and wait until they are gone."""
    deadline = time.monotonic() + within_s
    while pids := [pid for pid in _pids() if pid != os.getpid() and any(mark in word for word in _words(pid))]:
        if time.monotonic() > deadline:
            return
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def remove_shared_memory(prefix: str) -> None:
    """Remove the shared memory whose names start with a server's prefix."""
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def listens(pid: int, port: int) -> bool:
    """Whether a process listens on a TCP port itself, so that an answer from there is its own."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / str(pid) / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    with suppress(OSError):
        for link in (_PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if str(link.readlink()) in sockets:
                    return True
    return False


def _pids() -> list[int]:
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]


def _words(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []
