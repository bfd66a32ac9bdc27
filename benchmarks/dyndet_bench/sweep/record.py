"""The record of a sweep: `sweep.json`, from which every report is made."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dynamicdet.errors import InputError
from dynamicdet.letterbox import Filter, Fit, Place, Resize
from dynamicdet.records import Count, Finite, Label, Record, Sha256, Share, Text, read_record
from dynamicdet.text import printable
from dyndet_bench.measuring.journal import Replayed, SafeCircumstances
from dyndet_bench.measuring.load import MOST_IN_FLIGHT, Load

FILE_NAME = "sweep.json"

Role = Literal["easiest", "borderline", "hardest"]


_MOST = 10_000
"""cells, thresholds, raw files"""
_QUANTILES = 101


def _check_file(name: str) -> str:
    parts = name.split("/")
    if len(parts) > 2 or any(part in ("", ".", "..") for part in parts) or "\\" in name:
        raise ValueError("it is not a file in the folder of the sweep, or in a folder of that")
    return name


def _check_difficulty(value: float) -> float:
    if not (math.isnan(value) or 0 <= value <= 1):
        raise ValueError("a difficulty is from 0 to 1")
    return value


Milliseconds = Annotated[float, Field(ge=1e-6, le=1e9, allow_inf_nan=False)]
PerSecond = Annotated[float, Field(ge=1e-6, le=1e9, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
"""average precision; COCO has -100 for data without objects"""
Difficulty = Annotated[
    float,
    Field(allow_inf_nan=True),
    BeforeValidator(lambda value: math.nan if value is None else value),
    AfterValidator(_check_difficulty),
]
"""NaN, in the file null: the router gave none"""
Side = Annotated[int, Field(ge=1, le=16_384)]
OwnFile = Annotated[Label, AfterValidator(_check_file)]
"""a file in the folder of the sweep, or in a folder of that"""


class Latency(Record):
    """Latency of requests as a client saw it, milliseconds."""

    mean_ms: Milliseconds
    p50_ms: Milliseconds
    p90_ms: Milliseconds
    p95_ms: Milliseconds
    p99_ms: Milliseconds


class Split(Record):
    """Where an average request spends its time, milliseconds, by the server's statistics; the sum is its latency."""

    queue_ms: Finite = Field(description="waiting for an instance: of the public model and of the stages it calls")
    compute_ms: Finite = Field(description="in the stages' graphs")
    routing_ms: Finite = Field(description="the rest inside the server: routing, and tensors between stages")
    network_ms: Finite = Field(description="outside the server: the client, sending and receiving")


class Cell(Record):
    """One threshold at one load, measured by one perf_analyzer process per repetition."""

    threshold: Share
    concurrency: Annotated[int, Field(ge=1, le=MOST_IN_FLIGHT)] | None = Field(
        description="closed loop; None if requests arrive at a rate"
    )
    request_rate: PerSecond | None = Field(description="open loop, requests a second")
    batch: Annotated[int, Field(ge=1, le=1_000_000)]
    error: Text | None = Field(default=None, description="why it could not be measured; the values are None then")
    missing: tuple[Text, ...] = Field(
        default=(), max_length=_MOST, description="a reason for each run that failed twice"
    )
    requests: Count | None = None
    throughput_per_s: PerSecond | None = Field(default=None, description="images a second")
    latency: Latency | None = None
    mean_low_ms: Milliseconds | None = Field(
        default=None, description="95 % interval of the mean latency over repetitions"
    )
    mean_high_ms: Milliseconds | None = None
    throughput_low_per_s: PerSecond | None = None
    throughput_high_per_s: PerSecond | None = None
    hard_share: Share | None = Field(default=None, description="counted by the server: detector 2 over all images")
    split: Split | None = None
    open_loop: Latency | None = Field(
        default=None, description="with a request rate: counted from when the request was due, by our own generator"
    )
    open_loop_low_ms: Milliseconds | None = Field(default=None, description="95 % interval of its mean")
    open_loop_high_ms: Milliseconds | None = None
    warning: Text | None = Field(default=None, description="if our own generator did not send on time")
    repeats: Count = Field(
        default=0, description="tries of perf_analyzer that hung or lost requests, and were made again"
    )
    raw: tuple[OwnFile, ...] = Field(
        default=(), max_length=_MOST, description="perf_analyzer's own files, relative to this record"
    )

    @model_validator(mode="after")
    def _values_fit_together(self) -> Cell:
        if (self.concurrency is None) == (self.request_rate is None):
            raise ValueError("a cell has either a concurrency or a request rate")
        for low, high in (
            (self.mean_low_ms, self.mean_high_ms),
            (self.open_loop_low_ms, self.open_loop_high_ms),
            (self.throughput_low_per_s, self.throughput_high_per_s),
        ):
            if (low is None) != (high is None) or (low is not None and high is not None and low > high):
                raise ValueError("an interval has two ends in their order")
        return self

    @property
    def load(self) -> Load:
        """The load that it was measured at. Raises InputError if the record holds an impossible one."""
        return Load(concurrency=self.concurrency or 1, request_rate=self.request_rate, batch=self.batch)

    @property
    def waited(self) -> Latency | None:
        """How long a client waits for its answer, from when its request is due; None if it was not measured.

        In a closed loop, a request is due when it is sent. At a request rate it can be sent late, so our own
        generator's values count there, if they are known, and not perf_analyzer's.
        """
        return self.open_loop or self.latency

    @property
    def mean_interval(self) -> tuple[float | None, float | None]:
        """95 % interval of the mean of `waited`."""
        if self.open_loop is not None:
            return self.open_loop_low_ms, self.open_loop_high_ms
        return self.mean_low_ms, self.mean_high_ms


