"""Decides about one request: whether it is let in, and which route answers an image.

Rendering puts this file beside every public model. Needs only Python. Nothing here reads a clock; times are seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

EASY, HARD, DEGRADED = 1, 2, -3
"""values of the output `route`; degraded: hard, but detector 1 answers because there was no time or budget"""
LATE, FULL = "late", "full"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a request is not answered, and when it may come again."""

    reason: str
    """`late`: it cannot be answered in time; `full`: too many wait"""
    retry_after_s: float
    """after which it would probably be answered"""

    @property
    def retry_after_ms(self) -> int:
        """The same in milliseconds, at least 1."""
        return max(1, math.ceil(1e3 * self.retry_after_s))


def is_hard(difficulty: float, threshold: float) -> bool:
    """Whether a difficulty exceeds a threshold, or is NaN; at threshold 0 always, even if it was rounded to 0."""
    return not (0 < threshold and difficulty <= threshold)


class Margin:
    """Time that a prediction must leave, so that few answers are late: learned from answers.

    Each late one raises the margin, and each other one lowers it by so much that the share of late ones is what it may
    be.
    """

    _STEP = 0.25

    def __init__(self, *, late: float) -> None:
        """`late` is the share of the counted answers that may be late."""
        self.answers = 0.5
        """in units of an easy answer"""
        self._down = self._STEP * late / (1 - late)

    def learn(self, *, late: bool) -> None:
        """Count an answer."""
        self.answers = min(4.0, max(0.0, self.answers + (self._STEP if late else -self._down)))


class Allowance:
    """Late answers that a promise of 95 % allows, so that a short queue need not refuse anybody.

    Each request that is let in adds up to 0.04, and each that is let in although it will be late takes 1, which comes
    back if it was in time after all. At high load a late answer only makes others late, so less is added, and nothing
    at all from a utilisation of 91 %.
    """

    _MOST = 150.0
    _FULL_BELOW, _NONE_FROM = 0.84, 0.91

    def __init__(self) -> None:
        self._left = self._MOST
        self._added = 0.04

    def load_is(self, utilisation: float) -> None:
        """Set the utilisation that easy answers to all images would give."""
        room = min(1.0, max(0.0, (self._NONE_FROM - utilisation) / (self._NONE_FROM - self._FULL_BELOW)))
        self._added = 0.04 * room
        self._left = min(self._left, self._MOST * room)

    @property
    def is_open(self) -> bool:
        """Whether the load is low enough for late answers."""
        return self._added > 0

    def admitted(self) -> None:
        """Count a request that was let in."""
        self._left = min(self._MOST, self._left + self._added)

    def take(self) -> bool:
        """Allow one late answer; False if there were too many."""
        if self._left < 1 or not self.is_open:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """Count an answer that was in time after all."""
        self._left = min(self._MOST, self._left + 1)
