"""The server of a deployment: its flags, and the packages that its image needs beside Triton's own."""

from __future__ import annotations

from dynamicdet.errors import InputError
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.repository.rendered import Rendered
from dyndet_builder.server.docker import CUPY, ONNXRUNTIME

MODELS = "/models"
ADMIN_HEADER = "dyndet-admin"
ADMIN_VARIABLE = "DYNDET_ADMIN_KEY"
RESTRICTED = ("model-repository", "logging", "trace")
"""endpoints that no client needs; health, metadata, configuration, statistics and inference stay open"""

_CLIENT_SHM_SINCE = (26, 5)
# Releases that the image's Python can have: 3.10 up to Triton 24.10, then 3.12.
_NUMPY = "numpy==1.26.4"
_PICTURES = ("pillow==12.3.0", "simplejpeg==1.9.0")


def packages(deployed: Rendered) -> tuple[str, ...]:
    """What models need and the image lacks, pinned; none where they need nothing."""
    found: list[str] = []
    if deployed.runs_onnx_in_python:
        found.append(f"onnxruntime{'-gpu' if deployed.gpus else ''}=={ONNXRUNTIME}")
    if deployed.passes_gpu_features:
        found.append(CUPY)  # features stay in the GPU's memory
    if deployed.decodes_pictures:
        found += _PICTURES
    # Packages must not bring numpy 2, with which Triton's Python backend answers garbage.
    return (_NUMPY, *found) if found else ()


def server_arguments(deployed: Rendered, options: DeployOptions, *, admin_key: str) -> tuple[str, ...]:
    """The flags of tritonserver; `admin_key` stands for the secret, as the file that they go into writes variables.

    Raises InputError where clients may use shared memory and the release that is served cannot be told.
    """
    repository = options.storage if options.bucket else MODELS
    restricted = ",".join(restricted_endpoints(options))
    return (
        f"--model-repository={repository}",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        *metrics_arguments(options, deployed),
        *deployed.memory.arguments(deployed.gpus),
        *deployed.engine_arguments,
        f"--http-restricted-api={restricted}:{ADMIN_HEADER}={admin_key}",
        f"--grpc-restricted-protocol={restricted}:{ADMIN_HEADER}={admin_key}",
        *_client_shared_memory(options),
    )


def restricted_endpoints(options: DeployOptions) -> tuple[str, ...]:
    """Those that ask for the admin key, as Triton calls them."""
    return RESTRICTED if options.client_shared_memory else (*RESTRICTED, "shared-memory")


def metrics_arguments(options: DeployOptions, deployed: Rendered) -> tuple[str, ...]:
    """Percentiles of requests with their queue, which Triton (2.51) has as summaries alone and not unless asked."""
    levels = {0.5, 0.9, 0.95, 0.99}
    promised = options.promised()
    names = [point.statistic for point in deployed.points.points.values()]
    for statistic in (*names, None if promised is None else promised.statistic.name):
        if statistic is not None and statistic.startswith("p"):
            levels.add(float(statistic[1:]) / 100)
    quantiles = ",".join(f"{level:.6g}:{min(0.01, (1 - level) / 10):.2g}" for level in sorted(levels))
    return ("--metrics-config=summary_latencies=true", f"--metrics-config=summary_quantiles={quantiles}")


def _client_shared_memory(options: DeployOptions) -> tuple[str, ...]:
    if not options.client_shared_memory:
        return ()
    release = options.release()
    if release is None:
        raise InputError(
            f"the release of {options.base_image} cannot be told from its tag, and shared memory of clients needs a "
            "flag from Triton 26.05 on; give --triton-version, such as 24.10"
        )
    return ("--allow-client-shm=true",) if release >= _CLIENT_SHM_SINCE else ()
