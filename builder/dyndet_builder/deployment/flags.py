"""The flags of tritonserver in a deployment, for a pod and for the shell in the image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dynamicdet.errors import InputError
from dyndet_bench.measuring.statistic import Statistic
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.quoting import dollars, shell
from dyndet_builder.repository.rendered import Rendered
from dyndet_builder.server.admin import (
    INFERENCE,
    KEY_REFERENCE,
    RESTRICTED,
    SHARED_MEMORY,
    restricting_arguments,
    with_key_from_shell,
)
from dyndet_builder.server.headers import FORWARDING
from dyndet_builder.server.tracing import Tracing

MODELS = "/models"
"""where the image has the models, or where they are mounted"""

_CLIENT_SHM_SINCE = "26.05"


@dataclass(frozen=True)
class Flag:
    """A flag of tritonserver; with `keyed`, the admin key follows the text."""

    text: str
    keyed: bool = False


def server_flags(
    deployed: Rendered, options: DeployOptions, tracing: Tracing | None, *, repository: str | None = None
) -> tuple[Flag, ...]:
    """The flags of tritonserver; `repository` is where it finds the models, if not where the options say."""
    place = repository or (options.storage if options.bucket else MODELS)
    plain = (
        f"--model-repository={place}",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        *_metrics_arguments(deployed, options),
        *deployed.memory.arguments(deployed.gpus),
        *deployed.pool_arguments,
        *FORWARDING,
        *deployed.engine_arguments,
        *_loaded(deployed, options),
        *_client_shared_memory(options),
        *(tracing.arguments if tracing else ()),
    )
    keyed = (argument.removesuffix(KEY_REFERENCE) for argument in _restricting(options))
    return (*map(Flag, plain), *(Flag(text, keyed=True) for text in keyed))


def _loaded(deployed: Rendered, options: DeployOptions) -> tuple[str, ...]:
    """Flags that load this detector alone from a place that also holds others; an image holds only this one."""
    if options.storage == "image" or not deployed.beside:
        return ()
    return ("--model-control-mode=explicit", *(f"--load-model={name}" for name in deployed.models))


def restricted(options: DeployOptions) -> tuple[str, ...]:
    """Triton's names of the endpoints that need the admin key."""
    return RESTRICTED if options.client_shared_memory else (*RESTRICTED, SHARED_MEMORY)


def _restricting(options: DeployOptions) -> tuple[str, str]:
    return restricting_arguments(restricted(options), over_http=() if options.http_inference else (INFERENCE,))


def _metrics_arguments(deployed: Rendered, options: DeployOptions) -> tuple[str, ...]:
    """Flags for percentiles with the queue: Triton 2.51 offers them only as summaries, and only if a flag asks."""
    levels = {0.5, 0.9, 0.95, 0.99}
    promised = options.promised()
    points = deployed.points.points.values()
    names = [point.statistic for point in points]
    names += [point.follow_load.statistic for point in points if point.follow_load is not None]
    for statistic in (*names, None if promised is None else promised.statistic.name):
        level = None if statistic is None else Statistic(statistic).level
        if level is not None:
            levels.add(level)
    quantiles = ",".join(f"{level:.6g}:{min(0.01, (1 - level) / 10):.2g}" for level in sorted(levels))
    return ("--metrics-config=summary_latencies=true", f"--metrics-config=summary_quantiles={quantiles}")


def _client_shared_memory(options: DeployOptions) -> tuple[str, ...]:
    """The flag without which newer releases refuse to map a client's memory."""
    needed = options.client_shared_memory and options.release().name >= _CLIENT_SHM_SINCE
    return ("--allow-client-shm=true",) if needed else ()


def in_pod(flags: Iterable[Flag]) -> tuple[str, ...]:
    """The words of a pod, where Kubernetes puts the admin key in."""
    return tuple(f"{dollars(flag.text)}{KEY_REFERENCE if flag.keyed else ''}" for flag in flags)


def shell_command(flags: Iterable[Flag]) -> str:
    """The command for /bin/sh, which puts the admin key in. Raises InputError for text that this shell cannot hold."""
    key = with_key_from_shell(f'"{KEY_REFERENCE}"')
    words = []
    for flag in flags:
        if not flag.text.isprintable():
            raise InputError(f"the flag {flag.text!r} has characters that /bin/sh cannot hold")
        words.append(f"{shell(flag.text)}{key if flag.keyed else ''}")
    return " ".join(["exec tritonserver", *words, '"$@"'])
