"""Numbers of the two-stage losses; this file needs no PyTorch, so commands can show the defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynamicdet.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Gains:
    """Weights of the parts of the loss. Raises InputError if one is not a finite number of at least 0."""

    objectness: float = 1.0
    regions: float = 1.0
    classes: float = 1.0
    boxes: float = 1.0
    masks: float = 1.0
    beta: float = 0.0
    """error of a box's number below which its loss is a parabola; 0: L1"""

    def __post_init__(self) -> None:
        for name, gain in vars(self).items():
            if not (math.isfinite(gain) and gain >= 0):
                raise InputError(f"the gain of {name} must be a finite number of at least 0, got {gain}")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How many boxes of an image are drawn. Raises InputError for fewer than one, or a share outside 0..1."""

    count: int
    positives: float
    """share of them that are objects', at most; the others are background"""

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 < self.positives <= 1:
            raise InputError(
                "at least one box of an image must be drawn, and the share of positive ones must be above 0 and at "
                f"most 1, got {self.count} and {self.positives}"
            )
