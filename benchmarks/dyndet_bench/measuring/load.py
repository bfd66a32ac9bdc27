"""The load on a server while it is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynamicdet.errors import InputError

MOST_IN_FLIGHT = 1024
"""requests; each is a thread of perf_analyzer"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """A closed loop (`concurrency` requests always in flight) or an open one (`request_rate`, Poisson arrivals).

    Raises InputError for a load that is not possible.
    """

    concurrency: int = 1
    request_rate: float | None = None
    """requests a second, whether or not earlier ones were answered; overrides `concurrency`"""
    batch: int = 1
    """images in one request"""

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= MOST_IN_FLIGHT:
            raise InputError(f"concurrency must be from 1 to {MOST_IN_FLIGHT}, got {self.concurrency}")
        if self.batch < 1:
            raise InputError(f"a request needs at least one image, got a batch of {self.batch}")
        rate = self.request_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise InputError(f"the request rate must be a positive number of requests a second, got {rate}")

    @property
    def open(self) -> bool:
        """Whether requests arrive without waiting for answers."""
        return self.request_rate is not None

    @property
    def overlaps(self) -> bool:
        """Whether several images can be in flight, so that instances can answer them at the same time."""
        return self.open or self.concurrency * self.batch > 1

    @property
    def amount(self) -> float:
        """Requests in flight, or requests a second."""
        return self.concurrency if self.request_rate is None else self.request_rate

    def __lt__(self, other: Load) -> bool:
        """The order of a report: closed loops first, then by amount."""
        return (self.open, self.amount, self.batch) < (other.open, other.amount, other.batch)

    def __str__(self) -> str:
        amount = f"concurrency {self.concurrency}" if self.request_rate is None else f"{self.request_rate:g} requests/s"
        return amount if self.batch == 1 else f"{amount}, batches of {self.batch}"
