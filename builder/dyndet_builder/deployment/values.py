"""Decides the values in every file of a deployment; the templates only write them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.errors import InputError
from dyndet_builder.deployment.alerts import queue_target_ms
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.engines.record import Target, check_engines
from dyndet_builder.pins import GRAFANA_IMAGE, PROMETHEUS_IMAGE
from dyndet_builder.repository.rendered import Rendered
from dyndet_builder.server.remote import ADMIN_HEADER, ADMIN_VARIABLE

RESTRICTED = ("model-repository", "logging", "trace")
"""endpoints that no client needs; health, metadata, configuration, statistics and inference stay open"""

_MODELS = "/models"
_KSERVE_MODELS = "/mnt/models"  # where KServe's storage initializer puts them
_CLIENT_SHM_SINCE = "26.05"
_KEY_IN_POD = f"$({ADMIN_VARIABLE})"
_KEY_IN_SHELL = f"${{{ADMIN_VARIABLE}:?is not set}}"
_PRE_STOP_S = 5  # until every node's load balancing knows that the pod stops
_PROBE_S = 5
_STARTUP_S, _STARTUP_WITH_ENGINES_S = 180, 1200
_SERVER_MIB, _PER_PROCESS_MIB, _CUDA_MIB = 1024, 256, 2048
_S3_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION")


@dataclass(frozen=True, kw_only=True)
class Values:
    """The values that the templates fill in."""

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
    """for KServe; empty if the models are in the image"""
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
    """Raises InputError for GPU ids that a container does not have, and for engines that the image cannot run."""
    _check_gpus(deployed)
    release = options.release()
    base_image = options.base_image or release.image
    check_engines(deployed.folder, Target(gpus=None, tensorrt=release.tensorrt, name=base_image))
    name = options.name or _name_of(deployed.model)
    claim, claim_path = options.claim() or ("", "")
    shm_mib = deployed.memory.shared_memory >> 20
    startup_s = options.startup_s or (_STARTUP_WITH_ENGINES_S if deployed.builds_engines else _STARTUP_S)
    in_image = options.storage == "image"
    in_pod = _server_arguments(deployed, options)
    # Relative, so that the folders can be moved together; resolved, since `..` after a link leads elsewhere.
    repository, folder = deployed.folder.resolve(), output.resolve()
    return Values(
        name=name,
        model=deployed.model,
        bundle_sha256=deployed.bundle_sha256,
        base_image=base_image,
        image=options.image or f"{name}:{deployed.bundle_sha256[:12]}",
        packages=release.packages(
            onnx_in_python=deployed.runs_onnx_in_python,
            gpus=bool(deployed.gpus),
            bls=deployed.calls_stages,
            pictures=deployed.decodes_pictures,
        ),
        arguments=in_pod,
        kserve_arguments=in_pod if in_image else (f"--model-repository={_KSERVE_MODELS}", *in_pod[1:]),
        shell_command=_shell_command(in_pod),
        build_context=os.path.relpath(repository, folder),
        dockerfile_from_context=os.path.relpath(folder / "Dockerfile", repository),
        models_folder=_MODELS,
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
        restricted=_restricted(options),
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
        prometheus_image=PROMETHEUS_IMAGE,
        grafana_image=GRAFANA_IMAGE,
        dashboard_uid=f"dyndet-{name}"[:40],
    )


def notes(deployed: Rendered, options: DeployOptions) -> tuple[str, ...]:
    """What a user who deploys this must know, one sentence each."""
    found = []
    if warning := options.release().warning:
        found.append(f"{warning}; keep every port of the server inside a network that you trust")
    if deployed.engine_cache:
        found.append(
            f"each replica builds its engines when it starts, and stores them in {deployed.engine_cache} until its pod "
            "ends; with engines that `dyndet engines` built before, a replica starts in seconds"
        )
    if deployed.all_cores:
        found.append(
            "the stages start as many threads as the node has cores, even if a pod gets fewer; render the repository "
            f"with `--threads` no larger than the {options.cpu} cores that a pod requests"
        )
    if options.memory is None:
        found.append(
            "the memory of a pod, which includes /dev/shm, is an estimate from the sizes of the models; watch it, and "
            "set `--memory`"
        )
    if options.storage != "image":
        found.append(f"the repository must be at {options.storage} before the first pod starts")
    if options.bucket:
        found.append(
            "Triton copies the models from the bucket when it starts, so a new calibration takes effect after a restart"
        )
    elif options.storage == "image":
        found.append("the models and their operating points are in the image, so a new calibration needs a new image")
    found.append(
        "one gRPC connection stays with one replica; programs that send many requests should balance over "
        "the `-replicas` Service, or through a proxy that understands HTTP/2"
    )
    return tuple(found)


def _server_arguments(deployed: Rendered, options: DeployOptions) -> tuple[str, ...]:
    """The flags of tritonserver in a pod; the first one names the repository."""
    repository = options.storage if options.bucket else _MODELS
    restricted = ",".join(_restricted(options))
    return (
        f"--model-repository={repository}",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        *_metrics_arguments(deployed, options),
        *deployed.memory.arguments(deployed.gpus),
        *deployed.engine_arguments,
        f"--http-restricted-api={restricted}:{ADMIN_HEADER}={_KEY_IN_POD}",
        f"--grpc-restricted-protocol={restricted}:{ADMIN_HEADER}={_KEY_IN_POD}",
        *_client_shared_memory(options),
    )


def _restricted(options: DeployOptions) -> tuple[str, ...]:
    """Triton's names of the endpoints that need the admin key."""
    return RESTRICTED if options.client_shared_memory else (*RESTRICTED, "shared-memory")


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


