"""The options of rendering a repository's deployment."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from dynamicdet.errors import InputError
from dynamicdet.redaction import has_secrets, public_address, public_image
from dyndet_bench.measuring.statistic import THROUGHPUT
from dyndet_builder.pins import CURRENT, Release, find_release
from dyndet_builder.quoting import IMAGE
from dyndet_builder.server.tracing import Tracing
from dyndet_builder.targets import Target, parse_target

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")  # a Service's; leaves room for suffixes
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"  # of a DNS name
_OBJECT = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_NUMBER = r"[0-9]{1,6}(?:\.[0-9]{1,3})?"
_CPU = re.compile(rf"{_NUMBER}|[0-9]{{1,9}}m")
_MEMORY = re.compile(rf"[0-9]{{1,15}}|{_NUMBER}(?:[kMGT]|[KMGT]i)")
_RESOURCE = re.compile(rf"(?=.{{1,253}}/){_LABEL}(?:\.{_LABEL})*/[A-Za-z0-9](?:[-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?")
_FOLDERS = r"(?!(?:.*/)?\.\.?(?:/|\Z))[A-Za-z0-9_.=+@~:/-]{0,1000}"  # no `.` and `..` among them
_BUCKET = re.compile(rf"(?:s3|gs)://(?:https?://)?[A-Za-z0-9]{_FOLDERS}")
_CLAIM = re.compile(rf"pvc://(?P<claim>(?=[^/]{{1,253}}(?:/|\Z)){_LABEL}(?:\.{_LABEL})*)(?:/(?P<path>{_FOLDERS}))?")
_TARGET = re.compile(r"(?P<host>[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>[0-9]{1,5})")
_HOST_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_RELEASE_IN_TAG = re.compile(r":([0-9]{2}\.[0-9]{2})(-|$|@)")

_LONGEST = 1000  # characters
_MOST_REPLICAS, _MOST_S, _MOST_MS = 10_000, 86_400, 86_400_000
_RANGES = (
    ("replicas", 1, _MOST_REPLICAS),
    ("max_replicas", 1, _MOST_REPLICAS),
    ("exit_timeout_s", 1, _MOST_S),
    ("scrape_interval_s", 1, _MOST_S),
    ("startup_s", 1, _MOST_S),
)


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
    hard_share_floor: float | None = None
    """hard share below which replicas are added where the threshold follows the load; None: the calibrated one"""
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
    http_inference: bool = True
    """whether clients get answers over HTTP without the admin key; gRPC stays open"""
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
            ("base_image", IMAGE, f"an image, such as {CURRENT.image}"),
            ("image", IMAGE, "an image, such as registry.example/street:1"),
            ("gpu_resource", _RESOURCE, "an extended resource, such as nvidia.com/gpu"),
            ("cpu", _CPU, "a quantity above 0, such as 4 or 500m"),
            ("memory", _MEMORY, "a quantity above 0, such as 8Gi"),
            ("service_account", _OBJECT, "the name of a service account"),
            ("admin_secret", _OBJECT, "the name of a Secret"),
        ):
            value = getattr(self, field)
            if value is not None and not _fits(pattern, value):
                raise InputError(f"{field} {public_image(value)!r} is not accepted; give {like}")
        for field, least, most in _RANGES:
            value = getattr(self, field)
            if value is not None and not least <= value <= most:
                raise InputError(f"{field} must be at least {least} and at most {most:,}, not {value}")
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
        if self.max_replicas < self.replicas:
            raise InputError(
                f"max_replicas must be at least {self.replicas}, the smallest number, not {self.max_replicas}"
            )
        if self.queue_target_ms is not None and not 0.001 <= self.queue_target_ms <= _MOST_MS:
            raise InputError(
                f"queue_target_ms must be a positive number of milliseconds, from 0.001 to {_MOST_MS:,}, not "
                f"{self.queue_target_ms}"
            )
        if self.hard_share_floor is not None and not 0 <= self.hard_share_floor <= 1:
            raise InputError(f"hard_share_floor must be a share from 0 to 1, not {self.hard_share_floor}")
        for target in self.metrics_targets:
            if not _is_address(target):
                raise InputError(
                    f"metrics target {public_address(target)!r} is not HOST:PORT; give a host name or an IP address "
                    "and a port from 1 to 65535, such as 10.0.0.7:8002 or [::1]:8002"
                )
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


def _fits(pattern: re.Pattern[str], text: str) -> bool:
    """Whether a text has a pattern and, if it is an image or a quantity, a possible port and a number above 0."""
    match = pattern.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        return False
    if pattern is IMAGE:
        return len(match["path"]) <= 255 and (match["port"] is None or _is_port(match["port"]))
    return pattern not in (_CPU, _MEMORY) or re.search("[1-9]", text) is not None


def _is_address(text: str) -> bool:
    """Whether it is HOST:PORT."""
    match = _TARGET.fullmatch(text)
    if match is None or not _is_port(match["port"]):
        return False
    host = match["host"]
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif re.fullmatch(r"[0-9.]+", host):
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return host.startswith("[") or all(_HOST_PART.fullmatch(part) for part in host.split("."))


def _is_port(text: str) -> bool:
    return 1 <= int(text) <= 65535
