"""What one detector has found in each picture: the common currency of this folder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import Float32Array
from dynamicdet.letterbox import Fit, Letterboxed

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One detector's answers to N pictures, in their order; the best object of a picture comes first.

    They are those of the stage's graph: after suppression, at least as good as the score floor, at most as many as the
    graph returns. Scores are the detector's own until they are calibrated.
    """

    fit: Fit
    """how the pictures were fitted"""
    sizes: npt.NDArray[np.int64]
    """(N, 2) width and height of the original pictures"""
    boxes: tuple[Float32Array, ...]
    """(n, 4) x1 y1 x2 y2 of each picture, in pixels of the fitted picture"""
    scores: tuple[Float32Array, ...]
    """(n,)"""
    classes: tuple[npt.NDArray[np.int64], ...]
    """(n,) numbers in the common class list"""
    looks: Float32Array
    """(N, 2) mean and standard deviation of the fitted picture, 0..1; they order pictures without objects"""

    def __len__(self) -> int:
        return len(self.sizes)

    def placement(self, row: int) -> Letterboxed:
        """How picture `row` lies in the fitted one; its pixels are left out (all zero)."""
        width, height = (int(side) for side in self.sizes[row])
        return self.fit.place_of(width, height)

    def in_original(self, row: int) -> Float32Array:
        """The boxes of picture `row` in pixels of the original, (n, 4)."""
        found: Float32Array = self.placement(row).to_original(self.boxes[row])
        return found