def _shell_command(arguments: tuple[str, ...]) -> str:
    """The command for /bin/sh, from a pod's flags; the shell expands only the admin key in them."""
    words = []
    for argument in arguments:
        plain, key, _ = argument.partition(_KEY_IN_POD)
        if re.search(r"[\"$`\\]", plain):  # the checks of the options allow none
            raise InputError(f"the flag {argument!r} cannot be written into a Dockerfile")
        words.append(f'"{plain}{_KEY_IN_SHELL if key else ""}"')
    # The pictures in the server's regions of /dev/shm are nobody else's, also where the host's memory is shared.
    return " ".join(["umask 077 && exec tritonserver", *words, '"$@"'])


def _name_of(model: str) -> str:
    """A name that Kubernetes accepts."""
    name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:40].strip("-")
    if not name:
        return "dyndet"
    return name if name[0].isalpha() else f"m-{name}"[:40]


def _check_gpus(deployed: Rendered) -> None:
    if deployed.gpus != tuple(range(len(deployed.gpus))):
        named = ", ".join(map(str, deployed.gpus))
        flags = " ".join(f"--gpu {number}" for number in range(len(deployed.gpus)))
        raise InputError(
            f"{deployed.folder} names the GPUs {named}, but a container numbers its GPUs from 0; render it with {flags}"
        )


def _memory_mib(deployed: Rendered, shm_mib: int) -> int:
    """The server, its Python processes, their graphs with room for intermediate tensors, and shared memory."""
    graphs = 4 * (deployed.bytes_on_disk >> 20)
    needed = _SERVER_MIB + _PER_PROCESS_MIB * deployed.python_instances + graphs + shm_mib
    needed += _CUDA_MIB * len(deployed.gpus)
    return -(-needed // 256) * 256


def _adapter_query(deployed: Rendered) -> str:
    """How long a request waits in a pod, milliseconds; prometheus-adapter fills in <<...>>."""
    ours = "|".join(re.escape(name) for name in deployed.models).replace("\\", "\\\\")
    by, where = "by (<<.GroupBy>>)", "<<.LabelMatchers>>"
    waited = f'sum(rate(nv_inference_queue_duration_us{{{where},model=~"{ours}"}}[1m])) {by}'
    answered = f'sum(rate(nv_inference_request_success{{{where},model="{deployed.model}"}}[1m])) {by}'
    # Without requests the result is 0, not empty: the autoscaler removes no pod without a value.
    return f"{waited} / clamp_min({answered}, 0.001) / 1000"
