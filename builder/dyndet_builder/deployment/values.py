"""Decides what every file of a deployment says; the templates only write it down."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.errors import InputError
from dyndet_builder.deployment.alerts import queue_target_ms
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.deployment.server import (
    ADMIN_HEADER,
    ADMIN_VARIABLE,
    MODELS,
    packages,
    restricted_endpoints,
    server_arguments,
)
from dyndet_builder.engines.record import Target, check_engines, tensorrt_of
from dyndet_builder.repository.rendered import Rendered

KSERVE_MODELS = "/mnt/models"
"""where KServe's storage initializer puts them"""

_PROMETHEUS_IMAGE = "prom/prometheus:v2.53.5"
_GRAFANA_IMAGE = "grafana/grafana:11.4.0"
_PRE_STOP_S = 5  # until every node's load balancing has heard that the pod goes
_PROBE_S = 5
_STARTUP_S, _STARTUP_WITH_ENGINES_S = 180, 1200
_SERVER_MIB, _PER_PROCESS_MIB, _CUDA_MIB = 1024, 256, 2048
_S3_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION")


@dataclass(frozen=True, kw_only=True)
class Values:
    """What the templates fill in."""

    name: str
    model: str
    bundle_sha256: str
    base_image: str
    image: str
    packages: tuple[str, ...]
    arguments: tuple[str, ...]
    """of the server in a pod, which expands $(VARIABLE)"""
    kserve_arguments: tuple[str, ...]
    shell_command: str
    """of the server in the image, whose shell expands variables"""
    build_context: str
    """the repository, as seen from the deployment's folder"""
    dockerfile_from_context: str
    models_folder: str
    models_in_image: bool
    mounts_models: bool
    """whether compose mounts the repository of this machine"""
    storage_uri: str
    """for KServe; empty where the models lie in the image"""
    claim: str
    claim_path: str
    bucket_variables: tuple[str, ...]
    needs_token: bool
    service_account: str | None
    admin_secret: str
    admin_variable: str
    admin_header: str
    restricted: tuple[str, ...]
    client_shared_memory: bool
    shm_mib: int
    cpu: str
    memory: str
    gpu_count: int
    gpu_resource: str
    replicas: int
    max_replicas: int
    autoscales: bool
    queue_metric: str
    queue_target: str
    adapter_query: str
    engine_cache: str
    startup_s: int
    startup_failures: int
    pre_stop_s: int
    grace_s: int
    rolling_update: dict[str, int]
    labels: dict[str, str]
    selector: dict[str, str]
    scrape_interval_s: int
    metrics_targets: tuple[str, ...]
    prometheus_image: str
    grafana_image: str
    dashboard_uid: str


