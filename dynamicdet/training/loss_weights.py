"""The gains of the detection loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynamicdet.errors import InputError


@dataclass(frozen=True)
class LossWeights:
    """Gains before they are scaled: objectness by image area / 640², classes by their number / 80.

    Raises InputError if a gain is not a finite number of at least 0.
    """

    box: float = 0.05
    objectness: float = 0.7
    classes: float = 0.3

    def __post_init__(self) -> None:
        for name, gain in (("box", self.box), ("objectness", self.objectness), ("classes", self.classes)):
            if not (math.isfinite(gain) and gain >= 0):
                raise InputError(f"the gain of {name} must be a finite number of at least 0, got {gain}")
