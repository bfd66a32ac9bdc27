"""How many cores this process may use: those of its affinity, and no more than the quota of its control groups.

`os.cpu_count` counts the cores of the machine. In a container with a CPU limit, as many threads as these would take
turns at a few cores, and the kernel would stop all of them when the quota of a period is used up.

Rendering copies this file beside models whose threads depend on it. Needs only Python.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_OUTSIDE = ".."
"""begins the path of a group that a process in a namespace cannot see"""


@dataclass(frozen=True)
class Cores:
    """The cores of this machine, and what limits a process to fewer."""

    machine: int
    affinity: int
    """cores on which the process may run; a cpuset limits them as well"""
    quota: float | None
    """cores' worth of time that its control groups get; None: no limit"""

    @property
    def usable(self) -> int:
        """How many threads can compute at the same time without being stopped: at least one, and whole cores."""
        return max(1, self.affinity if self.quota is None else min(self.affinity, int(self.quota)))

    @property
    def is_limited(self) -> bool:
        """Whether the process may use fewer cores than the machine has."""
        return self.usable < self.machine


def find_cores(root: Path = Path("/")) -> Cores:
    """The cores of this process. `root` is the folder below which `proc` and the control groups are mounted.

    A limit that cannot be read counts as none.
    """
    machine = os.cpu_count() or 1
    # Systems other than Linux have neither affinity nor control groups.
    own = set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(machine))
    quotas: list[float] = []
    for folder in _groups(root):
        quotas += [share for share in (_quota(folder), _quota_of_version_1(folder)) if share is not None]
        own = own & _cpuset(folder) or own
    return Cores(machine=max(machine, len(own)), affinity=len(own), quota=min(quotas, default=None))


def usable_cores() -> int:
    """The number of cores that this process may use, at least 1."""
    return find_cores().usable


def graph_threads(threads: int = 0) -> int:
    """Threads for one graph in ONNX Runtime: `threads` or, if that is 0, all that this process can use.

    The result 0 lets ONNX Runtime choose: it takes one per physical core, which is fastest. But it counts the cores of
    the machine, so a process that may use fewer gets their number.
    """
    if threads:
        return threads
    cores = find_cores()
    return cores.usable if cores.is_limited else 0


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the control groups of this process: in each hierarchy its own group, and those above it."""
    own: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):  # 4:cpu,cpuacct:/group, and of version 2 0::/group
        if line.count(":") >= 2:
            _, controllers, path = line.split(":", 2)
            own.update(dict.fromkeys(controllers.split(","), path))
    for line in _lines(root / "proc/self/mountinfo"):  # 31 23 0:27 TOP POINT rw - cgroup cgroup rw,cpu,cpuacct
        fields, _, kind = (part.split(" ") for part in line.partition(" - "))
        if len(fields) < 5 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        names = ("",) if kind[0] == "cgroup2" else tuple({"cpu", "cpuset"}.intersection(kind[-1].split(",")))
        named = next((name for name in names if name in own), None)
        if named is not None:
            inside = Path(os.path.relpath(own[named], fields[3])).parts
            inside = () if _OUTSIDE in inside else inside  # what is mounted is as near as a container can see
            point = root / fields[4].lstrip("/")
            yield from (point.joinpath(*inside[:depth]) for depth in range(len(inside), -1, -1))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _quota(group: Path) -> float | None:
    """The quota of a group of version 2: `cpu.max` holds microseconds (or `max`) for each period."""
    return _share(_word(group / "cpu.max", 0), _word(group / "cpu.max", 1))


def _quota_of_version_1(group: Path) -> float | None:
    return _share(_word(group / "cpu.cfs_quota_us", 0), _word(group / "cpu.cfs_period_us", 0))


def _share(time: str, period: str) -> float | None:
    try:
        share = int(time) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None  # -1 means no limit


def _word(path: Path, place: int) -> str:
    try:
        words = path.read_text().split()
    except (OSError, ValueError):
        return ""
    return words[place] if place < len(words) else ""


def _cpuset(group: Path) -> set[int]:
    """Numbers of the cores that a group may use, such as 0-2,8; empty if it does not say."""
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        if text := _word(group / name, 0):
            try:
                ends = [[int(number) for number in part.split("-")] for part in text.split(",")]
            except ValueError:
                return set()
            return {core for part in ends for core in range(part[0], part[-1] + 1)}
    return set()
