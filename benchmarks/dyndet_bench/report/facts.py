"""A sweep as its reports need it: by load, by threshold, with the accuracy of each cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from dyndet_bench.measuring.load import Load
from dyndet_bench.report.text import threshold_decimals
from dyndet_bench.sweep.record import Accuracy, Cell, Latency, Sweep

_Item = TypeVar("_Item")


def load_range(first: Load, last: Load, joint: str) -> str:
    """Two loads of one kind in words, as in `concurrency 1 to 8` or `40 and 120 requests/s`."""
    if first == last:
        return str(first)
    if last.open:
        return f"{first.amount:g} {joint} {last}"
    return f"{replace(first, batch=1)} {joint} {str(last).removeprefix('concurrency ')}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A cell that was measured, with the accuracy of its threshold if it is known."""

    cell: Cell
    load: Load
    latency: Latency
    """from when requests were due"""
    accuracy: Accuracy | None

    @property
    def threshold(self) -> float:
        """The cell's threshold."""
        return self.cell.threshold


@dataclass(frozen=True)
class Facts:
    """A sweep with the views that tables, plots and sentences share."""

    sweep: Sweep

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, by load, from the easiest threshold to the hardest."""
        return tuple(sorted(self.sweep.cells, key=lambda cell: (cell.load, -cell.threshold)))

    @cached_property
    def measured(self) -> tuple[Measured, ...]:
        """The cells with values, in the same order."""
        return tuple(
            Measured(cell=cell, load=cell.load, latency=cell.waited, accuracy=self.accuracy(cell.threshold))
            for cell in self.cells
            if cell.error is None and cell.waited is not None
        )

    @cached_property
    def failed(self) -> tuple[Cell, ...]:
        """The cells without values."""
        return tuple(cell for cell in self.cells if cell.error is not None or cell.waited is None)

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """The loads at which something was measured."""
        return tuple(sorted({found.load for found in self.measured}))

    @cached_property
    def thresholds(self) -> tuple[float, ...]:
        """The thresholds that were measured, from the easiest to the hardest."""
        return tuple(sorted({found.threshold for found in self.measured}, reverse=True))

    def at(self, load: Load) -> tuple[Measured, ...]:
        """The cells of one load, from the easiest threshold to the hardest."""
        return tuple(found for found in self.measured if found.load == load)

    def with_accuracy(self, load: Load) -> tuple[Measured, ...]:
        """The cells of one load whose accuracy is known."""
        return tuple(found for found in self.at(load) if found.accuracy is not None)

    def ends(self, load: Load) -> tuple[Measured, Measured] | None:
        """The all-easy and the all-hard cell of one load, if both were measured."""
        easy = [found for found in self.at(load) if found.threshold >= 1.0]
        hard = [found for found in self.at(load) if found.threshold <= 0.0]
        return (easy[0], hard[-1]) if easy and hard else None

    def middle(self, load: Load) -> Measured | None:
        """The cell between the ends whose hard share is nearest to one half."""
        between = [
            (abs(found.cell.hard_share - 0.5), found)
            for found in self.at(load)
            if 0.0 < found.threshold < 1.0 and found.cell.hard_share is not None
        ]
        return min(between, key=lambda pair: pair[0])[1] if between else None

    def accuracy(self, threshold: float) -> Accuracy | None:
        """The accuracy of a threshold, also if the threshold was rounded to a 32-bit float."""
        for known in self.sweep.accuracy:
            if math.isclose(known.threshold, threshold, rel_tol=1e-6, abs_tol=1e-9):
                return known
        return None

    def threshold_text(self, threshold: float) -> str:
        """A threshold with enough decimals to distinguish the thresholds of this sweep; 0 and 1 have none."""
        if threshold in (0.0, 1.0):
            return f"{threshold:.0f}"
        return f"{threshold:.{self._threshold_decimals}f}"

    @cached_property
    def _threshold_decimals(self) -> int:
        sources = (self.sweep.cells, self.sweep.points, self.sweep.accuracy)
        return threshold_decimals(item.threshold for source in sources for item in source)


def spread(items: Sequence[_Item], most: int) -> tuple[_Item, ...]:
    """At most this many items, evenly spaced, with the first and the last: what a plot can show at once."""
    if len(items) <= most:
        return tuple(items)
    return tuple(items[round(index * (len(items) - 1) / (most - 1))] for index in range(most))
