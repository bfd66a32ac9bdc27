"""How fast a server answers, and how often it is asked: running estimates that follow changes.

Rendering puts this file beside every public model. Needs only Python. Nothing here reads a clock; times are seconds.
"""

from __future__ import annotations

import math
from collections import deque

_SQRT_2 = math.sqrt(2)


class Estimate:
    """Mean of a duration and its mean deviation, over about the last hundred values.

    A value counts at most four times the recent mean, so one hiccup moves little. If the mean of the last ten or so
    values, of which each counts at most twice that mean, differs by more than chance allows, it is the new mean.
    """

    __slots__ = ("_before", "_count", "_recent", "deviation", "mean", "passed")

    def __init__(self) -> None:
        self.mean = self.deviation = self._recent = self._before = 0.0
        self._count = 0
        self.passed = 0
        """answers of the other route since the last value"""

    def __bool__(self) -> bool:
        return self._count > 0

    def add(self, value: float) -> bool:
        """Count a value; True if the mean has jumped."""
        if not self._count:
            self.mean = self._recent = self._before = value
            self.deviation = 0.2 * value
            self._count = 1
            return False
        recent, mean = self._recent, self.mean
        recent += 0.1 * ((value if value < 2 * recent else 2 * recent) - recent)
        if value > 4 * recent:
            value = 4 * recent
        self._count += 1
        weight = 1 / self._count if self._count < 100 else 0.01
        # From neighbours, so that a jump of the mean does not count as scatter.
        scatter = abs(value - self._before) / _SQRT_2
        self.deviation += (weight if weight > 0.02 else 0.02) * (scatter - self.deviation)
        mean += weight * (value - mean)
        self._before, self._recent, self.mean = value, recent, mean
        apart = abs(recent - mean)
        if apart > 0.15 * mean and self._count > 20 and apart > 1.5 * self.deviation:
            self.mean = recent
            self._count = 10
            return True
        return False

    def scale(self, factor: float) -> None:
        """Let the estimate follow what is known of the speed."""
        self.mean *= factor
        self.deviation *= factor
        self._recent *= factor
        self._before *= factor

    @property
    def high(self) -> float:
        """About the 90th percentile."""
        return self.mean + 1.6 * self.deviation


class Pace:
    """Time of an easy and of a hard answer, from what workers did.

    Workers that share cores slow each other down, so times are kept by the number of busy workers.
    """

    def __init__(self, *, workers: int) -> None:
        self._easy, self._hard = _Times(workers), _Times(workers)
        self.easy, self.hard = self._easy.nearest, self._hard.nearest
        """time of a worker for an easy and for a hard answer, while so many are busy; False if none was measured"""
        self.first = Estimate()
        """until the difficulty is known"""
        self.jumps = 0
        """how often times have jumped: a machine became slower, or faster"""
        self.server_easy_s = self.server_hard_s = 0.0
        """times of the whole server for an answer: with two workers, half of a worker's time; 0: not known"""

    def answered(self, spent_s: float, *, easy: int, hard: int, busy: int) -> None:
        """Count the work of one worker for some images, done while `busy` workers were busy.

        If it had images of both routes, both estimates move by the same factor.
        """
        one_easy, one_hard = self._easy.own(busy), self._hard.own(busy)
        if not hard:
            self.jumps += _add(one_easy, spent_s / easy, beside=one_hard)
        elif not easy:
            self.jumps += _add(one_hard, spent_s / hard, beside=one_easy)
        elif one_easy and one_hard:
            factor = spent_s / (easy * one_easy.mean + hard * one_hard.mean)
            self.jumps += one_easy.add(factor * one_easy.mean)
            self.jumps += one_hard.add(factor * one_hard.mean)
        self.server_easy_s, self.server_hard_s = self._easy.server_s(), self._hard.server_s()


_STALE = 10
"""answers of one route after which the time of the other is out of date"""


def _add(one: Estimate, value: float, *, beside: Estimate) -> bool:
    """Count a time of one route; True if its mean has jumped.

    While only one route answers, the time of the other follows its speed. Otherwise, a hard answer measured before an
    overload could seem faster than the easy ones within it.
    """
    before = one.mean
    jumped = one.add(value)
    one.passed = 0
    beside.passed += 1
    if before and beside.passed > _STALE:
        beside.scale(one.mean / before)
    return jumped


