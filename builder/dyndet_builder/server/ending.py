"""How a server process ended, in words."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from dyndet_builder.server.log import last_signal, last_words

CRASHES = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS})
"""signals by which a fault of the server itself ends it"""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a server process ended."""

    status: int | None
    """its exit status, or minus the number of the signal that ended it; None if the guard was killed, and it with it"""
    log: str
    """its log"""
    out_of_memory: bool
    """whether the kernel has killed a process for lack of memory while the server ran"""
    when: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    """the time when it was noticed"""

    @property
    def signal(self) -> int | None:
        """Number of the signal that ended it; also of one that it took as the wish to stop."""
        if self.status is None:
            return signal.SIGKILL
        return -self.status if self.status < 0 else last_signal(self.log)

    @property
    def crashed(self) -> bool:
        """Whether the server or a stub crashed by a fault of its own, for which another try may help."""
        return self.status is not None and (-self.status in CRASHES or "interprocess::lock_exception" in self.log)

    def __str__(self) -> str:
        """In words, to follow "the server was"."""
        words = last_words(self.log, self.when)
        return f"{self._cause}; last words of its log: {words}" if words else self._cause

    @property
    def _cause(self) -> str:
        if self.status is None:
            return "killed, because its guard process was killed"
        if self.signal is None:
            return f"ended by itself with exit status {self.status}"
        return f"ended by {signal_name(self.signal, out_of_memory=self.out_of_memory)}"


def signal_name(number: int, *, out_of_memory: bool = False) -> str:
    """Name and meaning of a signal."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    meaning = (signal.strsignal(number) or "").lower()
    if number == signal.SIGKILL and out_of_memory:
        meaning = "probably by the kernel: memory ran out"
    return f"{name} ({meaning})" if meaning else name


def out_of_memory_kills() -> int:
    """Processes that the kernel has killed for lack of memory: of this container, else of this machine."""
    for file in (Path("/sys/fs/cgroup/memory.events"), _own_cgroup(), Path("/proc/vmstat")):
        with suppress(OSError):
            for line in file.read_text().splitlines() if file is not None else ():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def _own_cgroup() -> Path | None:
    """The file with the counts of this process's own control group."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" and path != "/":
                return Path(f"/sys/fs/cgroup{path}/memory.events")
            if controllers == "memory":
                return Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
    return None
