"""`load.json`: what a detector did under load, cell by cell, over time, and what it cost in AP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from dynamicdet.records import (
    Count,
    Finite,
    Label,
    Name,
    NotNegative,
    Ordinal,
    Positive,
    Record,
    Sha256,
    Share,
    Text,
    read_record,
)
from dyndet_bench.load.arrivals import Kind
from dyndet_bench.measuring.attempts import Missing
from dyndet_bench.measuring.journal import Replayed
from dyndet_bench.measuring.machine import Circumstances

FILE_NAME = "load.json"
_LARGEST = 256 << 20
_ADVICE = "write it again with `dyndet bench load`"
_MOST_WINDOWS, _MOST_SAMPLES = 200_000, 400_000

Windows = Annotated[tuple[NotNegative | None, ...], Field(max_length=_MOST_WINDOWS)]
Samples = Annotated[tuple[Finite | None, ...], Field(max_length=_MOST_SAMPLES)]


class Promise(Record):
    """What was promised: a percentile of the latency."""

    statistic: Label
    share: Share = Field(description="of the requests, 0.95 for p95")
    ms: Positive
    source: Label = Field(description="the option, the operating point, or 10 x the easy route")


class Capacity(Record):
    """A closed loop on the same server before the first level."""

    easy_mean_ms: Positive = Field(description="mean latency of the easy route, one request at a time")
    hard_mean_ms: Positive
    easy_per_s: Positive = Field(description="the all-easy capacity, images a second: levels are multiples of it")
    hard_per_s: Positive = Field(description="the same if every image is hard")
    concurrency: Ordinal = Field(description="requests in flight that gave the capacity")
    after_per_s: Positive | None = Field(default=None, description="the all-easy capacity after the last level")


class TimeLine(Record):
    """A run over time: windows of half a second by when requests were due, and samples of the server's metrics."""

    window_s: Positive
    offered_per_s: Windows
    answered_per_s: Windows = Field(description="by when answers arrived")
    p95_ms: Windows = Field(description="of answered requests; None: none was answered")
    hard_share: Windows = Field(description="of answered requests")
    degraded_share: Windows
    refused_share: Windows = Field(description="of all requests")
    sample_s: Samples = Field(description="when the server's metrics were read")
    threshold: Samples = Field(description="in force; None: the server does not say")
    gear: Samples
    queue: Samples
    memory_mb: Samples


class Allowed(Record):
    """What a queue with one server and the measured service times would do (M/G/1)."""

    utilisation: NotNegative
    mean_ms: NotNegative | None = Field(description="Pollaczek-Khinchine; None: overloaded, or not a steady load")
    quantile_ms: NotNegative | None = Field(description="the promised percentile, simulated")


class Cell(Record):
    """One system at one level of one profile. Latencies count from when a request was due, milliseconds."""

    profile: Name
    level: Positive | None = Field(description="multiple of the all-easy capacity; None for a trace")
    system: Label
    kind: Kind
    threshold: Share | None = Field(description="of every request; None: it follows the load")
    seconds: Positive
    rate_per_s: NotNegative = Field(description="mean rate of the arrivals")

    offered: Count
    answered: Count
    refused: Count
    failed: Count
    unsent: Count = Field(description="due while the bound of outstanding requests was reached; they count as late")
    unanswered: Count = Field(description="not answered within the limit after the last arrival; they count as late")
    cancelled: Count = Field(description="given up on purpose; they count nowhere else")

    within: Share = Field(description="share of all requests answered within the promise")
    within_accepted: Share | None = Field(description="the same of requests that were not refused")
    goodput_per_s: NotNegative = Field(description="answers within the promise, a second of arrivals")
    mean_ms: NotNegative | None
    p50_ms: NotNegative | None
    p90_ms: NotNegative | None
    p95_ms: NotNegative | None
    p99_ms: NotNegative | None
    refusal_p95_ms: NotNegative | None = Field(description="time until a refusal")
    hard_share: Share | None = Field(description="of answers")
    degraded_share: Share | None = Field(
        description="of answers: hard images that detector 1 answered for lack of time"
    )

    ap: Finite | None = Field(default=None, description="of the answers given")
    ap_all: Finite | None = Field(default=None, description="the same, unanswered requests counting as empty answers")

    lag_p95_ms: NotNegative = Field(description="how late the generator sent; part of the latency")
    valid: bool = Field(description="False: the generator was too late for the result to say much about the server")
    turns: Count = Field(description="changes of direction of the threshold")
    turns_in_10_s: Count = Field(description="most of them within 10 s")
    latency_normal_s: NotNegative | None = Field(default=None, description="after a burst or step; None: never")
    threshold_normal_s: NotNegative | None = None
    memory_before_mb: NotNegative | None
    memory_after_mb: NotNegative | None
    memory_most_mb: NotNegative | None
    allowed: Allowed
    errors: Annotated[tuple[Text, ...], Field(max_length=20)] = ()
    line: TimeLine


class Hindsight(Record):
    """The best fixed threshold for the arrivals of one level, found afterwards."""

    profile: Name
    level: Positive | None
    threshold: Share | None = Field(description="by simulation; None: no fixed threshold keeps the promise")
    hard_share: Share | None = None
    within: Share | None = None
    ap: Finite | None = Field(default=None, description="of the simulated one; every image once")
    measured: Label | None = Field(default=None, description="the best of the measured fixed thresholds")
    measured_ap: Finite | None = None


class LoadRecord(Record):
    """Contents of `load.json`."""

    schema_version: Literal[1] = 1
    model: Name
    bundle_sha256: Sha256 | None
    operating_point: Label
    base_threshold: Share
    images: Ordinal
    data: Text | None = Field(description="whose labels gave AP")
    promise: Promise
    capacity: Capacity
    seed: Count
    processes: Ordinal = Field(description="most that sent at once")
    most_outstanding: Ordinal
    cancel_share: Share = 0.0
    cells: Annotated[tuple[Cell, ...], Field(max_length=10_000)]
    hindsight: Annotated[tuple[Hindsight, ...], Field(max_length=1000)] = ()
    both_ap: tuple[Finite, Finite] | None = Field(default=None, description="AP of all easy and of all hard")
    missing: Annotated[tuple[Missing, ...], Field(max_length=10_000)] = ()
    ending: Text | None = Field(default=None, description="how the server ended, though nobody stopped it")
    replayed: Replayed | None = None
    circumstances: Circumstances

    @property
    def runs(self) -> tuple[tuple[str, float | None], ...]:
        """Profiles with their levels, in the order of measurement."""
        return tuple(dict.fromkeys((cell.profile, cell.level) for cell in self.cells))

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of the systems, in the order of measurement."""
        return tuple(dict.fromkeys(cell.system for cell in self.cells))

    def of(self, profile: str, level: float | None) -> tuple[Cell, ...]:
        """The cells of one level."""
        return tuple(cell for cell in self.cells if (cell.profile, cell.level) == (profile, level))


def read_load_record(path: Path) -> LoadRecord:
    """Read a `load.json`. Raises InputError if it is damaged or of another kind."""
    return read_record(
        path, LoadRecord, described="a load record of schema version 1", advice=_ADVICE, largest=_LARGEST
    )
