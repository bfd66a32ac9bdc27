"""The tritonserver inside the nvidia-pytriton wheel: where it is and what it needs to run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.errors import MissingExtraError
from dynamicdet.extras import missing_extra
from dynamicdet.redaction import ADMIN_VARIABLE, TOKEN_VARIABLE
from dyndet_builder.pins import SERVER_VERSION

_TRITON_OF_WHEEL = {"0.7.0": SERVER_VERSION}


@dataclass(frozen=True, kw_only=True)
class EmbeddedServer:
    """Version and paths of the server in the wheel and of its Python backend."""

    version: str
    binary: Path
    python_backend: Path
    stub: Path
    libraries: Path


def find_server() -> EmbeddedServer:
    """The embedded tritonserver for this interpreter.

    Raises MissingExtraError if the wheel, its stub for this Python or libpython is missing, or numpy is 2 or newer.
    """
    numpy_version = importlib.metadata.version("numpy")
    if not numpy_version.startswith(("0.", "1.")):
        raise missing_extra(
            f"numpy {numpy_version} is installed, but the embedded tritonserver returns wrong values with it",
            "nvidia-pytriton",
        )
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise missing_extra("the embedded tritonserver (nvidia-pytriton) is not installed", "nvidia-pytriton")
    package = Path(spec.origin).parent
    wheel = importlib.metadata.version("nvidia-pytriton")
    root = package / "tritonserver"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = EmbeddedServer(
        version=_TRITON_OF_WHEEL.get(wheel, f"of nvidia-pytriton {wheel}"),
        binary=root / "bin" / "tritonserver",
        python_backend=root / "backends" / "python",
        stub=root / "python_backend_stubs" / minor / "triton_python_backend_stub",
        libraries=package.parent / "nvidia_pytriton.libs",
    )
    if not found.binary.is_file() or not found.python_backend.is_dir():
        raise missing_extra(
            f"nvidia-pytriton {wheel} contains no tritonserver with a Python backend", "nvidia-pytriton"
        )
    if not found.stub.is_file():
        have = ", ".join(sorted(folder.name for folder in found.stub.parent.parent.iterdir()))
        raise MissingExtraError(f"the embedded tritonserver has no stub for Python {minor}; use one of Python {have}")
    return found


def server_environment(embedded: EmbeddedServer) -> dict[str, str]:
    """Environment of the server process: its libraries, and this interpreter for its Python backend."""
    environment = dict(os.environ)
    libraries = [str(embedded.libraries), sysconfig.get_config_var("LIBDIR"), environment.get("LD_LIBRARY_PATH")]
    environment["LD_LIBRARY_PATH"] = ":".join(folder for folder in libraries if folder)
    # The stub finds its packages through the first `python3`.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
    environment["ORT_DISABLE_TELEMETRY"] = "1"
    environment.pop("PYTHONHOME", None)
    for name in (ADMIN_VARIABLE, TOKEN_VARIABLE):  # models can be code of others
        environment.pop(name, None)
    return environment