class _Times:
    """Times of a route by the number of busy workers."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._own = [Estimate() for _ in range(workers)]
        self._nearest = self._own
        self._known: list[tuple[int, Estimate]] = []

    def own(self, busy: int) -> Estimate:
        return self._own[min(busy, self._workers) - 1]

    def nearest(self, busy: int) -> Estimate:
        """Those measured with the most similar number of busy workers."""
        return self._nearest[0 if busy < 1 else min(busy, self._workers) - 1]

    def server_s(self) -> float:
        """The server's time for an answer, at the number of busy workers at which it answers most; 0: not known."""
        if len(self._known) < self._workers:
            self._known = [(level, one) for level, one in enumerate(self._own, 1) if one]
            if not self._known:
                return 0.0
            self._nearest = [
                min(self._known, key=lambda pair: abs(pair[0] - level))[1] for level in range(1, self._workers + 1)
            ]
        return min([one.mean / level for level, one in self._known])


BIN_S = 0.05
_TESTED = (5, 10, 20, 40, 80, 160)
"""lengths of the recent past that are compared with the time before, bins"""
_LONGEST = 600
"""bins"""
_SIGMAS = 4.0
_CHANGED_FROM, _CHANGED_TO = 0.8, 1.25
"""factors of the rate between which a change is too small to count"""


class Rate:
    """Images that arrive in a second: the mean of up to 30 s, as long as they could have come at a constant rate.

    If one of the last 0.25 s to 8 s does not fit, only that counts. Arrivals that come in bunches scatter more than
    independent ones; how much is measured.
    """

    def __init__(self, now: float) -> None:
        self._opened = now
        self._count = 0
        self._sums: deque[int] = deque([0], maxlen=_LONGEST + 1)
        """images since the beginning, at the end of each bin"""
        self._squares = self._mean = 0.0
        """of the differences between neighbouring bins; of bins"""
        self._last = 0
        self.changes = 0
        """how often the rate has changed"""

    def add(self, images: int, now: float) -> None:
        """Count arrivals."""
        if now >= self._opened + BIN_S:
            self.roll(now)
        self._count += images

    def roll(self, now: float) -> None:
        """Close the bins that are over."""
        passed = int((now - self._opened) / BIN_S)
        if passed <= 0:
            return
        if passed > _LONGEST:  # nothing is left of the time before
            self.__init__(now)  # type: ignore[misc]
            self.changes += 1
            return
        for _ in range(passed):
            self._sums.append(self._sums[-1] + self._count)
            self._squares += 0.01 * ((self._count - self._last) ** 2 / 2 - self._squares)
            self._mean += 0.01 * (self._count - self._mean)
            self._last, self._count = self._count, 0
        self._opened += passed * BIN_S
        self._notice_change()

    @property
    def per_s(self) -> float:
        """Images a second."""
        bins = len(self._sums) - 1
        if not bins:
            return 0.0
        return (self._sums[-1] - self._sums[0]) / (bins * BIN_S)

    @property
    def uncertainty(self) -> float:
        """Standard deviation of the rate as a share of it; 1 if nothing is known."""
        seen = self._sums[-1] - self._sums[0]
        return min(1.0, math.sqrt(self._scatter / seen)) if seen else 1.0

    @property
    def _scatter(self) -> float:
        """Variance of a count over its mean; 1 for independent arrivals."""
        return max(1.0, self._squares / self._mean) if self._mean > 0 else 1.0

    def _notice_change(self) -> None:
        sums, bins = self._sums, len(self._sums) - 1
        scatter = self._scatter
        for recent in _TESTED:
            before = bins - recent
            if before < recent:
                return
            seen = sums[-1] - sums[-1 - recent]
            expected = (sums[-1 - recent] - sums[0]) * recent / before
            # If the rate has not changed: the variance of both counts.
            allowed = _SIGMAS * math.sqrt(scatter * max(expected, seen, 1) * (1 + recent / before)) + 1
            if abs(seen - expected) > allowed:
                before_per_s = self.per_s
                for _ in range(bins - self._likeliest(2 * recent)):
                    sums.popleft()
                self.changes += not _CHANGED_FROM < self.per_s / before_per_s < _CHANGED_TO
                return

    def _likeliest(self, most: int) -> int:
        """Bins since the change: the split of the last `most` bins, and of all before, that two rates fit best."""
        sums, bins = self._sums, len(self._sums) - 1
        found, best = 1, -math.inf
        for recent in range(1, min(most, bins - 1) + 1):
            after = sums[-1] - sums[-1 - recent]
            before = sums[-1 - recent] - sums[0]
            likelihood = sum(
                seen * math.log(seen / length) for seen, length in ((after, recent), (before, bins - recent)) if seen
            )
            if likelihood > best:
                found, best = recent, likelihood
        return found
