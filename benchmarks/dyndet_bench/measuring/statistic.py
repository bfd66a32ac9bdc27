"""The statistics a promise can be about, taken from runs and predicted from the two routes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError
from dynamicdet.latency import Mixture
from dynamicdet.thresholds import mixture_latency

if TYPE_CHECKING:
    from dyndet_bench.measuring.measure import Run

T = TypeVar("T")

_DRAWS = 400


def _percent(name: str) -> float:
    return float(name[1:]) if re.fullmatch(r"p[0-9]{1,2}(\.[0-9]{1,6})?", name) else float("nan")


@dataclass(frozen=True)
class Statistic:
    """`mean`, a percentile such as `p95`, or `throughput`. Raises InputError for any other name."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in ("mean", "throughput") and not 0 < _percent(self.name) < 100:
            raise InputError(f"{self.name!r} is not a statistic; expected mean, p50 to p99.9 or throughput")

    @property
    def level(self) -> float | None:
        """For a percentile the share of requests that do not exceed it, 0..1; else None."""
        return None if self.name in ("mean", "throughput") else _percent(self.name) / 100

    @property
    def unit(self) -> str:
        """`ms`, or images per second."""
        return "/s" if self.name == "throughput" else "ms"

    def of(self, runs: Sequence[Run]) -> float:
        """Its value over runs of one threshold: a percentile of all their requests, else the median of the runs.

        A burst of other work on the machine then spoils one run, not the result.
        """
        if self.level is not None:
            values = pooled(runs)
            rank = max(0, math.ceil(self.level * values.size - 1e-9) - 1)
            return float(np.partition(values, rank)[rank])  # np.quantile's inverted_cdf, ten times as fast
        return float(np.median([run.throughput_per_s if self.name == "throughput" else run.mean_ms for run in runs]))

    def predicted(self, easy: Sequence[Run], hard: Sequence[Run], easy_shares: Sequence[float]) -> FloatArray:
        """Its value at each easy share, (shares,), from runs of both routes, if requests never queued.

        A server's time per image mixes as latency does, so its throughput mixes as the harmonic mean.
        """
        if self.level is not None:
            mixture = Mixture(pooled(easy), pooled(hard))
            return np.array([mixture.quantile(self.level, share) for share in easy_shares], np.float64)
        at_easy, at_hard = self.of(easy), self.of(hard)
        if self.name == "throughput":
            return np.array([1 / mixture_latency(1 / at_easy, 1 / at_hard, share) for share in easy_shares], np.float64)
        return np.array([mixture_latency(at_easy, at_hard, share) for share in easy_shares], np.float64)


MEAN = Statistic("mean")
THROUGHPUT = Statistic("throughput")
REPORTED = (MEAN, *(Statistic(f"p{percent}") for percent in (50, 90, 95, 99)), THROUGHPUT)
"""Every calibration reports the reachable range of these."""


def pooled(runs: Sequence[Run]) -> FloatArray:
    """Latencies of all requests of some runs, (requests,), milliseconds. The runs must have fetched them."""
    return np.concatenate([run.latencies_ms for run in runs if run.latencies_ms is not None])


def bootstrap_interval(
    estimate: Callable[[Sequence[T]], float],
    rounds: Sequence[T],
    redrawn: Callable[[T, np.random.Generator], T] | None = None,
) -> tuple[float, float]:
    """95 % interval of an estimate from rounds: percentiles of its values for rounds drawn with replacement.

    `redrawn` draws within a round, too. The interval is infinite for a single round, which does not show noise.
    """
    if len(rounds) < 2:
        return -float("inf"), float("inf")
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(_DRAWS):
        drawn = [rounds[index] for index in rng.integers(len(rounds), size=len(rounds))]
        estimates.append(estimate(drawn if redrawn is None else [redrawn(item, rng) for item in drawn]))
    low, high = np.quantile(estimates, [0.025, 0.975])
    return float(low), float(high)
