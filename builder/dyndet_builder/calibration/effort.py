"""How carefully a calibration measures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.errors import InputError
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.statistic import Statistic

FEWEST_IMAGES = 8


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Numbers of rounds, and the accepted error. Raises InputError for a value that makes no sense.

    A round is one run all-easy, one all-hard and one at each threshold on trial.
    """

    max_images: int = 200
    """drawn from the folder by the seed; half calibrate, half verify"""
    requests_per_run: int | None = None
    """None: each held-out image once"""
    range_rounds: int = 3
    trial_rounds: int = 2
    verification_rounds: int = 5
    extra_trial_rounds: int = 3
    """added to a trial while noise hides whether a target is met"""
    max_corrections: int = 8
    tolerance: float | None = None
    """largest accepted relative difference from the target; None: 3 %, for percentiles 8 %"""
    time_budget_s: float = 300.0
    """a verification is repeated until its 95 % interval is narrower than the tolerance, or so much time has passed"""
    accept_ill_conditioned: bool = False
    """accept a percentile that other images would move by more than the tolerance, with a warning"""

    def __post_init__(self) -> None:
        for field in ("range_rounds", "trial_rounds", "verification_rounds"):
            if getattr(self, field) < 1:
                raise InputError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.max_images < FEWEST_IMAGES:
            raise InputError(f"calibration needs at least {FEWEST_IMAGES} images, max_images is {self.max_images}")
        if self.requests_per_run is not None and self.requests_per_run < 1:
            raise InputError(f"requests_per_run must be at least 1, got {self.requests_per_run}")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise InputError(f"the tolerance must be between 0 and 1, got {self.tolerance}")
        if not (math.isfinite(self.time_budget_s) and self.time_budget_s >= 0):
            raise InputError(f"the time budget must be a finite number of seconds from 0, got {self.time_budget_s}")

    def check_images(self, folder: Path, number: int, load: Load) -> None:
        """Raise InputError if a folder with so many images has too few for a calibration at this load."""
        has = f"{folder} holds {number} image{'' if number == 1 else 's'}"
        if number < FEWEST_IMAGES:
            raise InputError(f"{has}; calibration needs at least {FEWEST_IMAGES}; 200 are better")
        if min(number, self.max_images) < 2 * load.batch:
            limit = f", of which {self.max_images} are used (--max-images)" if number > self.max_images else ""
            raise InputError(
                f"batches of {load.batch} need at least {2 * load.batch} images, half of them to calibrate and half to "
                f"verify; {has}{limit}; give more images or a smaller --batch"
            )

    def tolerance_of(self, statistic: Statistic) -> float:
        """Largest accepted relative difference between a value and its target."""
        if self.tolerance is not None:
            return self.tolerance
        return 0.03 if statistic.level is None else 0.08
