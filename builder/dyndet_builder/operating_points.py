"""`operating_points.json`: the thresholds a served detector knows, and the measurements they rest on.

Lies beside the BLS model's code (`<repository>/<name>/1/`), whose plain-Python reader needs `default` and
`points[name].threshold` alone.
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
    """A threshold with what it was measured to give, on images that were not used to find it."""

    threshold: float = Field(description="an image is hard when its difficulty exceeds this")
    target: str | None = Field(default=None, description="as the user wrote it: 12ms, p95:15ms, throughput:80/s, 50%")
    statistic: str | None = Field(default=None, description="what the target is about: mean, p95, throughput")
    unit: str | None = Field(default=None, description="of goal and reached: ms, or /s")
    goal: float | None = Field(default=None, description="the target in numbers")
    reached: float | None = Field(default=None, description="the statistic at this threshold")
    error: float | None = Field(default=None, description="reached / goal - 1")
    interval: tuple[float, float] | None = Field(default=None, description="95 % interval of the error")
    mean_ms: float | None = None
    percentiles_ms: dict[str, float] | None = Field(default=None, description="p50, p90, p95, p99")
    throughput_per_s: float | None = Field(default=None, description="images a second at the load")
    goodput: float | None = Field(default=None, description="share of requests within the goal, of a latency")
    easy_share: float | None = Field(default=None, description="share the server counted as answered by detector 1")
    easy_share_calibrated: float | None = Field(
        default=None, description="share of the calibration images that the threshold keeps easy"
    )
    rounds: int | None = Field(default=None, description="that the verification took")
    load: str | None = None
    date: str | None = Field(default=None, description="UTC, ISO 8601")


class RouteLatency(_Record):
    """Latency of a server that sends every image one way, milliseconds."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    throughput_per_s: float
    requests: int


class Reach(_Record):
    """What thresholds can do to one statistic."""

    easy: float = Field(description="with every image easy")
    hard: float = Field(description="with every image hard")


class Evidence(_Record):
    """What was measured, on what."""

    easy: RouteLatency
    hard: RouteLatency
    reachable: dict[str, Reach] = Field(description="mean, p50, p90, p95 and p99 in ms, throughput in images/s")
    difficulty_quantiles: tuple[float, ...] = Field(description="0 %, 1 %, ... 100 % of the calibration images")
    calibration_images: int
    held_out_images: int
    load: str
    concurrency: int | None = Field(description="closed loop; None where requests arrived at a rate")
    request_rate: float | None = Field(description="open loop, requests a second")
    batch: int
    rounds_replayed: int = Field(description="rounds that an earlier, interrupted or equal calibration had measured")
    repeats: int = Field(
        default=0, description="tries of perf_analyzer that hung or lost requests, and were made again"
    )
    warnings: tuple[str, ...] = Field(default=(), description="noise that hides the answer, a client that sent late")
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
    """The points of a repository that was rendered and not measured yet."""
    return OperatingPoints(default=UNCALIBRATED, points={UNCALIBRATED: OperatingPoint(threshold=threshold)})


def points_file(repository: Path, model: str) -> Path:
    """Where a repository keeps the operating points of a detector."""
    return repository / model / "1" / FILE_NAME


def read_operating_points(path: Path) -> OperatingPoints:
    """Read and check a file of operating points. Raises InputError where it is missing or damaged."""
    try:
        return OperatingPoints.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; `dyndet render` writes it") from error
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(
            f"{path} holds no operating points of schema version 2 ({reason}); render the repository again"
        ) from error
