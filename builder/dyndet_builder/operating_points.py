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
    """A threshold with the latency it was measured to give, on images that were not used to find it."""

    threshold: float = Field(description="an image is hard when its difficulty exceeds this")
    target: str | None = Field(default=None, description="as the user wrote it: 12ms, 50%")
    target_ms: float | None = None
    latency_ms: float | None = Field(default=None, description="mean latency measured on held-out images")
    error: float | None = Field(default=None, description="latency_ms / target_ms - 1")
    easy_share: float | None = Field(default=None, description="share the server counted as answered by detector 1")


class RouteLatency(_Record):
    """Latency of a server that sends every image one way, milliseconds."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    requests: int


class Evidence(_Record):
    """What was measured, on what."""

    easy: RouteLatency
    hard: RouteLatency
    difficulty_quantiles: tuple[float, ...] = Field(description="0 %, 1 %, ... 100 % of the calibration images")
    calibration_images: int
    held_out_images: int
    concurrency: int
    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    date: str


class OperatingPoints(_Record):
    """Contents of `operating_points.json`."""

    schema_version: Literal[1] = 1
    default: str
    points: dict[str, OperatingPoint]
    evidence: Evidence | None = None


def uncalibrated(threshold: float = 0.5) -> OperatingPoints:
    """The points of a repository that was rendered and not measured yet."""
    return OperatingPoints(default=UNCALIBRATED, points={UNCALIBRATED: OperatingPoint(threshold=threshold)})


def read_operating_points(path: Path) -> OperatingPoints:
    """Read and check a file of operating points. Raises InputError where it is missing or damaged."""
    try:
        return OperatingPoints.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; `dyndet render` writes it") from error
    except ValidationError as error:
        raise InputError(f"{path} holds no operating points of schema version 1: {error.errors()[0]['msg']}") from error
