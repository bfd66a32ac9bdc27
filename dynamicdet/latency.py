"""Latency of a server that sends some images to each of two routes: a mixture of two distributions.

F1(t) and F2(t) are the shares of requests that an all-easy and an all-hard server answer within t. A server with the
easy share k answers F(t) = k F1(t) + (1 - k) F2(t) of the requests within t. Its p-quantile is the time at which F
reaches p. This is not k times one quantile plus (1 - k) times the other: distributions mix, quantiles do not.

This holds if requests do not wait for each other; under load it is the start of a search. The file needs only numpy.
Latencies are in milliseconds; any other unit works too if all values have the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError, TargetOutOfReachError
from dynamicdet.text import distinct


@dataclass(frozen=True, eq=False)
class Mixture:
    """Measured latencies of single requests, all-easy and all-hard, (n,) each and sorted on creation.

    Raises InputError if one is empty or has a value that is not positive and finite.
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

    def quantiles(self, level: float, easy_shares: npt.ArrayLike) -> FloatArray:
        """`quantile` at several easy shares, (shares,)."""
        values = np.unique(np.concatenate([self.easy, self.hard]))
        within = self.share_within(values, easy_shares)  # (shares, values)
        found: FloatArray = values[np.minimum(np.sum(within < level - 1e-9, axis=1), values.size - 1)]
        return found

    def share_within(self, limits: FloatArray, easy_shares: npt.ArrayLike) -> FloatArray:
        """F at each limit, (n,), for each easy share, (shares,): the share of requests within it, (shares, n)."""
        easy = np.searchsorted(self.easy, limits, side="right") / self.easy.size
        hard = np.searchsorted(self.hard, limits, side="right") / self.hard.size
        shares = np.asarray(easy_shares, np.float64)[:, np.newaxis]
        mixed: FloatArray = hard + shares * (easy - hard)
        return mixed

    def easy_share_for_quantile(self, level: float, target: float, *, tolerance: float) -> float:
        """Smallest easy share whose `level`-quantile is at most `target`: k = (p - F2(T)) / (F1(T) - F2(T)).

        Raises TargetOutOfReachError, with the reachable range, if the target is below the all-easy or above the
        all-hard quantile by more than the relative `tolerance`. It is also raised if no request takes about as long as
        the target: a quantile is always the latency of some request, so it jumps over a gap between the two routes.
        """
        low, high = self.quantile(level, 1.0), self.quantile(level, 0.0)
        name = f"p{level * 100:g}"
        if not low * (1 - tolerance) <= target <= high * (1 + tolerance):
            side = "below this server's all-easy" if target < low else "above this server's all-hard"
            asked, least, most = distinct(target, low, high)
            end = least if target < low else most
            raise TargetOutOfReachError(
                f"{name} of {asked} ms is {side} {name} ({end} ms); ask for {least} to {most} ms"
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
                f"images hard it is {below:.4g} ms or less, with more it is {above:.4g} ms or more; ask for a mean, "
                "for another percentile, or for a latency well outside the gap"
            )
        return share

    def _neighbours(self, target: float) -> tuple[float, float]:
        """The measured latencies next to a target that is between the lowest and the highest."""
        values = np.sort(np.concatenate([self.easy, self.hard]))
        index = int(np.searchsorted(values, target, side="right"))
        return float(values[max(0, index - 1)]), float(values[min(index, values.size - 1)])


def _within(ordered: FloatArray, limit: float) -> float:
    return float(np.searchsorted(ordered, limit, side="right")) / ordered.size
