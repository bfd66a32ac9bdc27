"""Every round of a calibration or sweep goes to disk as soon as it is measured, so an interruption loses no round.

A search decides only by its measurements. With the same rounds it chooses the same thresholds again. A calibration that
is started again therefore replays the recorded rounds and continues where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dynamicdet.errors import InputError
from dyndet_bench.measuring.counters import RouteCounts, ServerTimes
from dyndet_bench.measuring.measure import PERCENTILES, Run

Wanted = tuple[tuple[float | None, bool], ...]
"""thresholds of a round, each with whether its single latencies are wanted"""
Round = list[Run]
"""one run of each threshold, in their order"""


_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=2**53)]


class _RunRecord(BaseModel):
    """A run as it is written; any other line is damaged."""

    model_config = ConfigDict(extra="forbid", strict=True)

    threshold: Annotated[float, Field(ge=0, le=1)] | None
    requests: _Count
    mean_ms: _Positive
    percentiles_ms: dict[str, _Positive]
    throughput_per_s: _Positive
    counts: dict[str, _Count]
    times: dict[str, float]
    latencies_ms: Annotated[list[_Positive], Field(min_length=1)] | None
    repeats: _Count = 0
    """earlier versions did not write it"""

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

    time: float
    runs: Annotated[list[_RunRecord], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class JournalFolder:
    """A folder of journals, one for everything that a measurement depends on."""

    folder: Path
    newest_s: float
    """rounds older than this many seconds do not count: machines change their speed"""
    fresh: bool = False
    """whether the rounds that are there already do not count"""

    def open(self, identity: Mapping[str, object]) -> Journal:
        """The journal of measurements that depend on `identity`. Raises InputError as `Journal` does."""
        return Journal(self.folder, identity, newest_s=self.newest_s, fresh=self.fresh)


class Journal:
    """The recorded rounds of one server, workload and load. Each is returned once.

    Raises InputError if the folder cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object], *, newest_s: float, fresh: bool = False) -> None:
        """`identity` is everything that a measurement depends on; rounds older than `newest_s` seconds do not count."""
        key = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.path = folder / f"{key}.jsonl"
        self.replayed = 0
        self._known: dict[tuple[float | None, ...], list[Round]] = defaultdict(list)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write("\n")  # ends a line whose writing was interrupted
        except OSError as error:
            raise InputError(f"measurements cannot be stored in {folder} ({error.strerror})") from error
        if not fresh:
            self._read(time.time() - newest_s)

    def take(self, wanted: Wanted) -> Round | None:
        """The oldest recorded round of exactly these thresholds that was not taken yet and has the wanted latencies."""
        rounds = self._known[tuple(threshold for threshold, _ in wanted)]
        for index, runs in enumerate(rounds):
            if all(run.latencies_ms is not None for run, (_, latencies) in zip(runs, wanted, strict=True) if latencies):
                self.replayed += 1
                return rounds.pop(index)
        return None

    def add(self, runs: Round) -> None:
        """Record a round."""
        line = json.dumps({"time": time.time(), "runs": [_plain(run) for run in runs]})
        with self.path.open("a") as file:
            file.write(line + "\n")

    def _read(self, since: float) -> None:
        for line in self.path.read_bytes().splitlines():
            try:
                record = _RoundRecord.model_validate_json(line)
            except ValidationError:
                continue  # cut off, or damaged
            if not since <= record.time <= time.time():
                continue
            runs = [run.as_run() for run in record.runs]
            self._known[tuple(run.threshold for run in runs)].append(runs)


def _plain(run: Run) -> dict[str, Any]:
    latencies = None if run.latencies_ms is None else np.round(run.latencies_ms, 4).tolist()
    counts = {"total": run.counts.total, "hard": run.counts.hard}
    return {**asdict(run), "counts": counts, "latencies_ms": latencies}
