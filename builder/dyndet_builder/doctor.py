"""Lists what this machine has for dyndet, what is missing, and the command that installs each missing part."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dynamicdet.cores import find_cores
from dynamicdet.errors import MissingExtraError
from dynamicdet.extras import NOT_FOR_USERS, extras, install_command, missing
from dynamicdet.text import printable
from dyndet_bench.measuring.machine import describe_gpus
from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer, install_perf_analyzer
from dyndet_builder.server.embedded import find_server

_FOR_BUILDING = ("bench", "build", "server")
_SHOWN = 4  # names of packages on a line


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One part: whether it is installed, its version, and the command that installs it."""

    name: str
    present: bool
    detail: str
    remedy: str = ""
    needed: bool = True  # for `dyndet-build` on this machine; other parts are for training, or for a GPU server


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    version = platform.python_version()
    good = (3, 10) <= sys.version_info[:2] <= (3, 12)
    return Finding(
        name="python",
        present=good,
        detail=version
        if good
        else f"{version}: numpy 1.26, which the embedded server needs, has wheels for 3.10 to 3.12",
        remedy="make demo PYTHON=python3.11",
    )


def _extra(name: str) -> Finding:
    """What an extra adds, or what of it is missing."""
    requirements = extras()[name]
    lacking = [
        f"{each.name}{each.specifier} (here {version})" if (version := _version(each.name)) else each.name
        for each in missing(requirements)
    ]
    found = [f"{each.name} {_version(each.name)}" for each in requirements]
    return Finding(
        name=name,
        present=not lacking,
        detail=f"lacks {_few(lacking)}" if lacking else _few(found),
        remedy=install_command(name),
        needed=name in _FOR_BUILDING,
    )


def _few(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _server() -> Finding:
    found = find_server()
    return Finding(name="tritonserver", present=True, detail=f"{found.version}, embedded")


def _libpython() -> Finding:
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folder = sysconfig.get_config_var("LIBDIR")
    found = folder is not None and (Path(folder) / name).exists()
    if not found:
        try:
            ctypes.CDLL(name)
            found = True
        except OSError:
            pass
    return Finding(
        name="libpython",
        present=found,
        detail=name if found else f"{name} not found; the server's Python backend needs it",
        remedy=f"sudo apt-get install libpython{sys.version_info.major}.{sys.version_info.minor}",
    )


def _perf_analyzer() -> Finding:
    return Finding(name="perf_analyzer", present=True, detail=find_perf_analyzer().version)


def _cores() -> Finding:
    found = find_cores()
    quota = "no quota" if found.quota is None else f"quota {found.quota:g}"
    limits = f"of {found.machine}: affinity {found.affinity}, {quota}"
    return Finding(name="cores", present=True, detail=f"{found.usable} used {limits}", needed=False)


def _gpu() -> Finding:
    return Finding(name="GPU", present=True, detail=describe_gpus(), needed=False)


def _tensorrt() -> Finding:
    version = _version("tensorrt") or _version("tensorrt-cu12") or _version("tensorrt-cu13")
    present = version is not None and importlib.util.find_spec("tensorrt") is not None
    return Finding(
        name="TensorRT",
        present=present,
        detail=version if version is not None else "not installed",
        remedy="build engines inside NVIDIA's Triton image, which contains it",
        needed=False,
    )


def _docker() -> Finding:
    path = shutil.which("docker")
    detail = "not found"
    good = False
    if path is not None:
        command = [path, "info", "--format", "{{.ServerVersion}}"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=False)
            lines = (answer.stdout if answer.returncode == 0 else answer.stderr or answer.stdout).strip().splitlines()
            good = answer.returncode == 0 and bool(lines)
            detail = lines[0] if lines else f"{path} printed nothing (exit status {answer.returncode})"
        except (OSError, subprocess.TimeoutExpired) as error:
            detail = f"{path} cannot be run: {error}"
    remedy = "docker with a running engine (https://docs.docker.com)"
    return Finding(name="docker", present=good, detail=detail, remedy=remedy, needed=False)


_EXTRAS = tuple(name for name in extras() if name not in NOT_FOR_USERS)
_CHECKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    **{name: partial(_extra, name) for name in sorted(_EXTRAS, key=lambda name: (name not in _FOR_BUILDING, name))},
    "libpython": _libpython,
    "tritonserver": _server,
    "perf_analyzer": _perf_analyzer,
    "cores": _cores,
    "GPU": _gpu,
    "TensorRT": _tensorrt,
    "docker": _docker,
}
CHECKS = tuple(_CHECKS)
_REMEDIES: dict[str, Callable[[], str]] = {
    "tritonserver": lambda: install_command("server"),
    "perf_analyzer": install_perf_analyzer,
    "GPU": lambda: "an NVIDIA GPU with its driver; without one, stages run on the CPU",
}


def doctor(names: tuple[str, ...] = CHECKS) -> list[Finding]:
    """Look for the named parts (all by default), in the given order. Nothing is installed or changed.

    An extra of dyndet is a part. A part that cannot be looked for counts as missing, so this raises no error.
    """
    return [_checked(name) for name in names]


def _checked(name: str) -> Finding:
    try:
        return _CHECKS[name]()
    except Exception as error:  # whatever is broken on this machine, the other parts are shown
        remedy = _REMEDIES.get(name, lambda: "")()
        reason = (
            str(error).partition("; `")[0] if isinstance(error, MissingExtraError) else f"cannot be checked: {error}"
        )
        return Finding(
            name=name,
            present=False,
            detail=printable(reason),
            remedy=remedy,
            needed=name in ("tritonserver", "perf_analyzer"),
        )
