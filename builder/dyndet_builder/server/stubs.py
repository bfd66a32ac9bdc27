"""The processes of a server: the stubs in which its Python models run, and what is left of it. Read from /proc."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_STUB = "triton_python_backend_stub"
_INSTANCE = re.compile(r"(.+)_\d+_\d+")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_DEAD, _STOPPED = "ZX", "Tt"


@dataclass(frozen=True, kw_only=True)
class Process:
    """What the kernel says of a process."""

    pid: int
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
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    return Process(
        pid=pid,
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