class RouteLatencies(Record):
    """Latencies of single requests down one route, one at a time."""

    quantiles_ms: tuple[Milliseconds, ...] = Field(
        min_length=_QUANTILES, max_length=_QUANTILES, description="0 %, 1 %, ... 100 %"
    )
    mean_ms: Milliseconds
    requests: Count
    repeats: Count = Field(default=0, description="as of a cell")

    @model_validator(mode="after")
    def _quantiles_rise(self) -> RouteLatencies:
        if any(low > high for low, high in pairwise(self.quantiles_ms)):
            raise ValueError("quantiles never fall")
        return self


class Accuracy(Record):
    """COCO average precision of one threshold, percent."""

    threshold: Share
    hard_share: Share = Field(description="on the validation set")
    ap: Percent
    ap50: Percent
    mask_ap: Percent | None = Field(default=None, description="of a detector that gives masks")


class Point(Record):
    """An operating point as it was calibrated."""

    name: Label
    threshold: Share
    target: Label | None = None
    reached: Label | None = Field(default=None, description="measured value of the target's statistic, with its unit")
    error: Finite | None = Field(default=None, description="reached / target - 1")
    interval: Finite | None = Field(default=None, description="half width of the 95 % interval, relative")
    hard_share: Share | None = None
    goodput: Share | None = Field(default=None, description="share of requests within the promised latency")
    load: Label | None = None


class PaperCheck(Record):
    """The latency model of calibration, compared with the paper's own table."""

    model: Label
    lat1_ms: Milliseconds
    lat2_ms: Milliseconds
    fitted_rows: tuple[Annotated[int, Field(ge=0, le=100)], ...] = Field(
        max_length=_MOST, description="hard percentages whose FPS gave lat1 and lat2"
    )
    largest_error: Finite = Field(description="relative, of the FPS predicted for the other rows")


class Picture(Record):
    """One image of the gallery, drawn with each detector's objects and, if it has labels, with the labelled ones."""

    role: Role
    difficulty: Share
    easy_file: OwnFile = Field(description="relative to this record, with the objects of detector 1")
    hard_file: OwnFile = Field(description="with the objects of detector 2")
    truth_file: OwnFile | None = Field(default=None, description="with the labelled objects; None without labels")
    objects: Text = Field(description="what each detector found, in words")
    verdict: Text | None = Field(default=None, description="what detector 2 adds, in words; None without labels")


class InputRule(Record):
    """How images were fitted, if not as our own networks take them; see `Fit`."""

    height: Side
    width: Side
    resize: Resize
    place: Place
    pad: Annotated[int, Field(ge=0, le=255)]
    filter: Filter

    @classmethod
    def of(cls, fit: Fit) -> InputRule | None:
        """The rule to record; None for a square of our own networks, which `input_size` describes."""
        return None if fit.is_own else cls(**asdict(fit))


class Sweep(Record):
    """Contents of `sweep.json`."""

    schema_version: Literal[1] = 1
    model: Label
    url: Text
    bundle_sha256: Sha256 | None = Field(description="bundle of the served model, by its configuration")
    class_names: tuple[Label, ...] = Field(max_length=_MOST)
    input_size: Annotated[int, Field(ge=1, le=100_000)] = Field(description="the longer side, pixels")
    fit: InputRule | None = Field(default=None, description="None: a square of `input_size`, letterboxed with 114")
    images: Text = Field(description="name of the folder of images")
    image_count: Count
    repetitions: Count = Field(description="perf_analyzer runs of each cell, interleaved with the others")
    cells: tuple[Cell, ...] = Field(max_length=_MOST)
    routes: dict[Literal["easy", "hard"], RouteLatencies]
    difficulties: tuple[Difficulty, ...] = Field(
        max_length=1_000_000, description="of the images, as the server computed them"
    )
    accuracy: tuple[Accuracy, ...] = Field(default=(), max_length=_MOST)
    accuracy_data: Text | None = None
    points: tuple[Point, ...] = Field(default=(), max_length=_MOST)
    paper: tuple[PaperCheck, ...] = Field(default=(), max_length=_MOST)
    gallery: tuple[Picture, ...] = Field(default=(), max_length=_MOST)
    missing_routes: Text | None = Field(default=None, description="why the routes could not be measured on their own")
    replayed: Replayed | None = Field(default=None, description="measurements of earlier runs of the same command")
    circumstances: SafeCircumstances

    @property
    def input(self) -> str:
        """Size of the model's input, and how images are fitted into it, in words."""
        if self.fit is None:
            return f"{self.input_size} x {self.input_size}"
        return str(Fit(**self.fit.model_dump()))

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
    advice = "`dyndet bench sweep` writes it"
    sweep = read_record(file, Sweep, described="a sweep of schema version 1", advice=advice)
    known = set()
    for cell in sweep.cells:
        key = (cell.threshold, cell.concurrency, cell.request_rate, cell.batch)
        if key in known:
            raise InputError(
                f"{printable(file)} is not a sweep of schema version 1: it has two cells with threshold "
                f"{cell.threshold} and {cell.load}; {advice}"
            )
        known.add(key)
    return sweep
