"""Images, releases and packages of a server. They are pinned only here, so a deployment is what was calibrated.

`RELEASES` is the one table of Triton's releases. Its versions come from NVIDIA's release notes and compatibility
matrix; this project runs none of these images. It runs the embedded server, which is release `EMBEDDED_RELEASE`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynamicdet.errors import InputError

EMBEDDED_RELEASE = "24.10"
"""Triton release of the embedded server, which the newest nvidia-pytriton wheel carries"""
SERVER_VERSION = "2.51.0"
"""version that the embedded tritonserver reports"""
PROMETHEUS_IMAGE = "prom/prometheus:v2.53.5"
GRAFANA_IMAGE = "grafana/grafana:11.4.0"

_HOLES_OF_24_10 = (
    "an HTTP request of very many chunks ends the server (CVE-2025-23310, CVE-2025-23311)",
    "authentication can be bypassed (CVE-2026-24206, CVE-2026-24207)",
    "data can be read and changed without authorization (CVE-2026-47625)",
    "paths can be traversed, files read and code run (CVE-2026-47606, CVE-2026-47627)",
    "a request can use up the memory (CVE-2026-47628)",
    "a request can keep the server busy (CVE-2026-16497)",
)
"""those in the table of advisories in docs/security.md"""
# Wheels for every pinned version were found on PyPI for the release's Python. numpy stays below 2: with numpy 2 the
# stub of 2.51 returns garbage, and NVIDIA's own build of later images still installs "numpy<2".
_NUMPY = "numpy==1.26.4"
_PICTURES = ("pillow==12.3.0", "simplejpeg==1.9.0")
_TRACING = ("opentelemetry-sdk==1.45.2", "opentelemetry-exporter-otlp-proto-http==1.45.2")


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release of NVIDIA's Triton image: what is in it, and the packages that work there."""

    name: str
    """the image's tag, year and month: 26.09"""
    server: str
    """version that its tritonserver reports"""
    python: str
    cuda: str
    tensorrt: str
    """as far as it is known; `11` says that only the major version is"""
    onnxruntime: str
    """for the Python backend; from 1.27 on, PyPI's onnxruntime-gpu is built for CUDA 13"""
    cupy: str
    """the requirement: CuPy has a package for each major version of CUDA"""
    holes: tuple[str, ...] = ()
    """what is known to be wrong with it, for messages"""

    @property
    def image(self) -> str:
        """NVIDIA's image."""
        return f"nvcr.io/nvidia/tritonserver:{self.name}-py3"

    @property
    def warning(self) -> str | None:
        """One sentence about its known holes, without a full stop; None if none is known."""
        if not self.holes:
            return None
        return f"Triton {self.name} has known holes: {'; '.join(self.holes)}"

    def packages(
        self, *, onnx_in_python: bool, gpus: bool, bls: bool, pictures: bool, tracing: bool = False
    ) -> tuple[str, ...]:
        """The packages that models need and the image lacks, as pip requirements; empty if they need nothing.

        `onnx_in_python`: ONNX Runtime runs inside the Python backend (`fused`, stages of the backend `python`).
        `gpus`: the models run on GPUs. `bls`: the public model calls stage models. `pictures`: a public model decodes
        image files. `tracing`: the models make spans.
        """
        found: list[str] = []
        if onnx_in_python:
            found.append(f"onnxruntime{'-gpu' if gpus else ''}=={self.onnxruntime}")
        if gpus and bls:
            found.append(self.cupy)  # Without it, features go from stage to stage through the CPU's memory.
        if pictures:
            found += _PICTURES
        if tracing:
            found += _TRACING
        return (_NUMPY, *found) if found else ()  # first: other packages must not install numpy 2


def _cuda_13(name: str, server: str, cuda: str, tensorrt: str) -> Release:
    """A release of 2026: Python 3.12 and CUDA 13."""
    return Release(
        name=name,
        server=server,
        python="3.12",
        cuda=cuda,
        tensorrt=tensorrt,
        onnxruntime="1.28.0",
        cupy="cupy-cuda13x==13.6.0",  # CuPy 14 needs numpy 2
    )


RELEASES = {
    release.name: release
    for release in (
        Release(
            name=EMBEDDED_RELEASE,
            server=SERVER_VERSION,
            python="3.10",
            cuda="12.6.2",
            tensorrt="10.5.0",
            onnxruntime="1.23.2",
            cupy="cupy-cuda12x==13.6.0",
            holes=_HOLES_OF_24_10,
        ),
        _cuda_13("26.07", "2.71.0", "13.3.1", "11.1.0"),
        _cuda_13("26.08", "2.72.0", "13.4.1", "11.2.1"),
        _cuda_13("26.09", "2.73.0", "13.4.1", "11"),
        _cuda_13("26.10", "2.74.0", "13.4.3", "11"),
    )
}
"""The known releases of Triton's image. Those between are left out: NVIDIA's bulletins ask for 26.07 or later."""

# 26.09 is the first whose Python backend does not crash at shutdown if a model has metrics of its own, as ours has.
CURRENT = RELEASES["26.09"]
"""The release that deployments, `serve --docker` and engine scripts stand on unless another one is asked for."""


def find_release(name: str | None = None, *, allow_known_holes: bool = False) -> Release:
    """The release `name`; None: the current one.

    Raises InputError if it is not in the table, or if it has known holes that were not allowed.
    """
    if name is None:
        return CURRENT
    release = RELEASES.get(name)
    if release is None:
        raise InputError(
            f"Triton release {name!r} is not known; known are {', '.join(RELEASES)} (--triton-version), and "
            f"{CURRENT.name} is the default"
        )
    if release.warning is not None and not allow_known_holes:
        raise InputError(
            f"{release.warning}; use {CURRENT.name}, or give --allow-known-holes if nobody but you reaches the server"
        )
    return release
