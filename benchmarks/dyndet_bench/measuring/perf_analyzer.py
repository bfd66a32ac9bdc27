"""Finds a perf_analyzer that runs on this machine."""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.errors import MissingExtraError
from dynamicdet.extras import install_alone, install_command
from dynamicdet.files import scratch_folder
from dynamicdet.text import printable

_LONGEST_REASON = 300
_OLDEST_GLIBC = (2, 38)
"""that the package perf-analyzer runs on; older systems use the one inside tritonclient 2.51"""
_OLD_CLIENT = "tritonclient==2.51.0"
_PLACEHOLDER = "0.1.0"  # what pip installs as perf-analyzer if glibc is older than 2.38; it contains no program
# What the build inside tritonclient 2.51 needs beyond Debian's base: name -> pattern of the copy in the server's wheel.
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When a perf_analyzer counts as hung: once a second it wakes up and goes back to sleep."""

    look_s: float = 0.7
    """from one look at it to the next; not one second, because every look could find it awake"""
    rest_s: float = 4.0
    """time for which it must have done nothing else"""


@dataclass(frozen=True, kw_only=True)
class PerfAnalyzer:
    """A perf_analyzer that runs here, and the environment that it needs."""

    path: Path
    environment: Mapping[str, str]
    version: str
    patience: Patience = Patience()


@functools.cache
def find_perf_analyzer() -> PerfAnalyzer:
    """The first perf_analyzer that starts: beside this Python, then on PATH.

    Libraries that it lacks are borrowed from the wheels of the server and of CUDA's runtime, if they are installed.
    Raises MissingExtraError, with the command that installs it, if none runs.
    """
    complaints = []
    for path in _candidates():
        for environment in _environments():
            version, complaint = _try_version(path, environment)
            if version is not None:
                return PerfAnalyzer(path=path, environment=environment, version=version)
        complaints.append(complaint)
    if not complaints:
        complaints.append("there is none beside this Python or on PATH")
        if _placeholder_installed():
            complaints.append(
                f"the package perf-analyzer {_PLACEHOLDER} is an empty placeholder (this system's glibc is too old)"
            )
    raise MissingExtraError(
        f"perf_analyzer does not run here: {'; '.join(complaints)}; `{install_perf_analyzer()}` installs it"
    )


def install_perf_analyzer() -> str:
    """The command that installs a perf_analyzer for this system."""
    glibc = re.fullmatch(r"(\d+)\.(\d+).*", platform.libc_ver()[1])
    if glibc is not None and (int(glibc[1]), int(glibc[2])) < _OLDEST_GLIBC:
        return install_command("bench", "server", also=(_OLD_CLIENT,))  # the server's wheel has libraries that it needs
    return install_alone("perf-analyzer")


def _candidates() -> Iterator[Path]:
    beside = Path(sys.executable).parent / "perf_analyzer"
    if beside.is_file():
        yield beside
    on_path = shutil.which("perf_analyzer")
    if on_path is not None and Path(on_path) != beside:
        yield Path(on_path)


def _environments() -> Iterator[dict[str, str]]:
    yield dict(os.environ)
    folders = [str(folder) for folder in (_borrowed_libraries(), *_cuda_libraries()) if folder is not None]
    if folders:
        own = os.environ.get("LD_LIBRARY_PATH")
        yield dict(os.environ) | {"LD_LIBRARY_PATH": ":".join(folders + ([own] if own else []))}


def _try_version(path: Path, environment: Mapping[str, str]) -> tuple[str | None, str]:
    try:
        answer = subprocess.run(
            [str(path), "--version"],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{path}: {error}"
    match = re.search(r"Perf Analyzer Version ([\w.+-]{1,100})", answer.stdout + answer.stderr)
    if answer.returncode == 0 and match:
        return match[1], ""
    first_line = printable((answer.stderr or answer.stdout).strip().partition("\n")[0], limit=_LONGEST_REASON)
    return None, first_line or f"{path} printed nothing (exit status {answer.returncode})"


_shim: Path | None = None


def _borrowed_libraries() -> Path | None:
    """A folder of links, with the names that perf_analyzer needs, to the copies in nvidia-pytriton's wheel."""
    global _shim
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        return None
    libraries = Path(spec.origin).parent.parent / "nvidia_pytriton.libs"
    if _shim is None:
        until_the_end = ExitStack()
        atexit.register(until_the_end.close)
        _shim = until_the_end.enter_context(scratch_folder("libraries"))
        for name, pattern in _LIBRARIES.items():
            for copy in libraries.glob(pattern):
                (_shim / name).symlink_to(copy)
                break
    return _shim


def _cuda_libraries() -> Iterator[Path]:
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        library = Path(folder) / "cuda_runtime" / "lib"
        if library.is_dir():
            yield library


def _placeholder_installed() -> bool:
    try:
        return importlib.metadata.version("perf-analyzer") == _PLACEHOLDER
    except importlib.metadata.PackageNotFoundError:
        return False
