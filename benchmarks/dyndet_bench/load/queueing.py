"""What queueing theory allows: one server, Poisson arrivals, the measured service times (M/G/1).

The served detector is taken for one server that answers one image after another. Its service times are the measured
latencies of one request at a time, scaled so that their mean is the one at full load, 1 / capacity. So several
instances that work side by side count as one that is as much faster.

Mean wait: Pollaczek and Khinchine's formula, exact for this model. A percentile has no closed form for service times of
any distribution; it comes from a simulation of the same queue with Lindley's recursion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynamicdet.aliases import BoolArray, FloatArray, IntArray

SIMULATED = 100_000
"""requests of a simulation at a steady rate"""


@dataclass(frozen=True, kw_only=True)
class Service:
    """Service times of both routes at full load, seconds, (n,) each."""

    easy_s: FloatArray
    hard_s: FloatArray

    @classmethod
    def scaled(cls, easy_ms: FloatArray, hard_ms: FloatArray, *, easy_per_s: float, hard_per_s: float) -> Service:
        """From latencies of one request at a time and the throughputs at full load."""
        return cls(easy_s=easy_ms / easy_ms.mean() / easy_per_s, hard_s=hard_ms / hard_ms.mean() / hard_per_s)

    def draw(self, hard: BoolArray, *, seed: int) -> FloatArray:
        """A service time for each request (n,), by its route."""
        rng = np.random.default_rng(seed)
        easy, slow = (rng.choice(times, hard.size) for times in (self.easy_s, self.hard_s))
        return np.where(hard, slow, easy)


def mean_ms(service: Service, rate_per_s: float, hard_share: float) -> float | None:
    """Mean latency of an M/G/1 queue (Pollaczek-Khinchine), milliseconds; None if the load is 1 or more."""
    first = (1 - hard_share) * service.easy_s.mean() + hard_share * service.hard_s.mean()
    second = (1 - hard_share) * np.mean(service.easy_s**2) + hard_share * np.mean(service.hard_s**2)
    used = rate_per_s * first
    if used >= 1:
        return None
    return float(1e3 * (first + rate_per_s * second / (2 * (1 - used))))


def latencies_ms(due_s: FloatArray, service_s: FloatArray) -> FloatArray:
    """Latency of each request (n,) of a queue that one server answers in order (Lindley's recursion), milliseconds."""
    total = np.cumsum(service_s)
    finished = total + np.maximum.accumulate(due_s - (total - service_s))
    return np.asarray(1e3 * (finished - due_s), np.float64)


def quantile_ms(service: Service, rate_per_s: float, hard_share: float, share: float, *, seed: int = 0) -> float | None:
    """A percentile of the same queue by simulation, milliseconds; None if the load is 1 or more."""
    if mean_ms(service, rate_per_s, hard_share) is None:
        return None
    rng = np.random.default_rng(seed)
    due = np.cumsum(rng.exponential(1 / rate_per_s, SIMULATED))
    hard = rng.random(SIMULATED) < hard_share
    waited = latencies_ms(due, service.draw(hard, seed=seed))
    return float(np.quantile(waited, share, method="inverted_cdf"))


@dataclass(frozen=True, kw_only=True)
class Static:
    """A fixed threshold on a simulated queue."""

    threshold: float
    hard_share: float
    """of the images"""
    within: float
    """share of the requests within the promise"""
    p95_ms: float


def simulate_static(
    service: Service,
    due_s: FloatArray,
    images: IntArray,
    hard: BoolArray,
    *,
    threshold: float,
    promise_ms: float,
    seed: int = 0,
) -> Static:
    """A fixed threshold on the arrivals of a run; `hard` (images,) says which images it sends to detector 2."""
    waited = latencies_ms(due_s, service.draw(hard[images], seed=seed))
    return Static(
        threshold=threshold,
        hard_share=float(hard.mean()),
        within=float(np.mean(waited <= promise_ms)),
        p95_ms=float(np.quantile(waited, 0.95, method="inverted_cdf")),
    )


def best_static(candidates: Sequence[Static], *, share: float) -> Static | None:
    """The one with most hard images of those that keep the promise; None if none does."""
    kept = [one for one in candidates if one.within >= share]
    return max(kept, key=lambda one: one.hard_share, default=None)
