"""`operating_points.json`: the thresholds of a served detector, and the measurements behind them.

The file is beside the BLS model's code (`<repository>/<name>/1/`). The reader there is plain Python and needs only
`default` and `points[name].threshold`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from dynamicdet.errors import InputError
from dynamicdet.records import Count, Finite, Label, NotNegative, Ordinal, Positive, Record, Share, Text, read_record
from dynamicdet.text import printable

FILE_NAME = "operating_points.json"
UNCALIBRATED = "uncalibrated"
LARGEST = 4 << 20
"""bytes, here and in the public model's reader"""

PointName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+][A-Za-z0-9_.:/%+µ-]*$", max_length=100)]
"""a target without its spaces, or a name that its user gave; the public model's reader has the same pattern"""


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

    @model_validator(mode="after")
    def _check_default(self) -> OperatingPoints:
        if self.default not in self.points:
            raise ValueError(f"it has no point {self.default!r}, which it names as its default")
        return self


def uncalibrated(threshold: float = 0.5) -> OperatingPoints:
    """The points of a repository that was rendered but not measured yet."""
    return OperatingPoints(default=UNCALIBRATED, points={UNCALIBRATED: OperatingPoint(threshold=threshold)})


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
        advice="render the repository again",
        largest=LARGEST,
    )


def content_of_points(path: Path) -> bytes:
    """The content of a file of operating points, to be copied. Raises InputError if it is missing or damaged."""
    read_operating_points(path)
    return path.read_bytes()
