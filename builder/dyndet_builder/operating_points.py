"""`operating_points.json`: the thresholds of a served detector, and the measurements behind them.

The file is beside the BLS model's code (`<repository>/<name>/1/`). The reader there is plain Python and needs only
`default` and `points[name].threshold`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicdet.errors import InputError

FILE_NAME = "operating_points.json"
UNCALIBRATED = "uncalibrated"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OperatingPoint(_Record):
    """A threshold and its measured results, on images that were not used to find it."""

    threshold: float = Field(description="an image is hard if its difficulty exceeds this")
    target: str | None = Field(default=None, description="as the user wrote it: 12ms, p95:15ms, throughput:80/s, 50%")
    statistic: str | None = Field(default=None, description="statistic of the target: mean, p95, throughput")
    unit: str | None = Field(default=None, description="unit of goal and reached: ms, or /s")
    goal: float | None = Field(default=None, description="the target as a number")
    reached: float | None = Field(default=None, description="the statistic at this threshold")
    error: float | None = Field(default=None, description="reached / goal - 1")
    interval: tuple[float, float] | None = Field(default=None, description="95 % interval of the error")
    mean_ms: float | None = None
    percentiles_ms: dict[str, float] | None = Field(default=None, description="p50, p90, p95, p99")
    throughput_per_s: float | None = Field(default=None, description="images per second at the load")
    goodput: float | None = Field(default=None, description="for a latency: share of requests within the goal")
    easy_share: float | None = Field(default=None, description="share of images answered by detector 1, by the server")
    easy_share_calibrated: float | None = Field(
        default=None, description="share of the calibration images that are easy at the threshold"
    )
    rounds: int | None = Field(default=None, description="number of rounds of the verification")
    load: str | None = None
    date: str | None = Field(default=None, description="UTC, ISO 8601")


class RouteLatency(_Record):
    """Latency of a server that sends every image to one route, milliseconds."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    throughput_per_s: float
    requests: int


class Reach(_Record):
    """The range of one statistic over all thresholds."""

    easy: float = Field(description="if every image is easy")
    hard: float = Field(description="if every image is hard")


class Evidence(_Record):
    """The measurements, and the machine and versions that they are for."""

    easy: RouteLatency
    hard: RouteLatency
    reachable: dict[str, Reach] = Field(description="mean, p50, p90, p95 and p99 in ms, throughput in images/s")
    difficulty_quantiles: tuple[float, ...] = Field(description="0 %, 1 %, ... 100 % of the calibration images")
    calibration_images: int
    held_out_images: int
    load: str
    concurrency: int | None = Field(description="closed loop; None if requests arrived at a rate")
    request_rate: float | None = Field(description="open loop, requests per second")
    batch: int
    rounds_replayed: int = Field(description="rounds from an earlier calibration, interrupted or equal")
    repeats: int = Field(default=0, description="runs of perf_analyzer that hung or lost requests and were repeated")
    warnings: tuple[str, ...] = Field(default=(), description="noise that hides the result, a client that sent late")
    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    date: str


class OperatingPoints(_Record):
    """Contents of `operating_points.json`. The evidence is that of the latest calibration."""

    schema_version: Literal[2] = 2
    default: str
    points: dict[str, OperatingPoint]
    evidence: Evidence | None = None


def uncalibrated(threshold: float = 0.5) -> OperatingPoints:
    """The points of a repository that was rendered but not measured yet."""
    return OperatingPoints(default=UNCALIBRATED, points={UNCALIBRATED: OperatingPoint(threshold=threshold)})


def points_file(repository: Path, model: str) -> Path:
    """The file in a repository with the operating points of a detector."""
    return repository / model / "1" / FILE_NAME


def read_operating_points(path: Path) -> OperatingPoints:
    """Read and check a file of operating points. Raises InputError if it is missing or damaged."""
    try:
        return OperatingPoints.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; `dyndet render` writes it") from error
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(
            f"{path} holds no operating points of schema version 2 ({reason}); render the repository again"
        ) from error
