"""A model of one replica, from measurements: how long a single request takes, and how long it occupies the replica."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError
from dyndet_bench.measuring.queueing import closed_loop, waits
from dyndet_bench.sweep.record import Cell, Sweep
from dyndet_builder.operating_points import OperatingPoints, RouteLatency

_REQUESTS = 200_000
_FIRST = _REQUESTS // 10  # not counted, since they meet an empty queue
_CLOSED_REQUESTS = 20_000
_LEVELS = np.linspace(0, 1, 101)


@dataclass(frozen=True, kw_only=True, eq=False)
class Route:
    """Requests on one route."""

    quantiles_ms: FloatArray
    """0 %, 1 %, ... 100 % of the latencies of single requests, one at a time"""
    busy_share: float
    """time that a request keeps the replica busy, divided by its latency; below 1 if requests overlap"""

    @property
    def mean_ms(self) -> float:
        """Mean latency of a single request."""
        return float((self.quantiles_ms[1:] + self.quantiles_ms[:-1]).mean() / 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Replica:
    """One replica with a mix of easy and hard requests."""

    easy: Route
    hard: Route
    hard_share: float

    @property
    def busy_ms(self) -> float:
        """Mean time that a request keeps it busy."""
        one, two = self.easy, self.hard
        return (1 - self.hard_share) * one.mean_ms * one.busy_share + self.hard_share * two.mean_ms * two.busy_share

    def with_hard_share(self, share: float) -> Replica:
        """The same replica with another mix."""
        if not 0 <= share <= 1:
            raise InputError(f"the hard share must be from 0 to 1, not {share}")
        return replace(self, hard_share=share)

    def alone_ms(self) -> FloatArray:
        """Latencies of requests that do not wait for each other."""
        return self._drawn[0]

    def open_loop_ms(self, rate_per_s: float) -> FloatArray:
        """Latencies under Poisson arrivals. Every rate uses the same draws, so a higher rate never looks faster."""
        alone, busy = self._drawn
        found: FloatArray = (waits(_arrivals() * (1e3 / rate_per_s), busy) + alone)[_FIRST:]
        return found

    def closed_loop_ms(self, clients: int) -> FloatArray:
        """Latencies if each client sends its next request as soon as it has its answer."""
        alone, busy = self._draw(_CLOSED_REQUESTS)
        return closed_loop(busy, np.maximum(0, alone - busy), clients)[_CLOSED_REQUESTS // 10 :]

    @functools.cached_property
    def _drawn(self) -> tuple[FloatArray, FloatArray]:
        return self._draw(_REQUESTS)

    def _draw(self, requests: int) -> tuple[FloatArray, FloatArray]:
        """Latency of each request alone, and the time that it keeps the replica busy, (requests,) each."""
        rng = np.random.default_rng(0)
        level, is_hard = rng.random(requests), rng.random(requests) < self.hard_share
        easy, hard = (np.interp(level, _LEVELS, route.quantiles_ms) for route in (self.easy, self.hard))
        alone = np.where(is_hard, hard, easy)
        return alone, alone * np.where(is_hard, self.hard.busy_share, self.easy.busy_share)


@functools.cache
def _arrivals() -> FloatArray:
    """A Poisson process of rate 1, (requests,)."""
    return np.cumsum(np.random.default_rng(1).exponential(1.0, _REQUESTS))


def replica_of_points(points: OperatingPoints, name: str, path: Path) -> Replica:
    """From a calibration. It does not show how requests overlap, so each is assumed to occupy the replica alone.

    Raises InputError if there is no such operating point, or it was not measured with single requests, one at a time.
    """
    if name not in points.points:
        raise InputError(f"operating point {name!r} is not known; {path} has {', '.join(points.points)}")
    evidence, point = points.evidence, points.points[name]
    if evidence is None or point.easy_share is None:
        raise InputError(
            f"operating point {name!r} of {path} was not measured; run `dyndet calibrate` first, or plan from a sweep"
        )
    if evidence.concurrency != 1 or evidence.batch != 1:
        raise InputError(
            f"{path} was measured with {evidence.load}, which does not show how long a single request takes; calibrate "
            "with one image at a time, or plan from a sweep"
        )
    easy, hard = (Route(quantiles_ms=_quantiles(route), busy_share=1.0) for route in (evidence.easy, evidence.hard))
    return Replica(easy=easy, hard=hard, hard_share=1 - point.easy_share)


def replica_of_sweep(sweep: Sweep, hard_share: float) -> Replica:
    """From a sweep: the latencies of its single requests, and the highest throughput of its closed loops.

    Raises InputError if the sweep lacks the latencies of a route.
    """
    if missing := [name for name in ("easy", "hard") if name not in sweep.routes]:
        reason = sweep.missing_routes or "no reason was recorded"
        raise InputError(f"the sweep has no latencies of single {' and '.join(missing)} requests: {reason}")
    easy, hard = (
        Route(quantiles_ms=np.array(sweep.routes[name].quantiles_ms), busy_share=1.0) for name in ("easy", "hard")
    )
    shares, busy_ms = _least_ms_per_image(sweep.cells)
    replica = Replica(easy=easy, hard=hard, hard_share=hard_share)
    if not shares:
        return replica
    if max(shares) - min(shares) > 0.2:  # time per image is linear in the share of hard images
        slope, start = np.polyfit(shares, busy_ms, 1)
        ends = (start / easy.mean_ms, (start + slope) / hard.mean_ms)
    else:
        alone = [replica.with_hard_share(share).busy_ms for share in shares]
        ends = (float(np.mean(np.array(busy_ms) / alone)),) * 2
    easy, hard = (
        replace(route, busy_share=max(0.02, float(end))) for route, end in zip((easy, hard), ends, strict=True)
    )
    return replace(replica, easy=easy, hard=hard)


def _least_ms_per_image(cells: Sequence[Cell]) -> tuple[list[float], list[float]]:
    """Hard share and shortest time per image of each threshold, at any concurrency."""
    best: Mapping[float, list[tuple[float, float]]] = {cell.threshold: [] for cell in cells}
    for cell in cells:
        if cell.concurrency is not None and cell.batch == 1 and cell.throughput_per_s and cell.hard_share is not None:
            best[cell.threshold].append((1e3 / cell.throughput_per_s, cell.hard_share))
    chosen = [min(found) for found in best.values() if found]
    return [share for _, share in chosen], [time_ms for time_ms, _ in chosen]


def _quantiles(route: RouteLatency) -> FloatArray:
    """0 %, 1 %, ... 100 %, interpolated between the known percentiles; the lowest one is chosen to match the mean."""
    levels = np.array([0.0, 0.5, 0.9, 0.95, 0.99, 1.0])
    most = route.p99_ms + (route.p99_ms - route.p95_ms)
    known = np.array([route.p50_ms, route.p50_ms, route.p90_ms, route.p95_ms, route.p99_ms, most])
    surplus = float(((known[1:] + known[:-1]) / 2 * np.diff(levels)).sum()) - route.mean_ms
    known[0] = np.clip(route.p50_ms - surplus / 0.25, 0.3 * route.p50_ms, route.p50_ms)
    return np.interp(_LEVELS, levels, known)
