"""The docker command that serves a repository with NVIDIA's official image."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from dynamicdet.errors import InputError
from dyndet_builder.engines.record import VERSION_COMPATIBLE, check_engines_here, gpus_here
from dyndet_builder.pins import CURRENT, Release
from dyndet_builder.quoting import command as quoted
from dyndet_builder.quoting import mount, place
from dyndet_builder.repository.backends import ENGINE_CACHE
from dyndet_builder.repository.memory import MemoryNeeds
from dyndet_builder.repository.rendered import Repository, read_repository
from dyndet_builder.server.admin import (
    ADMIN_VARIABLE,
    RESTRICTED,
    SHARED_MEMORY,
    closing_argument,
    restricting_arguments,
    with_key_from_shell,
)
from dyndet_builder.server.headers import FORWARDING
from dyndet_builder.server.tracing import Tracing
from dyndet_builder.server.triton import DEFAULT_PORTS

_MIB = 1 << 20
_RANDOM = "$(od -An -N24 -tx1 /dev/urandom | tr -dc 0-9a-f)"
"""a new key, for the container's shell"""
# Smallest sizes for an explicit server, whatever it loads later, for full batches of the default rendering. The pools
# are reserved on the GPU and the host, so they fit the largest published network in half precision. /dev/shm is only a
# limit, so it also fits that network in single precision.
_EXPLICIT_CUDA_POOL, _EXPLICIT_PINNED_POOL, _EXPLICIT_SHARED_MEMORY = 2048 * _MIB, 1280 * _MIB, 8192 * _MIB


def docker_command(
    repository: Path,
    *,
    ports: Mapping[str, int],
    host: str = "127.0.0.1",
    open_admin: bool = False,
    http_inference: bool = True,
    log_verbose: int = 0,
    model_control: str = "none",
    gpus: Collection[int] = (),
    release: Release = CURRENT,
    tracing: Tracing | None = None,
) -> list[str]:
    """Words of the command. The repository is mounted read-only; changes on the host are visible in the container.

    `release` is that of NVIDIA's image, and of the packages that are installed in it.

    With the model control `explicit`, the repository can be empty: the server has everything that a model loaded later
    can need. It uses the GPUs `gpus` or, without them, those that its models name and all GPUs of this machine.

    If other machines can reach `host`, the administrative endpoints require the key that `ADMIN_VARIABLE` holds when
    the command runs, unless `open_admin` is true.

    Without `http_inference`, nobody gets answers over HTTP: the container makes a key that it tells nobody.

    The collector of `tracing` must be one that the container reaches.

    Raises InputError if the folder is not a repository, ports are equal, `host` is not an IP address, `gpus` are not
    those of its models, or its engines run neither on this machine's GPUs (if it has any) nor with the image's
    TensorRT.
    """
    address = _published(host)
    if len(set(ports.values())) < len(ports):
        given = ", ".join(f"{kind} {port}" for kind, port in ports.items())
        raise InputError(f"HTTP, gRPC and metrics need three different ports, got {given}")
    explicit = model_control == "explicit"
    contents = read_repository(repository, explicit=explicit)
    check_engines_here(repository, release.image)
    used = _gpus(contents, gpus, explicit=explicit)
    needs = _memory(contents, used, explicit=explicit)
    command = ["docker", "run", "--rm", "--init", f"--shm-size={needs.shared_memory // _MIB}m"]
    if used or shutil.which("nvidia-smi") is not None:
        command += ["--gpus", "all"]
    for kind, port in ports.items():
        command += ["-p", f"{address}:{port}:{DEFAULT_PORTS[kind]}"]
    if cache := contents.engine_cache or (ENGINE_CACHE if explicit and used else ""):
        command += ["-v", f"dyndet{place(cache).replace('/', '-')}:{cache}"]  # a volume: engines are built once
    command += [*mount(repository.resolve(), "/models", read_only=True), "-e", "ORT_DISABLE_TELEMETRY=1"]
    for name, value in (tracing.environment if tracing else {}).items():
        command += ["-e", f"{name}={value}"]
    restricts = not (open_admin or ipaddress.ip_address(host).is_loopback)
    if restricts:
        command += ["-e", ADMIN_VARIABLE]  # with its value in docker's own environment
    command.append(release.image)
    engines = (VERSION_COMPATIBLE,) if explicit and used else contents.engine_arguments
    control = () if model_control == "none" else (f"--model-control-mode={model_control}",)
    verbose = (f"--log-verbose={log_verbose}",) if log_verbose else ()
    traced = tracing.arguments if tracing else ()
    options = [*needs.arguments(used), *contents.pool_arguments, *FORWARDING, *engines, *control, *verbose, *traced]
    restricted: tuple[str, ...] = restricting_arguments((*RESTRICTED, SHARED_MEMORY)) if restricts else ()
    if not http_inference:
        restricted = (*restricted, closing_argument(_RANDOM))
    with_key = (f'"{with_key_from_shell(argument)}"' for argument in restricted)
    serve = " ".join([quoted(["exec", "tritonserver", "--model-repository=/models", *options]), *with_key])
    installed = release.packages(
        onnx_in_python=explicit or contents.runs_onnx_in_python,
        gpus=bool(used),
        bls=explicit or contents.calls_stages,
        pictures=explicit or contents.decodes_pictures,
        tracing=tracing is not None,
    )
    # On Ubuntu 24.04, pip refuses to install beside apt without this variable.
    install = f"PIP_BREAK_SYSTEM_PACKAGES=1 pip install --quiet {quoted(installed)} && " if installed else ""
    return [*command, "bash", "-c", f"{install}{serve}"]


def _published(host: str) -> str:
    """The address as docker's option `-p` takes it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise InputError(
            f"docker cannot publish ports on host {host!r}; give an IP address of this machine, such as 127.0.0.1, or "
            "0.0.0.0 for all of its networks"
        ) from error
    return f"[{address}]" if address.version == 6 else str(address)


def _gpus(repository: Repository, asked: Collection[int], *, explicit: bool) -> tuple[int, ...]:
    """GPUs that the models name; for an explicit server also the requested ones or, if none are requested, all here."""
    named = set(repository.gpus)
    if not asked:
        return tuple(sorted(named.union(range(len(gpus_here()))) if explicit else named))
    if not (named <= set(asked) if explicit else named == set(asked)):
        raise InputError(
            f"the models in {repository.folder} run on {_text(named)}, but --gpu names {_text(asked)}; leave --gpu "
            f"out, or render them with {' '.join(f'--gpu {number}' for number in sorted(set(asked)))}"
        )
    return tuple(sorted(set(asked)))


def _text(gpus: Collection[int]) -> str:
    return f"GPU {' and '.join(map(str, sorted(set(gpus))))}" if gpus else "the CPU"


def _memory(repository: Repository, gpus: tuple[int, ...], *, explicit: bool) -> MemoryNeeds:
    needs = repository.memory
    if not explicit:
        return needs
    needs = replace(needs, shared_memory=max(needs.shared_memory, _EXPLICIT_SHARED_MEMORY))
    if not gpus:
        return needs
    return replace(
        needs,
        cuda_pool=max(needs.cuda_pool, _EXPLICIT_CUDA_POOL),
        pinned_pool=max(needs.pinned_pool, _EXPLICIT_PINNED_POOL),
    )
