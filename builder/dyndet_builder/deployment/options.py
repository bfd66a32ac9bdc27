"""The options of rendering a repository's deployment."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from dynamicdet.errors import InputError
from dynamicdet.redaction import has_secrets, public_address
from dyndet_bench.measuring.statistic import THROUGHPUT
from dyndet_builder.pins import CURRENT, Release, find_release
from dyndet_builder.server.tracing import Tracing
from dyndet_builder.targets import Target, parse_target

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")  # a Service's; leaves room for suffixes
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kMGT]i?)?")
_RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_BUCKET = re.compile(r"(s3|gs)://[^\s'\"$]+")
_CLAIM = re.compile(r"pvc://(?P<claim>[a-z0-9]([-a-z0-9.]*[a-z0-9])?)(/(?P<path>[^\s'\"$]*))?")
_TARGET = re.compile(r"[A-Za-z0-9_.-]+:[0-9]{1,5}")
_RELEASE_IN_TAG = re.compile(r":([0-9]{2}\.[0-9]{2})(-|$|@)")


@dataclass(frozen=True, kw_only=True)
class DeployOptions:
    """How a repository is deployed. Raises InputError for values that Kubernetes refuses or that cannot work."""

    name: str | None = None
    """of the Kubernetes objects and the compose service; None: made from the model's"""
    base_image: str | None = None
    """Triton image that the Dockerfile builds on; None: NVIDIA's image of the release"""
    image: str | None = None
    """name of the image that the Dockerfile builds; None: `name`, tagged with the bundle's hash"""
    triton_version: str | None = None
    """release of Triton, such as 26.09; None: read from the tag of `base_image`, or the current one without it"""
    allow_known_holes: bool = False
    """whether the release may be one with published vulnerabilities"""
    storage: str = "image"
    """where the models are: `image`, `pvc://CLAIM/PATH`, `s3://BUCKET/PATH`, `gs://BUCKET/PATH`"""
    replicas: int = 2
    """smallest number"""
    max_replicas: int = 8
    """largest number for autoscaling; equal to `replicas`: no autoscaling"""
    queue_target_ms: float | None = None
    """mean wait of a request above which replicas are added; None: half the calibrated mean latency"""
    gpu_resource: str = "nvidia.com/gpu"
    """the cluster's name for a GPU, or a share of one: nvidia.com/mig-1g.10gb (MIG), nvidia.com/gpu.shared (time)"""
    cpu: str = "4"
    memory: str | None = None
    """None: estimated from the repository"""
    service_account: str | None = None
    """of the pods; gives access to a bucket"""
    admin_secret: str | None = None
    """Kubernetes Secret whose `key` opens the administrative endpoints; None: `name` with -admin"""
    client_shared_memory: bool = False
    """whether clients on the same machine can pass images in shared memory"""
    startup_s: int | None = None
    """time for a replica to load its models; None: 180 s, or 1200 s if it builds engines"""
    exit_timeout_s: int = 30
    """time for requests in flight to finish when a replica is stopped"""
    promise: str | None = None
    """latency that the alerts watch, such as p99:20ms; None: that of the default operating point"""
    trace_endpoint: str | None = None
    """URL of the collector that gets OpenTelemetry spans; None: none are made"""
    trace_rate: int = 0
    """trace every n-th request, too, whose caller traces nothing"""
    scrape_interval_s: int = 15
    metrics_targets: tuple[str, ...] = ()
    """host:port of metrics that the static scrape configuration names; empty: the compose service"""

    def __post_init__(self) -> None:
        for field, pattern, like in (
            ("name", _NAME, "lower-case letters, digits and '-', at most 40, such as street"),
            ("base_image", _IMAGE, f"an image, such as {CURRENT.image}"),
            ("image", _IMAGE, "an image, such as registry.example/street:1"),
            ("gpu_resource", _RESOURCE, "an extended resource, such as nvidia.com/gpu"),
            ("cpu", _QUANTITY, "a quantity, such as 4 or 500m"),
            ("memory", _QUANTITY, "a quantity, such as 8Gi"),
            ("service_account", _NAME, "the name of a service account"),
            ("admin_secret", _NAME, "the name of a Secret"),
        ):
            value = getattr(self, field)
            if value is not None and not pattern.fullmatch(value):
                raise InputError(f"{field} {value!r} is not accepted; give {like}")
        if self.storage != "image" and not (_BUCKET.fullmatch(self.storage) or _CLAIM.fullmatch(self.storage)):
            raise InputError(
                f"storage {public_address(self.storage)!r} is not known; give image, pvc://CLAIM/PATH, "
                "s3://BUCKET/PATH or gs://BUCKET/PATH"
            )
        if self.bucket and has_secrets(self.storage):
            raise InputError(
                f"storage {public_address(self.storage)!r} contains a user, a password or a key, which the deployment "
                "would show; give it without, and the key in a Secret or with service_account"
            )
        for field, least in (("replicas", 1), ("exit_timeout_s", 1), ("scrape_interval_s", 1), ("startup_s", 1)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise InputError(f"{field} must be at least {least}, not {value}")
        if self.max_replicas < self.replicas:
            raise InputError(f"max_replicas must be at least replicas ({self.replicas}), not {self.max_replicas}")
        if self.queue_target_ms is not None and not (math.isfinite(self.queue_target_ms) and self.queue_target_ms > 0):
            raise InputError(f"queue_target_ms must be a positive number of milliseconds, not {self.queue_target_ms}")
        for target in self.metrics_targets:
            if not _TARGET.fullmatch(target):
                raise InputError(f"metrics target {target!r} is not HOST:PORT")
        self.promised()
        self.release()
        self.tracing("dyndet")

    def tracing(self, service: str) -> Tracing | None:
        """How the server of this name traces; None: it does not. Raises InputError for an impossible URL or rate."""
        if self.trace_endpoint is None and self.trace_rate:
            raise InputError(f"the trace rate {self.trace_rate} needs a trace endpoint (--trace-endpoint URL)")
        if self.trace_endpoint is None:
            return None
        return Tracing(url=self.trace_endpoint, rate=self.trace_rate, service=service)

    def promised(self) -> Target | None:
        """The promise that was given. Raises InputError if it is not a latency."""
        if self.promise is None:
            return None
        target = parse_target(self.promise)
        if target.of_range or target.statistic == THROUGHPUT:
            raise InputError(f"promise {self.promise!r} is not a latency; give one such as p99:20ms or 12ms")
        return target

    def claim(self) -> tuple[str, str] | None:
        """The volume claim with the models and the path in it; None if they are not on one."""
        match = _CLAIM.fullmatch(self.storage)
        return None if match is None else (match["claim"], (match["path"] or "").strip("/"))

    @property
    def bucket(self) -> bool:
        """Whether the models are in a bucket, which Triton reads itself."""
        return _BUCKET.fullmatch(self.storage) is not None

    def release(self) -> Release:
        """The Triton release that the deployment stands on.

        Raises InputError if the tag of the base image names none, if it is not a known one, or if it has known holes.
        """
        name = self.triton_version
        if name is None and self.base_image is not None:
            match = _RELEASE_IN_TAG.search(self.base_image)
            if match is None:
                raise InputError(
                    f"the tag of {self.base_image} names no Triton release, on which packages and flags depend; give "
                    f"--triton-version, such as {CURRENT.name}"
                )
            name = match[1]
        return find_release(name, allow_known_holes=self.allow_known_holes)
