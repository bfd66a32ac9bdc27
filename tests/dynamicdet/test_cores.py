"""The cores that a process may use: its affinity, and the limits in trees of control groups as kernels show them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from dynamicdet import cores
from dynamicdet.cores import Cores, find_cores, graph_threads, usable_cores

_V2 = "31 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
_V1 = (
    "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct",
    "33 31 0:30 {top} /sys/fs/cgroup/cpuset rw,nosuid - cgroup cgroup rw,cpuset",
    "34 31 0:31 {top} /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory",
)
_OTHER = "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


def _tree(root: Path, *, groups: str, mounts: tuple[str, ...], files: Mapping[str, str]) -> Path:
    """A folder that looks as `/` does: what the process belongs to, what is mounted, and the files of the groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("\n".join((_OTHER, *mounts)) + "\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))


@pytest.mark.parametrize(
    ("files", "quota", "usable"),
    [
        ({"cpu.max": "100000 100000\n"}, 1, 1),  # a container: its own group is the top
        ({"cpu.max": "max 100000\n"}, None, 8),
        ({"cpu.max": "50000 100000\n"}, 0.5, 1),  # less than a core still runs one thread
        ({"cpu.max": "250000 100000\n"}, 2.5, 2),  # three threads would be stopped again and again
        ({"cpu.max": "max 100000\n", "cpuset.cpus.effective": "0-1,6\n"}, None, 3),
        ({"cpu.max": "5000000 100000\n"}, 50, 8),
        ({"cpu.max": "much\n", "cpuset.cpus.effective": "\n"}, None, 8),
        ({}, None, 8),
    ],
)
def test_a_container_with_groups_of_version_2(
    tmp_path: Path, files: dict[str, str], quota: float | None, usable: int
) -> None:
    found = find_cores(_tree(tmp_path, groups="0::/\n", mounts=(_V2,), files=files))
    assert (found.quota, found.usable, found.machine) == (quota, usable, 8)
    assert found.is_limited == (usable < 8)


def test_the_smallest_quota_up_the_hierarchy_counts(tmp_path: Path) -> None:
    """A pod's limit is that of the group above its container's."""
    files = {
        "kubepods/pod1/box/cpu.max": "max 100000",
        "kubepods/pod1/cpu.max": "300000 100000",
        "kubepods/cpu.max": "400000 100000",
        "other/cpu.max": "100000 100000",
    }
    root = _tree(tmp_path, groups="0::/kubepods/pod1/box\n", mounts=(_V2,), files=files)
    assert find_cores(root) == Cores(machine=8, affinity=8, quota=3)


@pytest.mark.parametrize("top", ["/", "/docker/box"])
def test_groups_of_version_1_on_the_host_and_in_a_container(tmp_path: Path, top: str) -> None:
    """A container sees its own group at the mount point, though /proc names the group as the host sees it."""
    inside = "docker/box/" if top == "/" else ""
    files = {
        f"cpu,cpuacct/{inside}cpu.cfs_quota_us": "200000",
        f"cpu,cpuacct/{inside}cpu.cfs_period_us": "100000",
        f"cpuset/{inside}cpuset.cpus": "4-7",
        "memory/cpu.cfs_quota_us": "1",
    }
    files |= {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"} if inside else {}
    groups = "9:name=systemd:/docker/box\n5:memory:/docker/box\n3:cpuset:/docker/box\n1:cpuacct,cpu:/docker/box\n0::/\n"
    mounts = tuple(line.format(top=top) for line in _V1)
    assert find_cores(_tree(tmp_path, groups=groups, mounts=mounts, files=files)) == Cores(
        machine=8, affinity=4, quota=2
    )


def test_a_group_outside_of_the_namespace_is_as_near_as_the_mount(tmp_path: Path) -> None:
    files = {"cpu.max": "100000 100000", "../../cpu.max": "1 100000"}
    root = _tree(tmp_path / "inside", groups="0::/../../host/group\n", mounts=(_V2,), files=files)
    assert find_cores(root).quota == 1


def test_without_groups_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3, 5})
    assert find_cores(tmp_path) == Cores(machine=8, affinity=2, quota=None)
    monkeypatch.delattr(os, "sched_getaffinity")  # as on other systems
    assert find_cores(tmp_path) == Cores(machine=8, affinity=8, quota=None)


def test_onnx_runtime_chooses_its_threads_only_where_nothing_limits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "find_cores", lambda: Cores(machine=8, affinity=8, quota=None))
    assert (graph_threads(), graph_threads(3), usable_cores()) == (0, 3, 8)
    monkeypatch.setattr(cores, "find_cores", lambda: Cores(machine=8, affinity=8, quota=1.5))
    assert (graph_threads(), graph_threads(3), usable_cores()) == (1, 3, 1)
