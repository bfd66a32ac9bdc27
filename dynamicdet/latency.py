"""Latency of a server that sends some images one way and the rest the other: a mixture of two distributions.

With F1 and F2 the shares of requests that an all-easy and an all-hard server answer within t, a server that keeps the
share k easy answers F(t) = k F1(t) + (1 - k) F2(t) of them. The p-quantile of that server is where F reaches p, which
is not k times one quantile plus (1 - k) times the other: quantiles do not mix, distributions do.

All of it holds where requests do not wait for each other; under load it is where a search begins. Needs numpy alone.
Latencies are milliseconds; any unit does as long as it is the same throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError, TargetOutOfReachError


@dataclass(frozen=True, eq=False)
class Mixture:
    """Measured latencies of single requests, all-easy and all-hard, (n,) each and sorted on creation.

    Raises InputError where one of them is empty or holds what is no latency.
    """

    easy: FloatArray
    hard: FloatArray

    def __post_init__(self) -> None:
        for name in ("easy", "hard"):
            values = np.sort(np.asarray(getattr(self, name), np.float64).ravel())
            if values.size == 0 or not (np.isfinite(values).all() and values[0] > 0):
                raise InputError(f"the {name} route needs at least one positive, finite latency")
            object.__setattr__(self, name, values)

    def quantile(self, level: float, easy_share: float) -> float:
        """Smallest measured latency that a share `level` (0..1) of the requests does not exceed."""
        values = np.concatenate([self.easy, self.hard])
        weights = np.repeat(
            [easy_share / self.easy.size, (1 - easy_share) / self.hard.size], [self.easy.size, self.hard.size]
        )
        order = np.argsort(values, kind="stable")
        order = order[weights[order] > 0]
        reached = np.cumsum(weights[order])
        first = int(np.searchsorted(reached, level - 1e-9))
        return float(values[order[min(first, order.size - 1)]])

    def easy_share_for_quantile(self, level: float, target: float, *, tolerance: float) -> float:
        """Smallest easy share whose `level`-quantile is at most `target`: k = (p - F2(T)) / (F1(T) - F2(T)).

        Raises TargetOutOfReachError, with what can be reached, below the all-easy and above the all-hard quantile
        (relative `tolerance` granted), and where no request takes about as long as the target: a quantile is always the
        latency of some request, and jumps over the gap between two routes that do not overlap.
        """
        low, high = self.quantile(level, 1.0), self.quantile(level, 0.0)
        name = f"p{level * 100:g}"
        if not low * (1 - tolerance) <= target <= high * (1 + tolerance):
            side = "below this server's all-easy" if target < low else "above this server's all-hard"
            end = low if target < low else high
            raise TargetOutOfReachError(
                f"{name} of {target:.4g} ms is {side} {name} ({end:.4g} ms); ask for {low:.4g} to {high:.4g} ms"
            )
        if target <= low:
            return 1.0
        if target >= high:
            return 0.0
        easy, hard = _within(self.easy, target), _within(self.hard, target)
        share = min(1.0, max(0.0, (level - hard) / (easy - hard)))
        below, above = self._neighbours(target)
        if below < target * (1 - tolerance) and above > target * (1 + tolerance):
            raise TargetOutOfReachError(
                f"{name} of {target:.4g} ms falls into the gap between the routes: with up to {1 - share:.1%} of the "
                f"images hard it is {below:.4g} ms or less, with more {above:.4g} ms or more; ask for one of these"
            )
        return share

    def _neighbours(self, target: float) -> tuple[float, float]:
        """The measured latencies next to a target, that is not beyond all of them."""
        values = np.sort(np.concatenate([self.easy, self.hard]))
        index = int(np.searchsorted(values, target, side="right"))
        return float(values[max(0, index - 1)]), float(values[min(index, values.size - 1)])


def _within(ordered: FloatArray, limit: float) -> float:
    return float(np.searchsorted(ordered, limit, side="right")) / ordered.size