def values(deployed: Rendered, options: DeployOptions, *, output: Path) -> Values:
    """Raises InputError for GPU ids that a container does not have, and engines that the image does not run."""
    _check_gpus(deployed)
    tag = "{:02}.{:02}".format(*release) if (release := options.release()) else ""
    target = Target(gpus=None, tensorrt=tensorrt_of(tag), name=options.base_image)
    check_engines(deployed.folder, target)
    name = options.name or _name_of(deployed.model)
    claim, claim_path = options.claim() or ("", "")
    shm_mib = deployed.memory.shared_memory >> 20
    startup_s = options.startup_s or (_STARTUP_WITH_ENGINES_S if deployed.builds_engines else _STARTUP_S)
    in_image = options.storage == "image"
    in_pod = server_arguments(deployed, options, admin_key=f"$({ADMIN_VARIABLE})")
    # Relative, so that the folders can be moved together; resolved, since `..` after a link leads elsewhere.
    repository, folder = deployed.folder.resolve(), output.resolve()
    return Values(
        name=name,
        model=deployed.model,
        bundle_sha256=deployed.bundle_sha256,
        base_image=options.base_image,
        image=options.image or f"{name}:{deployed.bundle_sha256[:12]}",
        packages=packages(deployed),
        arguments=in_pod,
        kserve_arguments=in_pod if in_image else (f"--model-repository={KSERVE_MODELS}", *in_pod[1:]),
        shell_command=_shell_command(server_arguments(deployed, options, admin_key=_IN_SHELL)),
        build_context=os.path.relpath(repository, folder),
        dockerfile_from_context=os.path.relpath(folder / "Dockerfile", repository),
        models_folder=MODELS,
        models_in_image=in_image,
        mounts_models=bool(claim),
        storage_uri="" if in_image else options.storage,
        claim=claim,
        claim_path=claim_path,
        bucket_variables=_S3_VARIABLES if options.storage.startswith("s3:") else (),
        needs_token=options.bucket and options.service_account is not None,
        service_account=options.service_account,
        admin_secret=options.admin_secret or f"{name}-admin",
        admin_variable=ADMIN_VARIABLE,
        admin_header=ADMIN_HEADER,
        restricted=restricted_endpoints(options),
        client_shared_memory=options.client_shared_memory,
        shm_mib=shm_mib,
        cpu=options.cpu,
        memory=options.memory or f"{_memory_mib(deployed, shm_mib)}Mi",
        gpu_count=len(deployed.gpus),
        gpu_resource=options.gpu_resource,
        replicas=options.replicas,
        max_replicas=options.max_replicas,
        autoscales=options.max_replicas > options.replicas,
        queue_metric="dyndet_queue_ms",
        queue_target=f"{round(1000 * queue_target_ms(deployed, options))}m",
        adapter_query=_adapter_query(deployed),
        engine_cache=deployed.engine_cache,
        startup_s=startup_s,
        startup_failures=-(-startup_s // _PROBE_S),
        pre_stop_s=_PRE_STOP_S,
        grace_s=_PRE_STOP_S + options.exit_timeout_s + 10,
        rolling_update={"maxSurge": 0, "maxUnavailable": 1} if deployed.gpus else {"maxSurge": 1, "maxUnavailable": 0},
        labels={
            "app.kubernetes.io/name": "dyndet",
            "app.kubernetes.io/instance": name,
            "app.kubernetes.io/component": "triton",
        },
        selector={"app.kubernetes.io/name": "dyndet", "app.kubernetes.io/instance": name},
        scrape_interval_s=options.scrape_interval_s,
        metrics_targets=options.metrics_targets or (f"{name}:8002",),
        prometheus_image=_PROMETHEUS_IMAGE,
        grafana_image=_GRAFANA_IMAGE,
        dashboard_uid=f"dyndet-{name}"[:40],
    )


def notes(deployed: Rendered, options: DeployOptions) -> tuple[str, ...]:
    """What somebody who deploys this has to know, a sentence each."""
    found = []
    if deployed.engine_cache:
        found.append(
            f"each replica builds its engines when it starts, and keeps them in {deployed.engine_cache} for as long as "
            "its pod lives: engines built once, with `dyndet engines`, start in seconds"
        )
    if deployed.all_cores:
        found.append(
            "the stages start as many threads as the node has cores, whatever a pod may use: render the repository "
            f"with `--threads` no larger than the {options.cpu} cores that a pod asks for"
        )
    if options.memory is None:
        found.append(
            "the memory of a pod is an estimate from the sizes of the models: watch it, and set `--memory`; /dev/shm "
            "is part of it"
        )
    if options.storage != "image":
        found.append(f"the repository has to lie at {options.storage} before the first pod starts")
    if options.bucket:
        found.append(
            "Triton copies the models from the bucket when it starts: a new calibration reaches it with a restart"
        )
    elif options.storage == "image":
        found.append("the models and their operating points are in the image: a new calibration is a new image")
    found.append(
        "one gRPC connection stays with one replica; programs that send much should balance over "
        "the `-replicas` Service, or through a proxy that understands HTTP/2"
    )
    return tuple(found)


_IN_SHELL = f"${{{ADMIN_VARIABLE}:?is not set}}"


def _shell_command(arguments: tuple[str, ...]) -> str:
    """What /bin/sh runs; it expands nothing in the flags but the admin key."""
    words = []
    for argument in arguments:
        plain, variable, _ = argument.partition(_IN_SHELL)
        if re.search(r"[\"$`\\]", plain):  # options are checked to hold none
            raise InputError(f"the flag {argument!r} cannot be written into a Dockerfile")
        words.append(f'"{plain}{variable}"')
    return " ".join(["exec tritonserver", *words, '"$@"'])


def _name_of(model: str) -> str:
    """A name that Kubernetes takes."""
    name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:40].strip("-")
    if not name:
        return "dyndet"
    return name if name[0].isalpha() else f"m-{name}"[:40]


def _check_gpus(deployed: Rendered) -> None:
    if deployed.gpus != tuple(range(len(deployed.gpus))):
        named = ", ".join(map(str, deployed.gpus))
        flags = " ".join(f"--gpu {number}" for number in range(len(deployed.gpus)))
        raise InputError(
            f"{deployed.folder} names the GPUs {named}, and a container counts its own from 0; render it with {flags}"
        )


def _memory_mib(deployed: Rendered, shm_mib: int) -> int:
    """The server, its Python processes and their graphs with room for what they compute, and shared memory."""
    graphs = 4 * (deployed.bytes_on_disk >> 20)
    needed = _SERVER_MIB + _PER_PROCESS_MIB * deployed.python_instances + graphs + shm_mib
    needed += _CUDA_MIB * len(deployed.gpus)
    return -(-needed // 256) * 256


def _adapter_query(deployed: Rendered) -> str:
    """How long a request waits in a pod, milliseconds; <<...>> is filled in by prometheus-adapter."""
    ours = "|".join(re.escape(name) for name in deployed.models).replace("\\", "\\\\")
    by, where = "by (<<.GroupBy>>)", "<<.LabelMatchers>>"
    waited = f'sum(rate(nv_inference_queue_duration_us{{{where},model=~"{ours}"}}[1m])) {by}'
    answered = f'sum(rate(nv_inference_request_success{{{where},model="{deployed.model}"}}[1m])) {by}'
    # Without requests 0, not no answer: the autoscaler removes no pod that it knows nothing of.
    return f"{waited} / clamp_min({answered}, 0.001) / 1000"
