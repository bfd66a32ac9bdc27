"""The docker command that serves a repository with NVIDIA's official image."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from dyndet_builder.engines.record import check_engines_here
from dyndet_builder.repository.rendered import read_repository
from dyndet_builder.server.triton import DEFAULT_PORTS

IMAGE = "nvcr.io/nvidia/tritonserver:24.10-py3"
"""The release that the embedded server (2.51.0) comes from: the one that dyndet is tested with."""

ONNXRUNTIME = "1.23.2"
CUPY = "cupy-cuda12x==13.6.0"
"""Releases that the image's Python and CUDA can have."""

_SERVE = "exec tritonserver --model-repository=/models"
# What models need and the image lacks: stages of the `python` backend, and variants that take picture files.
_INSTALL = "pip install --quiet 'numpy<2'"


def docker_command(
    repository: Path, *, ports: Mapping[str, int], host: str = "127.0.0.1", model_control: str = "none"
) -> list[str]:
    """Words of the command. The repository is mounted read-only; what is changed in it on the host shows inside.

    With the model control `explicit` it may be empty: the server then has what any model pushed there needs.

    Raises InputError where the folder is no repository, or its engines do not run on this machine's GPUs (where it has
    any) or with the TensorRT of the image.
    """
    contents = read_repository(repository, explicit=model_control == "explicit")
    check_engines_here(repository, IMAGE)
    needs_onnxruntime = contents.is_empty or contents.runs_onnx_in_python
    decodes = contents.is_empty or contents.decodes_pictures
    gpus = contents.gpus
    # cupy: features stay in the GPU's memory
    onnxruntime = f"onnxruntime-gpu=={ONNXRUNTIME} {CUPY}" if gpus else f"onnxruntime=={ONNXRUNTIME}"
    packages = " ".join([onnxruntime] * needs_onnxruntime + ["pillow simplejpeg"] * decodes)
    needs = contents.memory
    arguments = [*needs.arguments(gpus), *contents.engine_arguments]
    if model_control != "none":
        arguments.append(f"--model-control-mode={model_control}")
    serve = " ".join([_SERVE, *arguments])
    command = ["docker", "run", "--rm", "--init", f"--shm-size={needs.shared_memory >> 20}m"]
    if gpus or shutil.which("nvidia-smi") is not None:
        command += ["--gpus", "all"]
    for kind, port in ports.items():
        command += ["-p", f"{host}:{port}:{DEFAULT_PORTS[kind]}"]
    if cache := contents.engine_cache:  # a volume of docker's: engines are built once
        command += ["-v", f"dyndet{cache.replace('/', '-')}:{cache}"]
    command += ["-v", f"{repository.resolve()}:/models:ro", "-e", "ORT_DISABLE_TELEMETRY=1", IMAGE]
    return [*command, "bash", "-c", f"{_INSTALL} {packages} && {serve}" if packages else serve]
