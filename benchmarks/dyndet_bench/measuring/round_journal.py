"""The rounds of a calibration or sweep on disk.

A search decides only by its measurements. With the same rounds it chooses the same thresholds again. A calibration that
is started again therefore replays the recorded rounds and continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from dynamicdet.records import Finite, Positive
from dyndet_bench.measuring.counters import RouteCounts, ServerTimes
from dyndet_bench.measuring.journal import JournalFolder, Replayed
from dyndet_bench.measuring.measure import PERCENTILES, Run

Wanted = tuple[tuple[float | None, bool], ...]
"""thresholds of a round, each with whether its single latencies are wanted"""
Round = list[Run]
"""one run of each threshold, in their order"""


_MOST_REQUESTS = 1_000_000
_Count = Annotated[int, Field(ge=0, le=2**53)]


class _RunRecord(BaseModel):
    """A run as it is written; any other is damaged."""

    model_config = ConfigDict(extra="forbid", strict=True)

    threshold: Annotated[float, Field(ge=0, le=1)] | None
    requests: _Count
    mean_ms: Positive
    percentiles_ms: dict[str, Positive]
    throughput_per_s: Positive
    counts: dict[str, _Count]
    times: dict[str, Finite]
    latencies_ms: Annotated[list[Positive], Field(min_length=1, max_length=_MOST_REQUESTS)] | None
    repeats: _Count = 0

    @model_validator(mode="after")
    def _fields_are_known(self) -> _RunRecord:
        percentiles = {str(percent) for percent in PERCENTILES}
        if self.percentiles_ms.keys() != percentiles or self.counts.keys() != {"total", "hard"}:
            raise ValueError("other percentiles or counts")
        if not 0 <= self.counts["hard"] <= self.counts["total"] or not self.counts["total"]:
            raise ValueError("impossible counts")
        if self.times.keys() != {field.name for field in fields(ServerTimes)}:
            raise ValueError("other times")
        return self

    def as_run(self) -> Run:
        """The run that was recorded."""
        return Run(
            threshold=self.threshold,
            requests=self.requests,
            mean_ms=self.mean_ms,
            percentiles_ms={int(percent): value for percent, value in self.percentiles_ms.items()},
            throughput_per_s=self.throughput_per_s,
            counts=RouteCounts(**self.counts),
            times=ServerTimes(**self.times),  # type: ignore[arg-type]
            latencies_ms=None if self.latencies_ms is None else np.array(self.latencies_ms, np.float64),
            repeats=self.repeats,
        )


class _RoundRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    runs: Annotated[list[_RunRecord], Field(min_length=1, max_length=1000)]


class RoundJournal:
    """The recorded rounds of one server, workload and load. Each is returned once."""

    def __init__(self, folder: JournalFolder, identity: Mapping[str, object]) -> None:
        """`identity` is everything that a round depends on. Raises InputError as `Journal` does."""
        self._journal = folder.open(identity, _RoundRecord)

    @property
    def replayed(self) -> Replayed | None:
        """The rounds that were taken so far; None if there were none."""
        return self._journal.replayed

    def take(self, wanted: Wanted) -> Round | None:
        """The oldest recorded round of exactly these thresholds that was not taken yet and has the wanted latencies."""

        def has_them(record: _RoundRecord) -> bool:
            pairs = zip(record.runs, wanted, strict=False)
            return len(record.runs) == len(wanted) and all(
                run.latencies_ms is not None or not latencies for run, (_, latencies) in pairs
            )

        entry = self._journal.take(_question([threshold for threshold, _ in wanted]), has_them)
        return None if entry is None else [run.as_run() for run in entry.measured.runs]

    def add(self, runs: Round) -> None:
        """Record a round."""
        record = _RoundRecord.model_construct(runs=[_record(run) for run in runs])
        self._journal.add(_question([run.threshold for run in runs]), record)


def _question(thresholds: Sequence[float | None]) -> JsonValue:
    return [None if threshold is None else float(threshold) for threshold in thresholds]


def _record(run: Run) -> _RunRecord:
    """Without a check: what cannot be read back is measured again."""
    return _RunRecord.model_construct(
        threshold=run.threshold,
        requests=run.requests,
        mean_ms=run.mean_ms,
        percentiles_ms={str(percent): value for percent, value in run.percentiles_ms.items()},
        throughput_per_s=run.throughput_per_s,
        counts={"total": run.counts.total, "hard": run.counts.hard},
        times={field.name: getattr(run.times, field.name) for field in fields(ServerTimes)},
        latencies_ms=None if run.latencies_ms is None else np.round(run.latencies_ms, 4).tolist(),
        repeats=run.repeats,
    )
