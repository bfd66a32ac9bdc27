"""The record of `dyndet verify`, as it is written to JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dyndet_bench.measuring.machine import Circumstances

Route = Literal["easy", "hard"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Part):
    """A part of this machine: a driver, a library, a provider."""

    name: str
    present: bool
    detail: str


class Check(_Part):
    """A question with an answer of one sentence."""

    name: str
    passed: bool
    sentence: str


class Agreement(_Part):
    """How far the answers of one way to run the stages are from those of ONNX Runtime on the CPU."""

    images: int
    box_px: float = Field(description="largest difference of a coordinate, of matched detections")
    score: float = Field(description="largest difference of a score, of matched detections")
    unmatched_share: float = Field(description="detections with a score of 0.25 or more that have no counterpart")
    difficulty: float = Field(description="largest difference of a difficulty")
    flips: dict[str, int] = Field(description="images that change their route, by operating point")


class Timing(_Part):
    """Median milliseconds of a run, by batch size."""

    ms: dict[int, float]


class Way(_Part):
    """One way to run the stages: a provider of ONNX Runtime, or TensorRT engines."""

    name: str
    agreement: Agreement | None = Field(default=None, description="None: of the CPU itself, or not measured")
    stages: dict[str, Timing] = Field(default={}, description="by stage")
    routes: dict[Route, Timing] = Field(default={}, description="whole routes, features kept")
    copied: dict[Route, Timing] = Field(
        default={}, description="whole routes, if features go to the CPU and back between the stages"
    )
    memory_mib: dict[str, float] = Field(
        default={}, description="that a stage added when it was loaded and ran its largest batch"
    )


class ServedPoint(_Part):
    """An operating point of the repository, measured again."""

    name: str
    goal: float
    unit: str
    reached: float
    error: float = Field(description="reached / goal - 1")


class ServedRoutes(_Part):
    """A served topology, one request of one image at a time."""

    topology: str
    easy_ms: float | None = Field(description="lat1: median request of an all-easy server; None: not measured")
    hard_ms: float | None = Field(description="lat2")
    easy_over_bare: float | None = Field(description="ratio to bare calls of ONNX Runtime, of the same rounds")
    hard_over_bare: float | None
    agreement: Agreement | None


class VerifyRecord(_Part):
    """Result of `verify`."""

    schema_version: Literal[1] = 1
    detector: str
    kind: Literal["bundle", "repository"]
    architecture: str | None
    precision: str
    input_size: int
    bundle_sha256: str
    machine: tuple[Part, ...]
    ways: tuple[Way, ...]
    features_bytes: int = Field(description="of one image's tensors that go from stage to stage")
    served: tuple[ServedRoutes, ...]
    points: tuple[ServedPoint, ...]
    checks: tuple[Check, ...]
    skipped: tuple[str, ...] = Field(description="what was not looked at, and why")
    images: int
    circumstances: Circumstances

    @property
    def failed(self) -> tuple[Check, ...]:
        """Checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)
