"""The record of a sweep: `sweep.json`, from which every report is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicdet.errors import InputError
from dyndet_bench.measuring.journal import Replayed
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.machine import Circumstances

FILE_NAME = "sweep.json"

Role = Literal["easiest", "borderline", "hardest"]


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Latency(_Record):
    """Latency of requests as a client saw it, milliseconds."""

    mean_ms: Positive
    p50_ms: Positive
    p90_ms: Positive
    p95_ms: Positive
    p99_ms: Positive


class Split(_Record):
    """Where an average request spends its time, milliseconds, by the server's statistics; the sum is its latency."""

    queue_ms: float = Field(description="waiting for an instance: of the public model and of the stages it calls")
    compute_ms: float = Field(description="in the stages' graphs")
    routing_ms: float = Field(description="the rest inside the server: routing, and tensors between stages")
    network_ms: float = Field(description="outside the server: the client, sending and receiving")


class Cell(_Record):
    """One threshold at one load, measured by one perf_analyzer process per repetition."""

    threshold: Share
    concurrency: int | None = Field(description="closed loop; None if requests arrive at a rate")
    request_rate: float | None = Field(description="open loop, requests a second")
    batch: int
    error: str | None = Field(default=None, description="why it could not be measured; the values are None then")
    missing: tuple[str, ...] = Field(default=(), description="a reason for each run that failed twice")
    requests: int | None = None
    throughput_per_s: Positive | None = Field(default=None, description="images a second")
    latency: Latency | None = None
    mean_low_ms: Positive | None = Field(default=None, description="95 % interval of the mean latency over repetitions")
    mean_high_ms: Positive | None = None
    throughput_low_per_s: Positive | None = None
    throughput_high_per_s: Positive | None = None
    hard_share: Share | None = Field(default=None, description="counted by the server: detector 2 over all images")
    split: Split | None = None
    open_loop: Latency | None = Field(
        default=None, description="with a request rate: counted from the intended send time, by our own generator"
    )
    warning: str | None = Field(default=None, description="if our own generator did not send on time")
    repeats: int = Field(
        default=0, description="tries of perf_analyzer that hung or lost requests, and were made again"
    )
    raw: tuple[str, ...] = Field(default=(), description="perf_analyzer's own files, relative to this record")

    @property
    def load(self) -> Load:
        """The load that it was measured at. Raises InputError if the record holds an impossible one."""
        return Load(concurrency=self.concurrency or 1, request_rate=self.request_rate, batch=self.batch)


class RouteLatencies(_Record):
    """Latencies of single requests down one route, one at a time."""

    quantiles_ms: tuple[float, ...] = Field(description="0 %, 1 %, ... 100 %")
    mean_ms: Positive
    requests: int
    repeats: int = Field(default=0, description="as of a cell")


class Accuracy(_Record):
    """COCO average precision of one threshold, percent."""

    threshold: float
    hard_share: float = Field(description="on the validation set")
    ap: float
    ap50: float


class Point(_Record):
    """An operating point as it was calibrated."""

    name: str
    threshold: float
    target: str | None = None
    reached: str | None = Field(default=None, description="measured value of the target's statistic, with its unit")
    error: float | None = Field(default=None, description="reached / target - 1")
    interval: float | None = Field(default=None, description="half width of the 95 % interval, relative")
    hard_share: float | None = None
    goodput: float | None = Field(default=None, description="share of requests within the promised latency")
    load: str | None = None


class PaperCheck(_Record):
    """The latency model of calibration, compared with the paper's own table."""

    model: str
    lat1_ms: float
    lat2_ms: float
    fitted_rows: tuple[int, ...] = Field(description="hard percentages whose FPS gave lat1 and lat2")
    largest_error: float = Field(description="relative, of the FPS predicted for the other rows")


class Picture(_Record):
    """One image of the gallery, drawn once with each detector's objects."""

    role: Role
    difficulty: float
    easy_file: str = Field(description="relative to this record, with the objects of detector 1")
    hard_file: str = Field(description="with the objects of detector 2")
    objects: str = Field(description="what each detector found, in words")


class Sweep(_Record):
    """Contents of `sweep.json`."""

    schema_version: Literal[1] = 1
    model: str
    url: str
    bundle_sha256: str | None = Field(description="bundle of the served model, by its configuration")
    class_names: tuple[str, ...]
    input_size: int
    images: str = Field(description="name of the folder of images")
    image_count: int
    repetitions: int = Field(description="perf_analyzer runs of each cell, interleaved with the others")
    cells: tuple[Cell, ...]
    routes: dict[Literal["easy", "hard"], RouteLatencies]
    difficulties: tuple[float, ...] = Field(description="of the images, as the server computed them")
    accuracy: tuple[Accuracy, ...] = ()
    accuracy_data: str | None = None
    points: tuple[Point, ...] = ()
    paper: tuple[PaperCheck, ...] = ()
    gallery: tuple[Picture, ...] = ()
    missing_routes: str | None = Field(default=None, description="why the routes could not be measured on their own")
    replayed: Replayed | None = Field(default=None, description="measurements of earlier runs of the same command")
    circumstances: Circumstances

    @property
    def missing(self) -> int:
        """Measurements that failed twice."""
        return sum(len(cell.missing) for cell in self.cells) + (self.missing_routes is not None)

    @property
    def repeats(self) -> int:
        """Tries of perf_analyzer that hung or lost requests, in all cells and on both routes."""
        return sum(cell.repeats for cell in self.cells) + sum(route.repeats for route in self.routes.values())


def read_sweep(path: Path) -> Sweep:
    """Read a sweep from its file or its folder. Raises InputError if it is missing, damaged or of another version."""
    file = path / FILE_NAME if path.is_dir() else path
    try:
        return Sweep.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); `dyndet bench sweep` writes it") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{file} is not a sweep of schema version 1: {where}: {first['msg']}") from error
