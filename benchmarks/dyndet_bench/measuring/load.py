"""How a server is loaded while it is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynamicdet.errors import InputError

MOST_IN_FLIGHT = 1024
"""requests; each is a thread of perf_analyzer"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """A closed loop (`concurrency` requests always in flight) or an open one (`request_rate`, Poisson arrivals).

    Raises InputError for a load that is none.
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
    def short(self) -> str:
        """For tables: c4 (concurrency), 50/s (request rate), c4 b8 (batches of 8)."""
        how = f"{self.request_rate:g}/s" if self.request_rate is not None else f"c{self.concurrency}"
        return how if self.batch == 1 else f"{how} b{self.batch}"

    def __str__(self) -> str:
        how = f"{self.request_rate:g} requests/s" if self.request_rate is not None else f"{self.concurrency} at a time"
        return how if self.batch == 1 else f"{how}, batches of {self.batch}"
