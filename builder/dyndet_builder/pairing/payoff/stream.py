"""Pictures without labels that are like those that will be served: their difficulties weigh the labelled pictures.

A data set with labels often has more objects, or harder ones, than what a camera sees. What is assumed: pictures of
equal difficulty are answered equally well, whether they come from the data set or from the stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError

_BINS = 10
_SPARSE = 0.5
"""share of the labelled pictures that the weights may leave in effect, below which the report warns"""
_ALIEN = 0.05
"""share of the stream without labelled pictures of its difficulty, above which the report warns"""

ASSUMPTION = (
    "The stream's pictures have no labels. It is assumed that pictures of equal difficulty are answered equally well, "
    "whether they come from the stream or from the labelled pictures."
)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """How a stream weighs the labelled pictures."""

    pictures: int
    weights: FloatArray
    """(N,) of the labelled pictures, mean 1"""
    difficulties: FloatArray
    """(M,) of the stream's pictures"""
    uncovered: float
    """share of the stream in ranges of difficulty without labelled pictures; nothing is known about these"""

    @property
    def effective(self) -> float:
        """How many equally weighted pictures would tell as much."""
        return float(self.weights.sum() ** 2 / (self.weights**2).sum())

    def warnings(self) -> tuple[str, ...]:
        """What makes the weighted numbers doubtful."""
        found = []
        if self.effective < _SPARSE * len(self.weights):
            found.append(
                f"the stream is unlike the labelled pictures: weighted by it, the {len(self.weights)} pictures tell as "
                f"much as {self.effective:.0f}; label pictures of the stream itself"
            )
        if self.uncovered > _ALIEN:
            found.append(
                f"{self.uncovered:.0%} of the stream's pictures have difficulties that no labelled picture has, so "
                "nothing is known about their accuracy"
            )
        return tuple(found)

    def as_json(self) -> Mapping[str, Any]:
        """Plain data."""
        return {
            "pictures": self.pictures,
            "effective_labelled_pictures": self.effective,
            "uncovered": self.uncovered,
            "assumption": ASSUMPTION,
        }


def weigh(labelled: FloatArray, streamed: FloatArray) -> Stream:
    """Weigh labelled pictures by the stream's share in each of ten ranges of difficulty that split them equally.

    `labelled` (N,) and `streamed` (M,) are difficulties, 0..1. Raises InputError for a stream without pictures.
    """
    if not streamed.size:
        raise InputError("the stream has no pictures; at least one is needed")
    edges = np.unique(np.quantile(labelled, np.arange(1, _BINS) / _BINS))
    here, there = (np.searchsorted(edges, values, side="left") for values in (labelled, streamed))
    own, asked = (np.bincount(place, minlength=edges.size + 1) / place.size for place in (here, there))
    # An end of the range is open: how far a stream may lie beyond the labelled pictures and still be like them?
    width = (labelled.max() - labelled.min()) / _BINS
    outside = (streamed > labelled.max() + width) | (streamed < labelled.min() - width)
    ratio = np.divide(asked, own, out=np.zeros_like(own), where=own > 0)
    weights = ratio[here]
    if not weights.sum() > 0:
        weights = np.ones(labelled.size)
    return Stream(
        pictures=int(streamed.size),
        weights=weights / weights.mean(),
        difficulties=streamed,
        uncovered=float(np.mean(outside | (own[there] == 0))),
    )
