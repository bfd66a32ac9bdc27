"""Compares two sweeps cell by cell: what changed, and whether by more than the measurements' own noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dynamicdet.errors import InputError
from dyndet_bench.measuring.load import Load
from dyndet_bench.sweep.record import Cell, Sweep, read_sweep

Metric = Literal["mean latency", "p99 latency", "throughput"]
Verdict = Literal["slower", "faster", "within noise"]

THRESHOLD = 0.05
"""Smallest relative change of a mean latency or a throughput that counts; the 95 % intervals must be apart, too."""
THRESHOLD_P99 = 0.20
"""The same for a value without an interval. The two or three slowest of a few hundred requests decide a p99, so it
differs by a tenth and more between equal runs."""

_METRICS: tuple[Metric, ...] = ("mean latency", "p99 latency", "throughput")
_Key = tuple[float, int | None, float | None, int]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric of one cell."""

    metric: Metric
    unit: Literal["ms", "1/s"]
    old: float
    new: float
    has_intervals: bool
    """whether both sweeps recorded a 95 % interval"""
    verdict: Verdict

    @property
    def beyond_noise(self) -> bool:
        """Whether it counts as a change."""
        return self.verdict != "within noise"

    @property
    def relative(self) -> float:
        """New over old, less one."""
        return self.new / self.old - 1

    @property
    def slowdown(self) -> float:
        """How much worse: time, or time per image, new over old, less one. Negative if it became better."""
        return self.old / self.new - 1 if self.metric == "throughput" else self.relative


@dataclass(frozen=True, kw_only=True)
class ComparedCell:
    """One threshold at one load that both sweeps measured."""

    threshold: float
    load: Load
    changes: tuple[Change, ...]
    old_hard_share: float | None
    new_hard_share: float | None

    @property
    def verdict(self) -> Verdict:
        """Slower if any metric is, else faster if any is."""
        verdicts = {change.verdict for change in self.changes}
        return "slower" if "slower" in verdicts else "faster" if "faster" in verdicts else "within noise"

    @property
    def worst(self) -> float:
        """The largest slowdown beyond noise if there is one, else the largest of all."""
        beyond = [change.slowdown for change in self.changes if change.verdict == "slower"]
        return max(beyond or [change.slowdown for change in self.changes])


