"""`frontier.json`: what was measured of a dynamic detector and of static ones, and what follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from dynamicdet.aliases import FloatArray
from dynamicdet.records import Count, Finite, Name, Ordinal, Record, Sha256, Share, Text, read_record
from dyndet_bench.measuring.machine import Circumstances

FILE_NAME = "frontier.json"
HARD_SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
"""by default"""
_LARGEST = 4 << 20
_LEVEL = 0.95
_ADVICE = "write it again with `dyndet bench frontier`"

Ms = Annotated[float, Field(gt=0, le=1e9)]


class Interval(Record):
    """A value with the 95 % interval of a bootstrap over images and rounds."""

    value: Finite
    low: Finite
    high: Finite

    @classmethod
    def of(cls, value: float, draws: FloatArray) -> Interval:
        """The interval that holds the draws, moved to the value: a resample repeats images, which shifts its AP."""
        known = draws[np.isfinite(draws)]
        if known.size < 2:
            return cls(value=value, low=value, high=value)
        low, high = np.quantile(known - known.mean(), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        return cls(value=value, low=value + min(0.0, float(low)), high=value + max(0.0, float(high)))

    @model_validator(mode="after")
    def _check_order(self) -> Interval:
        if not self.low <= self.value <= self.high:
            raise ValueError("the value is outside its interval")
        return self


class Latency(Record):
    """One request at a time, milliseconds."""

    mean: Interval
    p50: Ms
    p99: Ms


class StaticPoint(Record):
    """A static detector."""

    name: Text = Field(description="of the checkpoint")
    architecture: Name
    gflops: Annotated[float, Field(gt=0, le=1e9)]
    checkpoint_sha256: Sha256
    latency_ms: Latency
    ap: Interval


class Comparison(Record):
    """The dynamic detector at one threshold beside the line through the static ones."""

    faster: Interval | None = Field(
        description="share of the static latency saved at equal AP; None: no static detector has so much, or so little"
    )
    more_ap: Interval | None = Field(
        description="AP gained at equal latency; None: none has so much time, or so little"
    )


class DynamicPoint(Record):
    """The dynamic detector at one threshold."""

    threshold: Share
    hard_share: Share
    latency_ms: Latency
    ap: Interval
    random_ap: Finite = Field(description="of equally many images chosen at random, mean over draws")
    beside: Comparison


class FrontierRecord(Record):
    """Contents of `frontier.json`."""

    schema_version: Literal[1] = 1
    model: Name
    architecture: Name | None
    topology: Literal["bls", "fused", "graph"]
    bundle_sha256: Sha256
    data: Text
    images: Count = Field(description="whose answers give AP")
    timed_images: Count
    rounds: Ordinal
    draws: Count = Field(description="of the bootstrap")
    dynamic: Annotated[tuple[DynamicPoint, ...], Field(min_length=2, max_length=100)] = Field(
        description="from all easy to all hard"
    )
    static: Annotated[tuple[StaticPoint, ...], Field(min_length=1, max_length=20)] = Field(
        description="from the fastest to the slowest"
    )
    on_average: Comparison = Field(description="mean over the thresholds that can be compared")
    promise_ms: Ms | None = None
    circumstances: Circumstances

    @property
    def best(self) -> DynamicPoint | None:
        """Where the dynamic detector saves most time at equal AP; None if it can be compared nowhere."""
        known = [point for point in self.dynamic if point.beside.faster is not None]
        return max(known, key=lambda point: point.beside.faster.value, default=None)  # type: ignore[union-attr]


def read_frontier_record(path: Path) -> FrontierRecord:
    """Read a `frontier.json`. Raises InputError if it is damaged or of another kind."""
    return read_record(
        path, FrontierRecord, described="a frontier of schema version 1", advice=_ADVICE, largest=_LARGEST
    )
