"""`operating_points.json`: the thresholds of a served detector, and the measurements behind them.

The file is beside the BLS model's code (`<repository>/<name>/1/`). The reader there is plain Python and needs only
`default`, `points[name].threshold` and, under load, `points[name].follow_load` and `tenants`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from dynamicdet.errors import InputError
from dynamicdet.files import whole_file
from dynamicdet.records import Count, Finite, Label, NotNegative, Ordinal, Positive, Record, Share, Text, read_record
from dynamicdet.text import printable

FILE_NAME = "operating_points.json"
UNCALIBRATED = "uncalibrated"
LARGEST = 4 << 20
"""bytes, here and in the public model's reader"""

DAMAGED = "correct it, or delete the file, render the repository again and calibrate it again"
"""what to do about a damaged file: nothing but the file has its measurements, so no command replaces it"""

_TOLD = {
    "threshold",
    "target",
    "statistic",
    "unit",
    "load",
    "date",
    "goal",
    "reached",
    "mean_ms",
    "throughput_per_s",
    "easy_share",
    "percentiles_ms",
}
"""fields that clients get; the public model's reader has the same"""

PointName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+][A-Za-z0-9_.:/%+µ-]*$", max_length=100)]
"""a target without its spaces, or a name that its user gave; the public model's reader has the same pattern"""


TENANT_NAME = r"^[A-Za-z0-9_.-]{1,64}$"
TenantName = Annotated[str, StringConstraints(pattern=TENANT_NAME)]
"""as the request parameter `dyndet_tenant` has it"""
OTHER_TENANTS = "other"
"""the name that metrics give all tenants that are not in the file"""
MOST_TENANTS = 1000
MOST_HARD = 1_000_000
"""hard images a second, or at once, of a tenant"""


class FollowLoad(Record):
    """How the threshold of an operating point follows the load, so that a promised latency holds."""

    promise_ms: Positive = Field(description="a request is late after this time, from its arrival at the server")
    statistic: Annotated[str, StringConstraints(pattern=r"^p[0-9]{1,2}(\.[0-9]{1,6})?$")] = Field(
        default="p95", description="share of the requests that must be in time"
    )
    promised_by: Literal["calibration", "user"] = Field(
        default="calibration", description="who chose the promise; a calibration renews only its own"
    )
    floor: Share | None = Field(default=None, description="lowest threshold in force; None: that of the point")
    ceiling: Share = Field(default=1.0, description="highest threshold in force; 1: all images can be easy")
    enabled: bool = True

    @property
    def promise(self) -> str:
        """The promise as a target, such as p95:90ms."""
        return f"{self.statistic}:{self.promise_ms:.6g}ms"


class Tenant(Record):
    """What a tenant may use of detector 2: a bucket of tokens, one for each hard image."""

    hard_per_s: Annotated[float, Field(ge=0, le=MOST_HARD, allow_inf_nan=False)] = Field(
        description="hard images a second in the long run"
    )
    burst: Annotated[float, Field(ge=1, le=MOST_HARD, allow_inf_nan=False)] = Field(
        description="hard images that can follow each other at once"
    )
    operating_point: PointName | None = Field(default=None, description="of its requests that name none")


class OperatingPoint(Record):
    """A threshold and its measured results, on images that were not used to find it."""

    threshold: Share = Field(description="an image is hard if its difficulty exceeds this")
    target: Label | None = Field(default=None, description="as the user wrote it: 12ms, p95:15ms, throughput:80/s, 50%")
    statistic: Label | None = Field(default=None, description="statistic of the target: mean, p95, throughput")
    unit: Label | None = Field(default=None, description="unit of goal and reached: ms, or /s")
    goal: Positive | None = Field(default=None, description="the target as a number")
    reached: Finite | None = Field(default=None, description="the statistic at this threshold")
    error: Finite | None = Field(default=None, description="reached / goal - 1")
    interval: tuple[Finite, Finite] | None = Field(default=None, description="95 % interval of the error")
    mean_ms: NotNegative | None = None
    percentiles_ms: Annotated[dict[Label, NotNegative], Field(max_length=20)] | None = Field(
        default=None, description="p50, p90, p95, p99"
    )
    throughput_per_s: NotNegative | None = Field(default=None, description="images per second at the load")
    goodput: Share | None = Field(default=None, description="for a latency: share of requests within the goal")
    easy_share: Share | None = Field(default=None, description="share of images answered by detector 1, by the server")
    easy_share_calibrated: Share | None = Field(
        default=None, description="share of the calibration images that are easy at the threshold"
    )
    rounds: Count | None = Field(default=None, description="number of rounds of the verification")
    load: Text | None = None
    date: Text | None = Field(default=None, description="UTC, ISO 8601")
    follow_load: FollowLoad | None = Field(default=None, description="None: the threshold never changes")

    @model_validator(mode="after")
    def _check_bounds(self) -> OperatingPoint:
        if self.follow_load is not None and self.floor > self.follow_load.ceiling:
            raise ValueError(
                f"the floor {self.floor:g} of the threshold is above its ceiling {self.follow_load.ceiling:g}"
            )
        return self

    @property
    def floor(self) -> float:
        """The lowest threshold in force."""
        follow = self.follow_load
        return self.threshold if follow is None or follow.floor is None else follow.floor

    @property
    def followed(self) -> FollowLoad | None:
        """How it follows the load; None if it does not, or if that is switched off."""
        return self.follow_load if self.follow_load is not None and self.follow_load.enabled else None


