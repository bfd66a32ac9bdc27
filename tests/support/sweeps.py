"""One sweep for all tests that look at a sweep of the real server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dyndet_bench.measuring.load import Load
from dyndet_bench.sweep.plan import SweepPlan
from dyndet_bench.sweep.record import Sweep

PLAN = SweepPlan(
    hard_shares=(0, 1), loads=(Load(), Load(concurrency=3), Load(request_rate=20)), repetitions=2, max_images=16
)


@dataclass(frozen=True)
class Swept:
    """A sweep by `PLAN`, and the folder that it wrote."""

    record: Sweep
    folder: Path
