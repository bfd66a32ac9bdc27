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
from pathlib import Path

from dynamicdet.errors import DyndetError, MissingExtraError
from dyndet_bench.measuring.machine import describe_gpus


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


def _numpy() -> Finding:
    version = _version("numpy")
    good = version is not None and version.startswith("1.")
    detail = version or "not installed"
    if version is not None and not good:
        detail = f"{version}: with numpy 2 the embedded server returns garbage without an error"
    return Finding(name="numpy", present=good, detail=detail, remedy="pip install 'numpy>=1.26,<2'")


def _package(name: str, distribution: str, extra: str, *, needed: bool = True) -> Finding:
    version = _version(distribution)
    return Finding(
        name=name,
        present=version is not None,
        detail=f"{distribution} {version}" if version else "not installed",
        remedy=f"pip install 'dyndet[{extra}]'",
        needed=needed,
    )


def _server() -> Finding:
    from dyndet_builder.server.embedded import find_server

    remedy = "pip install 'dyndet[server]'"
    try:
        found = find_server()
    except DyndetError as error:
        return Finding(name="tritonserver", present=False, detail=str(error), remedy=remedy)
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
    from dyndet_bench.measuring.perf_analyzer import find_perf_analyzer

    try:
        found = find_perf_analyzer()
    except DyndetError as error:
        return Finding(
            name="perf_analyzer", present=False, detail=str(error), remedy="pip install 'tritonclient==2.51.0'"
        )
    return Finding(name="perf_analyzer", present=True, detail=found.version)


def _gpu() -> Finding:
    try:
        present, detail = True, describe_gpus()
    except MissingExtraError as error:
        present, detail = False, str(error)
    remedy = "an NVIDIA GPU with its driver; without one, stages run on the CPU"
    return Finding(name="GPU", present=present, detail=detail, remedy=remedy, needed=False)


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


_CHECKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    "numpy": _numpy,
    "torch": lambda: _package("torch", "torch", "build"),
    "onnx": lambda: _package("onnx", "onnx", "build"),
    "onnxruntime": lambda: _package("onnxruntime", "onnxruntime", "build"),
    "training": lambda: _package("training", "lightning-fabric", "train", needed=False),
    "evaluation": lambda: _package("evaluation", "pycocotools", "train", needed=False),
    "libpython": _libpython,
    "tritonserver": _server,
    "perf_analyzer": _perf_analyzer,
    "GPU": _gpu,
    "TensorRT": _tensorrt,
    "docker": _docker,
}
CHECKS = tuple(_CHECKS)


def doctor(names: tuple[str, ...] = CHECKS) -> list[Finding]:
    """Look for the named parts (all by default), in the given order. Nothing is installed or changed."""
    return [_CHECKS[name]() for name in names]
