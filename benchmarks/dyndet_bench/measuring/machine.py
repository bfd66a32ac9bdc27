"""Describes the machine and the software behind a measurement; a record without them is not written."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

_PACKAGES = ("dyndet", "numpy", "onnxruntime", "tritonclient", "nvidia-pytriton", "torch")


def describe_machine() -> dict[str, str]:
    """CPU model, usable cores, memory, GPU where there is one, operating system and kernel of this machine."""
    found = {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _memory(),
        "os": _operating_system(),
        "kernel": platform.release(),
    }
    gpu = _gpu()
    return found | ({"gpu": gpu} if gpu else {})


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the packages that take part in a measurement, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summary(machine: dict[str, str]) -> str:
    """The machine in one line, for a table's caption."""
    parts = [machine.get("cpu", "unknown CPU"), f"{machine.get('cores', '?')} cores", machine.get("gpu", "no GPU")]
    return ", ".join([*parts, machine.get("memory", ""), machine.get("os", "")]).strip(", ")


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    names = [value.strip() for key, value in fields if key.strip() == "model name"]
    return names[0] if names else platform.machine()


def _memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{pages / 2**30:.1f} GiB"


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _gpu() -> str | None:
    path = shutil.which("nvidia-smi")
    if path is None:
        return None
    command = [path, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(line.strip() for line in answer.stdout.splitlines() if line.strip()) or None
