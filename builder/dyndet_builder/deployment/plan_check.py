"""Compares the queueing estimate with the measurements of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamicdet.aliases import FloatArray
from dyndet_bench.measuring.statistic import Statistic
from dyndet_bench.sweep.record import Latency, Sweep
from dyndet_builder.deployment.plan_replica import replica_of_sweep

_CHECKED = ("mean", "p50", "p95", "p99")


@dataclass(frozen=True, kw_only=True)
class Check:
    """A measured value of a sweep beside its estimate."""

    cell: str
    open: bool
    """whether requests arrived at a rate"""
    statistic: str
    measured_ms: float
    predicted_ms: float

    @property
    def error(self) -> float:
        """Relative error of the estimate."""
        return self.predicted_ms / self.measured_ms - 1


def check_against(sweep: Sweep) -> tuple[Check, ...]:
    """Mean, p50, p95 and p99 of every cell of single images, measured and estimated.

    All cells with a request rate are predictions. Of the closed loops, those with the highest throughput are not: the
    estimate takes from them how requests overlap.
    """
    found: list[Check] = []
    for cell in sweep.cells:
        measured = cell.open_loop or cell.latency
        if measured is None or cell.hard_share is None or cell.batch != 1:
            continue
        replica = replica_of_sweep(sweep, cell.hard_share)
        if cell.request_rate is not None:
            if cell.request_rate * replica.busy_ms >= 1e3:  # its latency depends on how long it was measured
                continue
            latencies = replica.open_loop_ms(cell.request_rate)
        else:
            latencies = replica.closed_loop_ms(cell.load.concurrency)
        found += _checks(f"{cell.load}, {cell.hard_share:.0%} hard", cell.load.open, measured, latencies)
    return tuple(found)


def _checks(cell: str, is_open: bool, measured: Latency, latencies: FloatArray) -> list[Check]:
    return [
        Check(
            cell=cell,
            open=is_open,
            statistic=name,
            measured_ms=getattr(measured, f"{name}_ms"),
            predicted_ms=of_latencies(Statistic(name), latencies),
        )
        for name in _CHECKED
    ]


def correction_of(sweep: Sweep, statistic: Statistic) -> float:
    """The median factor by which the open loops of a sweep exceeded the estimate; at least 1."""
    name = statistic.name if statistic.name in _CHECKED else "p99"
    opened = [check for check in check_against(sweep) if check.open and check.statistic == name]
    return max(1.0, float(np.median([check.measured_ms / check.predicted_ms for check in opened]))) if opened else 1.0


def typical_error(checks: Sequence[Check]) -> float:
    """Median of the absolute errors."""
    return float(np.median([abs(check.error) for check in checks]))


def of_latencies(statistic: Statistic, latencies: FloatArray) -> float:
    """The mean or a percentile of some latencies."""
    return float(latencies.mean() if statistic.level is None else np.quantile(latencies, statistic.level))