@dataclass(frozen=True, kw_only=True)
class AccuracyChange:
    """COCO average precision of one threshold, percent."""

    threshold: float
    old: float
    new: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of `compare`."""

    cells: tuple[ComparedCell, ...]
    """those that became slower first, worst first; then faster ones and those within noise, by slowdown"""
    accuracy: tuple[AccuracyChange, ...]
    only_old: tuple[str, ...]
    """cells that the new sweep does not have"""
    only_new: tuple[str, ...]
    newly_failed: tuple[str, ...]
    """cells that could be measured only in the old sweep, and why"""
    failed: tuple[str, ...]
    """other cells that could not be measured: in the old sweep, or in both"""
    differences: tuple[str, ...]
    """what else differs: machine, versions, images"""

    @property
    def slower(self) -> bool:
        """Whether a cell became slower beyond noise, or can no longer be measured."""
        return bool(self.newly_failed) or any(cell.verdict == "slower" for cell in self.cells)

    def as_json(self) -> dict[str, Any]:
        """What `dyndet bench compare --json` prints."""
        return {
            "slower": self.slower,
            "cells": [_cell_json(cell) for cell in self.cells],
            "accuracy": [
                {"threshold": change.threshold, "old_ap": change.old, "new_ap": change.new} for change in self.accuracy
            ],
            "only_old": list(self.only_old),
            "only_new": list(self.only_new),
            "newly_failed": list(self.newly_failed),
            "failed": list(self.failed),
            "differences": list(self.differences),
        }


def compare(old: Path, new: Path, *, threshold: float = THRESHOLD, threshold_p99: float = THRESHOLD_P99) -> Comparison:
    """Compare two sweeps, each a folder or its `sweep.json`.

    Mean latency and throughput count as changed if they differ by more than `threshold` (relative) and the recorded
    95 % intervals do not overlap. p99, and any value of a sweep without repetitions, has no interval: it counts if it
    differs by more than `threshold_p99`. Raises InputError for unreadable sweeps and those without a cell in common.
    """
    return compare_sweeps(read_sweep(old), read_sweep(new), threshold=threshold, threshold_p99=threshold_p99)


def compare_sweeps(
    old: Sweep, new: Sweep, *, threshold: float = THRESHOLD, threshold_p99: float = THRESHOLD_P99
) -> Comparison:
    """`compare` for sweeps that were read already."""
    for value in (threshold, threshold_p99):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"a relative change must be a number from 0, such as 0.05 for 5 %, got {value}")
    old_cells, new_cells = ({_key(cell): cell for cell in sweep.cells} for sweep in (old, new))
    common = [key for key in old_cells if key in new_cells]
    if not common:
        raise InputError("the two sweeps have no cell in common: none has the same threshold, load and batch in both")
    cells, newly_failed, failed = [], [], []
    for key in common:
        before, after = old_cells[key], new_cells[key]
        changes = tuple(_changes(before, after, threshold, threshold_p99))
        if changes:
            cells.append(
                ComparedCell(
                    threshold=before.threshold,
                    load=before.load,
                    changes=changes,
                    old_hard_share=before.hard_share,
                    new_hard_share=after.hard_share,
                )
            )
        elif _measured(before) and not _measured(after):
            newly_failed.append(f"{_name(after)}: {after.error or 'not measured'}")
        else:
            failed.append(f"{_name(before)}: {before.error or 'not measured'}")
    if not cells and not newly_failed:
        raise InputError(f"no cell was measured in both sweeps; the first says: {failed[0]}")
    order = {"slower": 0, "faster": 1, "within noise": 2}
    return Comparison(
        cells=tuple(sorted(cells, key=lambda cell: (order[cell.verdict], -cell.worst))),
        accuracy=tuple(_accuracy(old, new)),
        only_old=tuple(_name(cell) for key, cell in old_cells.items() if key not in new_cells),
        only_new=tuple(_name(cell) for key, cell in new_cells.items() if key not in old_cells),
        newly_failed=tuple(newly_failed),
        failed=tuple(failed),
        differences=tuple(_differences(old, new)),
    )


def _key(cell: Cell) -> _Key:
    return round(cell.threshold, 6), cell.concurrency, cell.request_rate, cell.batch


def _name(cell: Cell) -> str:
    return f"{cell.load}, threshold {cell.threshold:.4g}"


def _measured(cell: Cell) -> bool:
    return cell.error is None and cell.latency is not None


def _changes(old: Cell, new: Cell, threshold: float, threshold_p99: float) -> Iterator[Change]:
    """Changes of the metrics that both cells have; empty if one of them failed."""
    if not (_measured(old) and _measured(new)):
        return
    both_open = old.open_loop is not None and new.open_loop is not None
    for metric in _METRICS:
        (was, *old_interval), (now, *new_interval) = (_values(cell, metric, both_open) for cell in (old, new))
        if not was or not now:
            continue
        ends = [end for end in (*old_interval, *new_interval) if end is not None]
        has_intervals = len(ends) == 4
        apart = ends[1] < ends[2] or ends[3] < ends[0] if has_intervals else True
        ratio = now / was if metric != "throughput" else was / now
        beyond = apart and abs(now / was - 1) > (threshold if has_intervals else threshold_p99)
        yield Change(
            metric=metric,
            unit="1/s" if metric == "throughput" else "ms",
            old=was,
            new=now,
            has_intervals=has_intervals,
            verdict="within noise" if not beyond else "slower" if ratio > 1 else "faster",
        )


def _values(cell: Cell, metric: Metric, both_open: bool) -> tuple[float | None, float | None, float | None]:
    """A metric and the ends of its interval.

    Latencies count from when a request was due if they do in both sweeps: those of perf_analyzer hide waits in the
    client.
    """
    if metric == "throughput":
        return cell.throughput_per_s, cell.throughput_low_per_s, cell.throughput_high_per_s
    latency = cell.open_loop if both_open else cell.latency
    if metric == "p99 latency":
        return None if latency is None else latency.p99_ms, None, None
    low, high = cell.mean_interval if both_open else (cell.mean_low_ms, cell.mean_high_ms)
    return None if latency is None else latency.mean_ms, low, high


def _accuracy(old: Sweep, new: Sweep) -> Iterator[AccuracyChange]:
    if old.accuracy_data != new.accuracy_data:
        return
    after = {round(point.threshold, 6): point.ap for point in new.accuracy}
    for point in old.accuracy:
        ap = after.get(round(point.threshold, 6))
        if ap is not None:
            yield AccuracyChange(threshold=point.threshold, old=point.ap, new=ap)


def _differences(old: Sweep, new: Sweep) -> Iterator[str]:
    """Each thing that differs, with both values."""
    pairs = [("machine", old.circumstances.machine, new.circumstances.machine)]
    pairs += [("version", old.circumstances.versions, new.circumstances.versions)]
    pairs += [("", _subject(old), _subject(new))]
    for kind, before, after in pairs:
        for key in dict.fromkeys((*before, *after)):
            was, now = before.get(key, "none"), after.get(key, "none")
            if was != now:
                yield f"{kind} {key}: {was} -> {now}".lstrip()


def _subject(sweep: Sweep) -> dict[str, str]:
    return {
        "model": sweep.model,
        "bundle": (sweep.bundle_sha256 or "unknown")[:12],
        "input": sweep.input,
        "images": f"{sweep.image_count} of {sweep.images}",
    }


def _cell_json(cell: ComparedCell) -> dict[str, Any]:
    return {
        "threshold": cell.threshold,
        "concurrency": None if cell.load.open else cell.load.concurrency,
        "request_rate": cell.load.request_rate,
        "batch": cell.load.batch,
        "verdict": cell.verdict,
        "old_hard_share": cell.old_hard_share,
        "new_hard_share": cell.new_hard_share,
        "changes": [
            {
                "metric": change.metric,
                "unit": change.unit,
                "old": change.old,
                "new": change.new,
                "relative": change.relative,
                "has_intervals": change.has_intervals,
                "verdict": change.verdict,
            }
            for change in cell.changes
        ],
    }
