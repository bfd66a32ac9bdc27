"""The flags of tritonserver in a deployment, for a pod and for the shell in the image."""

from __future__ import annotations

import re

from dynamicdet.errors import InputError
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.repository.rendered import Rendered
from dyndet_builder.server.admin import (
    KEY_REFERENCE,
    RESTRICTED,
    SHARED_MEMORY,
    restricting_arguments,
    with_key_from_shell,
)

MODELS = "/models"
"""where the image has the models, or where they are mounted"""

_CLIENT_SHM_SINCE = "26.05"


def server_arguments(deployed: Rendered, options: DeployOptions) -> tuple[str, ...]:
    """The flags of tritonserver in a pod; the first one names the repository."""
    repository = options.storage if options.bucket else MODELS
    return (
        f"--model-repository={repository}",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        *_metrics_arguments(deployed, options),
        *deployed.memory.arguments(deployed.gpus),
        *deployed.engine_arguments,
        *_loaded(deployed, options),
        *restricting_arguments(restricted(options)),
        *_client_shared_memory(options),
    )


def _loaded(deployed: Rendered, options: DeployOptions) -> tuple[str, ...]:
    """Flags that load this detector alone from a place that also holds others; an image holds only this one."""
    if options.storage == "image" or not deployed.beside:
        return ()
    return ("--model-control-mode=explicit", *(f"--load-model={name}" for name in deployed.models))


def restricted(options: DeployOptions) -> tuple[str, ...]:
    """Triton's names of the endpoints that need the admin key."""
    return RESTRICTED if options.client_shared_memory else (*RESTRICTED, SHARED_MEMORY)


def _metrics_arguments(deployed: Rendered, options: DeployOptions) -> tuple[str, ...]:
    """Flags for percentiles with the queue: Triton 2.51 offers them only as summaries, and only if a flag asks."""
    levels = {0.5, 0.9, 0.95, 0.99}
    promised = options.promised()
    names = [point.statistic for point in deployed.points.points.values()]
    for statistic in (*names, None if promised is None else promised.statistic.name):
        if statistic is not None and statistic.startswith("p"):
            levels.add(float(statistic[1:]) / 100)
    quantiles = ",".join(f"{level:.6g}:{min(0.01, (1 - level) / 10):.2g}" for level in sorted(levels))
    return ("--metrics-config=summary_latencies=true", f"--metrics-config=summary_quantiles={quantiles}")


def _client_shared_memory(options: DeployOptions) -> tuple[str, ...]:
    """The flag without which newer releases refuse to map a client's memory."""
    needed = options.client_shared_memory and options.release().name >= _CLIENT_SHM_SINCE
    return ("--allow-client-shm=true",) if needed else ()


def shell_command(arguments: tuple[str, ...]) -> str:
    """The command for /bin/sh, from a pod's flags; the shell expands only the admin key in them."""
    words = []
    for argument in arguments:
        if re.search(r"[\"$`\\]", argument.replace(KEY_REFERENCE, "")):  # the checks of the options allow none
            raise InputError(f"the flag {argument!r} cannot be written into a Dockerfile")
        words.append(f'"{with_key_from_shell(argument)}"')
    return " ".join(["exec tritonserver", *words, '"$@"'])
