"""Describes where, with what, how and when something was measured; every record of a measurement contains this."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import ClassVar

from dynamicdet.cores import usable_cores
from dynamicdet.errors import MissingExtraError
from dynamicdet.redaction import public_words
from dynamicdet.text import printable

_MOST_GPUS, _LONGEST_VALUE = 64, 200
"""of what nvidia-smi prints"""
_LONGEST = 10_000
"""characters of a command; longer ones are cut"""
_PACKAGES = ("dyndet", "numpy", "onnxruntime", "tritonclient", "nvidia-pytriton", "torch")


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """Where, with what, how and when something was measured."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # for the records that hold it

    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    """without secrets"""
    date: str
    """UTC, ISO 8601"""


def circumstances(**versions: str) -> Circumstances:
    """Those of this process, here and now; `versions` adds those that the installed packages do not show."""
    return Circumstances(
        machine=describe_machine(),
        versions=describe_versions() | {printable(name): printable(value) for name, value in versions.items()},
        command=printable(shlex.join([Path(sys.argv[0]).name, *public_words(sys.argv[1:])]), limit=_LONGEST),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def describe_machine() -> dict[str, str]:
    """CPU model, usable cores, memory, GPU if there is one, operating system and kernel of this machine."""
    found = {
        "cpu": _cpu_model(),
        "cores": str(usable_cores()),
        "memory": _memory(),
        "os": _operating_system(),
        "kernel": platform.release(),
    }
    with suppress(MissingExtraError):
        found["gpu"] = describe_gpus()
    return {name: printable(value) for name, value in found.items()}


def describe_gpus() -> str:
    """Name, driver and memory of each GPU of this machine. Raises MissingExtraError as `query_gpus` does."""
    return "; ".join(", ".join(gpu) for gpu in query_gpus("name", "driver_version", "memory.total"))


def query_gpus(*fields: str) -> list[tuple[str, ...]]:
    """The values of some of nvidia-smi's fields, for each GPU of this machine; `name` must be the first field.

    Raises MissingExtraError, with nvidia-smi's own words, if it is not installed or finds no GPU.
    """
    path = shutil.which("nvidia-smi")
    if path is None:
        raise MissingExtraError("nvidia-smi is not installed; it comes with the driver of an NVIDIA GPU")
    command = [path, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingExtraError(f"{path} does not run: {error}") from error
    lines = answer.stdout.splitlines()
    rows = [line.rsplit(",", len(fields) - 1) for line in lines]  # a name may hold commas
    gpus = [
        tuple(printable(value.strip(), limit=_LONGEST_VALUE) for value in row)
        for row in rows[:_MOST_GPUS]
        if len(row) == len(fields)
    ]
    if answer.returncode != 0 or not gpus:
        words = (answer.stderr or answer.stdout).strip().splitlines() or ["it printed nothing"]
        raise MissingExtraError(
            f"{path} finds no GPU (exit status {answer.returncode}): {printable(words[0], limit=_LONGEST_VALUE)}"
        )
    return gpus


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
