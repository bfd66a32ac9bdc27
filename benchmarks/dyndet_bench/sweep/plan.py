"""What a sweep measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynamicdet.errors import InputError
from dyndet_bench.measuring.load import Load


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What to measure: every threshold at every load. Raises InputError for a plan that cannot be measured."""

    hard_shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """of the images; each gives a threshold"""
    thresholds: Sequence[float] = ()
    """further ones"""
    loads: Sequence[Load] = (Load(), Load(concurrency=4))
    repetitions: int = 3
    max_images: int = 100
    requests: int | None = None
    """of one run; None: each image once, and at least 20 for each connection"""
    seed: int = 0

    def __post_init__(self) -> None:
        for what, values in (("a share of hard images", self.hard_shares), ("a threshold", self.thresholds)):
            for value in values:
                if not 0 <= value <= 1:
                    raise InputError(f"{what} must be from 0 to 1, got {value}")
        if not (self.hard_shares or self.thresholds) or not self.loads:
            raise InputError("a sweep needs at least one threshold or hard share, and one load")
        for name in ("repetitions", "max_images"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for load in self.loads:
            if load.request_rate is not None and load.request_rate < 1:
                raise InputError(f"perf_analyzer takes request rates from 1 a second, got {load.request_rate}")
        if self.requests is not None and self.requests < 1:
            raise InputError(f"requests must be at least 1, got {self.requests}")
