"""The gear: how many hard images fit at the load of now, and the threshold that lets so many through.

Rendering puts this file beside every public model. Needs only Python. Nothing here reads a clock; times are seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque

_LEAST_UTILISATION, _MOST_UTILISATION = 0.3, 0.97


def target_utilisation(*, promise_s: float, answer_s: float, server_s: float, variation: float, workers: int) -> float:
    """Share of its time that a server may work, so that 95 % of the answers keep a promise.

    `answer_s` is the time of an answer without waiting, `server_s` the server's time for one (`answer_s` over the
    workers that help), `variation` the squared coefficient of variation. The tail of the wait in heavy traffic:
    P(wait > t) = P(wait > 0) exp(-2 (1 - rho) t / (server_s (1 + variation))).
    """
    left = promise_s - answer_s
    low, high = _LEAST_UTILISATION, _MOST_UTILISATION
    if left <= 0 or server_s <= 0:
        return low
    for _ in range(12):
        rho = (low + high) / 2
        waits = rho ** (math.sqrt(2 * (workers + 1)) - 1)
        late = waits * math.exp(-2 * (1 - rho) * left / (server_s * (1 + variation)))
        low, high = (rho, high) if late < 0.05 else (low, rho)
    return low


def capacity(*, all_easy: float, all_hard: float, per_s: float, easy_s: float, hard_s: float) -> float:
    """Target utilisation for the mix of both routes that it allows, from those for all easy and all hard.

    With hard share h, the server works per_s (easy_s + h (hard_s - easy_s)) of its time, and may work
    all_easy + h (all_hard - all_easy); this gives h.
    """
    slope = per_s * (hard_s - easy_s) - (all_hard - all_easy)
    if slope <= 0:
        return all_hard
    share = min(1.0, max(0.0, (all_easy - per_s * easy_s) / slope))
    return all_easy + share * (all_hard - all_easy)


def hard_share(*, utilisation: float, per_s: float, easy_s: float, hard_s: float) -> float:
    """Share of the images that may be hard, so that the server works only so much of its time.

    Above 1: there is time to spare; 0 or below: there is too little even for easy answers, whatever a hard one takes.
    """
    if per_s <= 0:
        return math.inf
    spare_s = utilisation / per_s - easy_s
    if hard_s <= easy_s:
        return math.copysign(math.inf, spare_s)
    return spare_s / (hard_s - easy_s)


class Correction:
    """What measured answers say about the target utilisation: added to it.

    It is judged after some seconds at a steady load. If few answers are late or degraded, there is room for more hard
    images; if too many are, there must be fewer. Between the two it stays as it is.
    """

    _JUDGED_S, _FEWEST = 4.0, 200
    _STEP = 0.01
    _LEAST, _MOST = -0.2, 0.1

    def __init__(self, now: float) -> None:
        self.value = 0.03
        self.begin(now)

    def begin(self, now: float) -> None:
        """Forget what was counted: the load has changed."""
        self._since = now
        self._answers = self._late = self._degraded = 0

    def answered(self, *, late: bool) -> None:
        """Count a request with a promise: late if it was answered too late, or refused."""
        self._answers += 1
        self._late += late

    def degraded(self) -> None:
        """Count an image for which there was no time."""
        self._degraded += 1

    def judge(self, *, may_rise: bool, may_fall: bool, now: float) -> None:
        """Correct the target utilisation, if enough was seen."""
        if now - self._since < self._JUDGED_S or self._answers < self._FEWEST:
            return
        late, degraded = self._late / self._answers, self._degraded / self._answers
        if may_rise and late < 0.02 and degraded < 0.05:
            self.value = min(self._MOST, self.value + self._STEP)
        elif may_fall and (late > 0.04 or degraded > 0.08):
            self.value = max(self._LEAST, self.value - 2 * self._STEP)
        self.begin(now)


class Difficulties:
    """The difficulties of the last thousand images, for quantiles. They are sorted when `refresh` is called."""

    def __init__(self, *, most: int = 1000) -> None:
        self._recent: deque[float] = deque(maxlen=most)
        self._sorted: list[float] = []
        self._is_new = False

    def add(self, difficulty: float) -> None:
        """Count an image; NaN is left out."""
        if difficulty == difficulty:
            self._recent.append(difficulty)
            self._is_new = True

    def refresh(self) -> None:
        """Take the images that were added into account."""
        if self._is_new:
            self._sorted = sorted(self._recent)
            self._is_new = False

    def __len__(self) -> int:
        return len(self._sorted)

    def share_above(self, threshold: float) -> float:
        """Share of the images that are hard at a threshold; 1 if none is known."""
        if not self._sorted:
            return 1.0
        return 1 - bisect_right(self._sorted, threshold) / len(self._sorted)

    def threshold_for(self, share: float) -> float:
        """The least threshold at which at most this share is hard."""
        if not self._sorted or share >= 1:
            return 0.0
        return self._sorted[min(len(self._sorted) - 1, max(0, math.ceil((1 - share) * len(self._sorted)) - 1))]


class Gear:
    """The threshold in force, between 0 (the floor of each operating point) and 1 (the ceiling).

    It moves only if the share that it lets through differs from the allowed one by more than a dead band, and turns
    round at most once in ten seconds, unless the load has changed. To fall is a risk, as hard images that do not fit
    make requests late. So it falls only as far as was allowed all the time in the last seconds, in steps while the load
    is steady. If it fell too far, the time that is left decides for each image until it may rise again.
    """

    _TURNS_S = 10.0
    _REMEMBERED = 100
    """ticks"""
    _UNSURE_S = 0.6
    """after a change of the load, until its new rate is known well enough to fall"""
    _STEADY_S = 4.0
    """after a change of the load"""
    _STEP_S, _STEP, _STEP_PART = 1.0, 0.06, 0.25
    """while the load is steady, the threshold falls once in so long, by this share of the images or part of the way"""

    def __init__(self) -> None:
        self.threshold = 0.0
        self.share = 1.0
        """hard share that was allowed last"""
        self.due = 1.0
        """share of the recent images that are hard at the floor of their operating point"""
        self._seen = 0
        self._allowed: deque[float] = deque(maxlen=self._REMEMBERED)
        self._direction = 0
        self._turned = self._changed = self._fell = -math.inf

    def saw(self, is_due: bool) -> None:
        """Count an image, and whether it is hard at the floor."""
        self._seen = min(1000, self._seen + 1)
        self.due += (is_due - self.due) / self._seen

    def follow(self, share: float, difficulties: Difficulties, *, band: float, changed: bool, now: float) -> None:
        """Allow a share of hard images, which may be outside 0 to 1; `changed` says whether the load has changed."""
        self.share = min(1.0, max(0.0, share))
        if changed:
            self._turned, self._changed = -math.inf, now
            self._allowed.clear()
        if now - self._changed >= self._UNSURE_S:
            self._allowed.append(share)
        if not len(difficulties):
            return
        through = min(self.due, difficulties.share_above(self.threshold))
        least = min(self._allowed, default=0.0)
        if through - share > band:
            self._move(self._threshold_for(share, difficulties), now)
        elif least - through > band:
            self._fall(least, through, difficulties, now)

    def _fall(self, share: float, through: float, difficulties: Difficulties, now: float) -> None:
        """Let more images through than now: at once after a change of the load, otherwise step by step."""
        if now - self._changed > self._STEADY_S:
            if now - self._fell < self._STEP_S:
                return
            share = min(share, through + max(self._STEP, self._STEP_PART * (share - through)))
        self._fell = now
        self._move(self._threshold_for(share, difficulties), now)

    def _threshold_for(self, share: float, difficulties: Difficulties) -> float:
        if share >= self.due:
            return 0.0
        return 1.0 if share <= 0 else difficulties.threshold_for(share)

    def _move(self, wanted: float, now: float) -> None:
        """Put a threshold into force, unless it turned round not long ago."""
        if wanted == self.threshold:
            return
        direction = 1 if wanted > self.threshold else -1
        if direction != self._direction:
            if now - self._turned < self._TURNS_S:
                return
            self._turned = now
        self._direction = direction
        self.threshold = wanted
