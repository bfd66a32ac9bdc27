"""Decides the values in every file of a deployment; the templates only write them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.errors import InputError
from dyndet_builder.deployment.flags import MODELS, in_pod, restricted, server_flags, shell_command
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.deployment.scaling import scaling
from dyndet_builder.engines.record import Target
from dyndet_builder.pins import GRAFANA_IMAGE, PROMETHEUS_IMAGE
from dyndet_builder.quoting import image, promql
from dyndet_builder.repository.config import TOPOLOGY_PARAMETER
from dyndet_builder.repository.rendered import Rendered
from dyndet_builder.server.admin import ADMIN_HEADER, ADMIN_VARIABLE

PROBE_FILE = "/opt/dyndet/probe.py"
"""where the image has the probe program"""

_KSERVE_MODELS = "/mnt/models"  # where KServe's storage initializer puts them
_PRE_STOP_S = 5  # until every node's load balancing knows that the pod stops
_PROBE_S = 10  # between two probes; the startup probe asks twice as often
_PROBE_WITHIN_S = {"startup": 10, "readiness": 10, "liveness": 5}  # liveness takes twice that if it gets no answer
_PROBE_TIMEOUT_S = 20
_PROBE_FAILURES = 3
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
    environment: Mapping[str, str]
    """variables of the server, without secrets"""
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
    copied: tuple[str, ...]
    """models of the repository that go into the image; empty: all"""
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
    follows_load: bool
    """whether the autoscaler follows the accuracy that gives way, instead of the requests that wait"""
    scaling_metric: str
    scaling_target: str
    adapter_metric: str
    """metric of the server by which prometheus-adapter finds the pods"""
    adapter_series: str
    adapter_query: str
    engine_cache: str
    probes: dict[str, tuple[str, ...]]
    """words of the probe program by the kind of probe: startup, readiness, liveness"""
    probe_s: int
    probe_timeout_s: int
    probe_failures: int
    startup_s: int
    startup_probe_s: int
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
    deployed.check_engines(Target(gpus=None, tensorrt=release.tensorrt, name=base_image))
    name = options.name or _name_of(deployed.model)
    claim, claim_path = options.claim() or ("", "")
    shm_mib = deployed.memory.shared_memory >> 20
    startup_s = options.startup_s or (_STARTUP_WITH_ENGINES_S if deployed.builds_engines else _STARTUP_S)
    in_image = options.storage == "image"
    tracing = options.tracing(name)
    scaled = scaling(deployed, options)
    flags = server_flags(deployed, options, tracing)
    kserve_flags = flags if in_image else server_flags(deployed, options, tracing, repository=_KSERVE_MODELS)
    # Relative, so that the folders can be moved together; resolved, since `..` after a link leads elsewhere.
    repository, folder = deployed.folder.resolve(), output.resolve()
    return Values(
        name=name,
        model=deployed.model,
        bundle_sha256=deployed.bundle_sha256,
        base_image=base_image,
        image=options.image or image(f"{name}:{deployed.bundle_sha256[:12]}"),
        packages=release.packages(
            onnx_in_python=deployed.runs_onnx_in_python,
            gpus=bool(deployed.gpus),
            bls=deployed.calls_stages,
            pictures=deployed.decodes_pictures,
            tracing=tracing is not None,
        ),
        environment=tracing.environment if tracing else {},
        arguments=in_pod(flags),
        kserve_arguments=in_pod(kserve_flags),
        shell_command=shell_command(flags),
        build_context=_relative(repository, folder),
        dockerfile_from_context=_relative(folder / "Dockerfile", repository),
        models_folder=MODELS,
        models_in_image=in_image,
        copied=deployed.models if deployed.beside else (),
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
        restricted=restricted(options),
        client_shared_memory=options.client_shared_memory,
        shm_mib=shm_mib,
        cpu=options.cpu,
        memory=options.memory or f"{_memory_mib(deployed, shm_mib)}Mi",
        gpu_count=len(deployed.gpus),
        gpu_resource=options.gpu_resource,
        replicas=options.replicas,
        max_replicas=options.max_replicas,
        autoscales=options.max_replicas > options.replicas,
        follows_load=scaled.follows_load,
        scaling_metric=scaled.metric,
        scaling_target=f"{round(1000 * scaled.target)}m",
        adapter_metric=scaled.series,
        adapter_series=f'{scaled.series}{{namespace!="",pod!="",job={promql(name)}}}',
        adapter_query=scaled.query(where="<<.LabelMatchers>>", by="<<.GroupBy>>"),
        engine_cache=deployed.engine_cache,
        probes={
            kind: ("python3", PROBE_FILE, kind, *_public_models(deployed), f"--within={within_s}")
            for kind, within_s in _PROBE_WITHIN_S.items()
        },
        probe_s=_PROBE_S,
        probe_timeout_s=_PROBE_TIMEOUT_S,
        probe_failures=_PROBE_FAILURES,
        startup_s=startup_s,
        startup_probe_s=_PROBE_S // 2,
        startup_failures=-(-startup_s // (_PROBE_S // 2)),
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
    found += [f"{reason}; the server may not load this model" for reason in deployed.unread.values()]
    if deployed.engine_cache:
        found.append(
            f"each replica builds its engines when it starts, and stores them in {deployed.engine_cache} until its pod "
            "ends; with engines that `dyndet engines` built before, a replica starts in seconds"
        )
    if deployed.all_cores:
        limited = deployed.runs_onnx_in_python
        count = "a pod may use cores, without a CPU limit all of the node's" if limited else "the node has cores"
        found.append(
            f"the stages start as many threads as {count}, even if a pod gets fewer; render the repository with "
            f"`--threads` no larger than the {options.cpu} cores that a pod requests"
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


def _relative(path: Path, folder: Path) -> str:
    """A path as seen from a folder. It starts with a dot, so that Docker takes it for no option and no address."""
    found = os.path.relpath(path, folder)
    return found if found.startswith(f"..{os.sep}") or found in (".", "..") else f".{os.sep}{found}"


def _public_models(deployed: Rendered) -> tuple[str, ...]:
    """All models that clients call: detectors, and those that take image files."""
    detectors = (config.name for config in deployed.configs if TOPOLOGY_PARAMETER in config.parameters)
    return (*sorted(detectors), *sorted(deployed.encoded))


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
