"""Images, releases and packages of a server. They are pinned only here, so a deployment is what was calibrated."""

from __future__ import annotations

RELEASE = "24.10"
"""Triton release that dyndet is tested with; the embedded server comes from it"""
SERVER_VERSION = "2.51.0"
"""version that this release's tritonserver reports"""
TENSORRT = "10.5.0"
"""TensorRT inside this release's image"""
IMAGE = f"nvcr.io/nvidia/tritonserver:{RELEASE}-py3"
PROMETHEUS_IMAGE = "prom/prometheus:v2.53.5"
GRAFANA_IMAGE = "grafana/grafana:11.4.0"

# Versions that work with the image's Python (3.10) and CUDA (12).
_NUMPY = "numpy==1.26.4"
_ONNXRUNTIME = "1.23.2"
_CUPY = "cupy-cuda12x==13.6.0"
_PICTURES = ("pillow==12.3.0", "simplejpeg==1.9.0")


def packages(*, onnx_in_python: bool, gpus: bool, bls: bool, pictures: bool) -> tuple[str, ...]:
    """The packages that models need and Triton's image lacks, as pip requirements; empty if they need nothing.

    `onnx_in_python`: ONNX Runtime runs inside the Python backend (`fused`, stages of the backend `python`). `gpus`: the
    models run on GPUs. `bls`: the public model calls stage models. `pictures`: a public model decodes image files.
    """
    found: list[str] = []
    if onnx_in_python:
        found.append(f"onnxruntime{'-gpu' if gpus else ''}=={_ONNXRUNTIME}")
    if gpus and bls:
        found.append(_CUPY)  # Without it, features go from stage to stage through the CPU's memory.
    if pictures:
        found += _PICTURES
    # Other packages must not install numpy 2: with it, this release's Python backend returns garbage.
    return (_NUMPY, *found) if found else ()