class RouteLatency(Record):
    """Latency of a server that sends every image to one route, milliseconds."""

    mean_ms: NotNegative
    p50_ms: NotNegative
    p90_ms: NotNegative
    p95_ms: NotNegative
    p99_ms: NotNegative
    throughput_per_s: NotNegative
    requests: Count


class Reach(Record):
    """The range of one statistic over all thresholds."""

    easy: NotNegative = Field(description="if every image is easy")
    hard: NotNegative = Field(description="if every image is hard")


class Evidence(Record):
    """The measurements, and the machine and versions that they are for."""

    easy: RouteLatency
    hard: RouteLatency
    reachable: Annotated[dict[Label, Reach], Field(max_length=20)] = Field(
        description="mean, p50, p90, p95 and p99 in ms, throughput in images/s"
    )
    difficulty_quantiles: Annotated[tuple[Share, ...], Field(max_length=101)] = Field(
        description="0 %, 1 %, ... 100 % of the calibration images"
    )
    calibration_images: Count
    held_out_images: Count
    load: Text
    concurrency: Ordinal | None = Field(description="closed loop; None if requests arrived at a rate")
    request_rate: Positive | None = Field(description="open loop, requests per second")
    batch: Ordinal
    rounds_replayed: Count = Field(description="rounds from an earlier calibration, interrupted or equal")
    repeats: Count = Field(default=0, description="runs of perf_analyzer that hung or lost requests and were repeated")
    warnings: Annotated[tuple[Text, ...], Field(max_length=1000)] = Field(
        default=(), description="noise that hides the result, a client that sent late"
    )
    machine: Annotated[dict[Label, Text], Field(max_length=100)]
    versions: Annotated[dict[Label, Text], Field(max_length=100)]
    command: Text
    date: Text


class OperatingPoints(Record):
    """Contents of `operating_points.json`. The evidence is that of the latest calibration."""

    schema_version: Literal[2] = 2
    default: PointName
    points: Annotated[dict[PointName, OperatingPoint], Field(max_length=1000)]
    evidence: Evidence | None = None
    tenants: Annotated[dict[TenantName, Tenant], Field(max_length=MOST_TENANTS)] | None = None

    @model_validator(mode="after")
    def _check_names(self) -> OperatingPoints:
        if self.default not in self.points:
            raise ValueError(f"it has no point {self.default!r}, which it names as its default")
        for name, tenant in (self.tenants or {}).items():
            if name == OTHER_TENANTS:
                raise ValueError(f"a tenant cannot be named {name!r}: metrics give this name to all unknown tenants")
            if tenant.operating_point is not None and tenant.operating_point not in self.points:
                raise ValueError(f"it has no point {tenant.operating_point!r}, which its tenant {name!r} has")
        return self


def uncalibrated(threshold: float = 0.5, *, tenants: Mapping[str, Tenant] | None = None) -> OperatingPoints:
    """The points of a repository that was rendered but not measured yet."""
    points = {UNCALIBRATED: OperatingPoint(threshold=threshold)}
    return OperatingPoints(default=UNCALIBRATED, points=points, tenants=tenants_among(tenants, points))


def told_points(content: OperatingPoints) -> str:
    """What clients learn of the points, without the evidence, as JSON of one line: as a public model tells them."""
    told = {name: point.model_dump(include=_TOLD, exclude_none=True) for name, point in content.points.items()}
    return json.dumps({"default": content.default, "points": told})


def tenants_among(tenants: Mapping[str, Tenant] | None, points: Collection[str]) -> dict[str, Tenant] | None:
    """Tenants for a file with other points: one whose point is gone gets the default one."""
    if tenants is None:
        return None
    return {
        name: tenant if tenant.operating_point in points else tenant.model_copy(update={"operating_point": None})
        for name, tenant in tenants.items()
    }


def points_file(repository: Path, model: str) -> Path:
    """The file in a repository with the operating points of a detector."""
    return repository / model / "1" / FILE_NAME


def read_operating_points(path: Path) -> OperatingPoints:
    """Read and check a file of operating points. Raises InputError if it is missing or damaged."""
    if not path.exists():
        raise InputError(f"{printable(path)} does not exist; `dyndet render` writes it")
    return read_record(
        path,
        OperatingPoints,
        described="a file of operating points of schema version 2",
        advice=DAMAGED,
        largest=LARGEST,
    )


def write_operating_points(path: Path, content: OperatingPoints) -> None:
    """Replace the whole file; a server that reads it meanwhile sees the old or the new one.

    Raises InputError if it cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(content.model_dump_json(indent=2) + "\n")


def content_of_points(path: Path) -> bytes:
    """The content of a file of operating points, to be copied. Raises InputError if it is missing or damaged."""
    read_operating_points(path)
    return path.read_bytes()
