"""The map from a router's values to difficulties that spread evenly over 0..1; the order of images stays."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from dynamicdet.aliases import FloatArray

KNOTS = 33
TAIL = 0.02
"""share of 0..1 at either end that is left for values beyond all that were seen"""
_STEEPEST = 300.0
"""ranks per spread of the values; a steeper map would show the rounding of single precision"""


def even_knots(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Values, ascending, and the ranks from `TAIL` to 1 - `TAIL` that they get, so that the ranks spread evenly."""
    spread = max(float(np.ptp(values)), 1e-6)
    ranks = np.linspace(TAIL, 1 - TAIL, KNOTS)
    knots = np.quantile(values, np.linspace(0, 1, KNOTS))
    # Equal values get no range of their own: their knots are moved apart by a little.
    least = np.diff(ranks)[0] / _STEEPEST * spread
    for place in range(1, KNOTS):
        knots[place] = max(knots[place], knots[place - 1] + least)
    return knots, ranks


class Ranks(nn.Module):
    """Values (B,) to difficulties (B,): linear between the knots, flatter and flatter beyond the last ones.

    It stores steps and slopes, not knots and ranks: rounded to float16, it still increases without a jump.
    """

    def __init__(self) -> None:
        super().__init__()
        for name in ("starts", "steps", "slopes"):
            self.register_buffer(name, torch.ones(KNOTS - 1))

    def forward(self, value: Tensor) -> Tensor:
        """Values to ranks."""
        starts, steps, slopes = (cast(Tensor, one) for one in (self.starts, self.steps, self.slopes))
        inside = ((value.unsqueeze(1) - starts).clamp(min=0).minimum(steps) * slopes).sum(dim=1)
        spread = steps.sum()
        below, above = (starts[0] - value).clamp(min=0), (value - starts[0] - spread).clamp(min=0)
        return TAIL + inside + TAIL * (above / (spread + above) - below / (spread + below))

    def fit(self, values: FloatArray) -> None:
        """Learn the map from the values of the images that are to spread evenly."""
        knots, ranks = even_knots(values)
        steps, slopes = np.diff(knots), np.diff(ranks) / np.diff(knots)
        for name, one in (("starts", knots[:-1]), ("steps", steps), ("slopes", slopes)):
            cast(Tensor, getattr(self, name)).copy_(torch.from_numpy(one))
