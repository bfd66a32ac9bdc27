"""Narrows down the easy share that meets a target, by trials on either side of it. Nothing is measured here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_MOST_TRIALS = 3
"""of one share, if noise hides whether it meets the target"""
_PATIENCE = 2
"""trials in a row that need not halve the bracket"""


@dataclass(frozen=True)
class _Verdict:
    too_slow: bool
    certain: bool


class Bracket:
    """The shares of easy images that can still meet a target, between the largest too slow and the smallest too fast.

    More easy images make a server faster. A model proposes the next share. If its proposals do not narrow the bracket
    fast enough, the next share is the middle or, while all trials are on one side, a step of twice the length.
    """

    def __init__(self, shares: npt.ArrayLike, start: float) -> None:
        """`shares` are those that thresholds can give, ascending; the first on trial is the nearest to `start`."""
        self._shares = np.asarray(shares, np.float64)
        self._place = self._nearest(range(self._shares.size), start)
        self._verdicts: dict[int, _Verdict] = {}
        """of places in `shares`, by their last trial"""
        self._trials: Counter[int] = Counter()
        self._step = 0.0
        self._width = float(np.ptp(self._shares))
        self._unhalved = 0

    @property
    def share(self) -> float:
        """The easy share on trial."""
        return float(self._shares[self._place])

    @property
    def between(self) -> tuple[float, float] | None:
        """The largest share that was too slow and the smallest that was too fast, if no share lies between them."""
        low, high = self._low, self._high
        if low < 0 or high == self._shares.size or high - low != 1:
            return None
        return float(self._shares[low]), float(self._shares[high])

    def next(self, *, too_slow: bool, certain: bool, expected: float) -> float | None:
        """The share to try after the one on trial missed the target; None if no share is left that could meet it.

        `certain` says that the miss is larger than noise, `expected` is the share that a model proposes. A share whose
        miss was not certain can be tried again a few times, if the model still proposes it.
        """
        self._trials[self._place] += 1
        self._verdicts[self._place] = _Verdict(too_slow, certain)
        left = self._left()
        if not left:
            return None
        before = self.share
        self._place = self._nearest(left, self._aim(too_slow, expected))
        self._step = abs(self.share - before) or self._step
        return self.share

    @property
    def _low(self) -> int:
        """Place of the largest share that was too slow."""
        return max((place for place, verdict in self._verdicts.items() if verdict.too_slow), default=-1)

    @property
    def _high(self) -> int:
        """Place of the smallest share that was faster than needed."""
        fast = (place for place, verdict in self._verdicts.items() if not verdict.too_slow)
        return min(fast, default=self._shares.size)

    def _nearest(self, places: Sequence[int], share: float) -> int:
        """The nearest place; of two equally near ones that of the larger share, which is faster."""
        return min(reversed(places), key=lambda place: abs(float(self._shares[place]) - share))

    def _left(self) -> list[int]:
        """Places that can still meet the target: those between the ends, and an end whose miss was not certain."""
        certain = {place for place, verdict in self._verdicts.items() if verdict.certain}
        places = range(max(self._low, 0), min(self._high + 1, self._shares.size))
        return [place for place in places if place not in certain and self._trials[place] < _MOST_TRIALS]

    def _aim(self, too_slow: bool, expected: float) -> float:
        last = self._shares.size - 1
        low, high = float(self._shares[max(self._low, 0)]), float(self._shares[min(self._high, last)])
        if high - low <= self._width / 2:
            self._width, self._unhalved = high - low, 0
        else:
            self._unhalved += 1
        if self._unhalved < _PATIENCE:
            return expected
        if self._low >= 0 and self._high <= last:
            return (low + high) / 2
        direction = 1 if too_slow else -1
        return self.share + direction * 2 * max(self._step, direction * (expected - self.share))
