"""The largest accepted differences between graphs and network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dyndet_builder.bundle.spec import Precision


@dataclass(frozen=True)
class Bars:
    """The largest accepted differences; those of boxes and scores hold for regions and proposals, too."""

    box_px: float
    score: float
    difficulty: float
    route_flip_share: float
    box_from_score: float
    """boxes are compared if the network's score is at least this"""
    tie: float = 1e-5
    mask_steps: int = 1
    """of 255, in a mask's pixel"""


BARS: dict[Precision, Bars] = {
    "fp32": Bars(box_px=0.05, score=1e-3, difficulty=1e-3, route_flip_share=0.0, box_from_score=0.001),
    # Half precision has 11 bits: a logit of 4 moves by 0.002 at each layer that it passes.
    "fp16": Bars(box_px=2.0, score=0.03, difficulty=0.01, route_flip_share=0.005, box_from_score=0.05, mask_steps=8),
}


class Truth(NamedTuple):
    """The network's difficulty of an image, and what it finds there by each route."""

    difficulty: float
    easy: Any
    hard: Any


def largest(differences: npt.NDArray[Any]) -> float:
    """Largest absolute value, 0 without values; NaN stays NaN and thus exceeds every limit."""
    return float(np.abs(differences).max()) if differences.size else 0.0


def larger(*values: float) -> float:
    """The largest value, or NaN if there is one; the built-in max may lose it."""
    return float(np.max(values))
