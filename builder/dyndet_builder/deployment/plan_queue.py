"""Replicas at a request rate: how long requests take, and the fewest replicas that keep a promise."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import TargetOutOfReachError
from dyndet_bench.measuring.statistic import Statistic
from dyndet_builder.deployment.plan_check import of_latencies
from dyndet_builder.deployment.plan_replica import Replica

_MOST_REPLICAS = 10_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """The expected latencies of a number of replicas, milliseconds."""

    replicas: int
    utilisation: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    promised_ms: float
    """the statistic of the promise"""
    holds: bool
    """whether it is below the promise by the margin"""


@dataclass(frozen=True)
class Queue:
    """Replicas at a request rate."""

    replica: Replica
    rate: float
    statistic: Statistic
    correction: float

    @property
    def least(self) -> int:
        """The fewest replicas that can keep up with the rate."""
        return math.floor(self.rate * self.replica.busy_ms / 1e3) + 1

    def idle_ms(self) -> float:
        """The statistic if no request waits."""
        return self.correction * of_latencies(self.statistic, self.replica.alone_ms())

    def latencies_ms(self, replicas: int) -> FloatArray:
        """Latencies of simulated requests."""
        return self.correction * self.replica.open_loop_ms(self.rate / replicas)

    def promised_ms(self, replicas: int) -> float:
        """The promised statistic."""
        return of_latencies(self.statistic, self.latencies_ms(replicas))

    def row(self, replicas: int, limit: float) -> Row:
        """What to expect of so many replicas, with the limit of the promised statistic."""
        latencies = self.latencies_ms(replicas)
        p50, p95, p99 = (of_latencies(Statistic(name), latencies) for name in ("p50", "p95", "p99"))
        promised = of_latencies(self.statistic, latencies)
        return Row(
            replicas=replicas,
            utilisation=self.rate / replicas * self.replica.busy_ms / 1e3,
            mean_ms=float(latencies.mean()),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            promised_ms=promised,
            holds=promised <= limit,
        )

    def with_hard_share(self, share: float) -> Queue:
        """The same with another mix of images."""
        return replace(self, replica=_mixed(self.replica, share))


@functools.lru_cache(maxsize=32)
def _mixed(replica: Replica, share: float) -> Replica:
    """Made once, because it stores its draws; searches for several numbers of replicas ask for the same shares."""
    return replica.with_hard_share(share)


def fewest(queue: Queue, limit: float) -> int:
    """The fewest replicas within the limit. With more replicas, requests never wait longer, so bisection finds them."""
    low, high = queue.least - 1, queue.least
    while high > _MOST_REPLICAS or queue.promised_ms(high) > limit:
        if high >= _MOST_REPLICAS:
            raise TargetOutOfReachError(
                f"{queue.rate:g} requests a second within {limit:.4g} ms ({queue.statistic.name}) need more than "
                f"{_MOST_REPLICAS:,} replicas, which is as far as a plan goes; give a lower request rate or a longer "
                "promise, or send fewer images to detector 2"
            )
        low, high = high, min(2 * high, _MOST_REPLICAS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if queue.promised_ms(middle) <= limit else (middle, high)
    return high
