"""Turns what became of the requests of a run into one cell of the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import BoolArray, FloatArray
from dyndet_bench.load import windows
from dyndet_bench.load.arrivals import Arrivals, Kind
from dyndet_bench.load.messages import DEGRADED, HARD, Found
from dyndet_bench.load.plan import Run
from dyndet_bench.load.queueing import Service, mean_ms, quantile_ms
from dyndet_bench.load.record import Allowed, Cell, Promise, TimeLine
from dyndet_bench.load.sending import ANSWERED, CANCELLED, FAILED, REFUSED, UNANSWERED, UNSENT, Sent
from dyndet_bench.load.watching import Watched

Given = tuple[int, Found | None, int]
"""an image's number, the answer to it (None: there was none), and how many requests got it"""
_LATE_SHARE, _LATE_MS = 0.1, 2.0
"""of the promise, and milliseconds: a generator that sends later says little about the server"""
_TURNS_WITHIN_S = 10.0


class Accuracy(Protocol):
    """Scores answers with the truth."""

    data: str
    """whose labels they are compared with"""

    def __call__(self, given: Sequence[Given]) -> float:
        """COCO AP, percent, each answer as an image of its own; NaN without objects."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One system in one run."""

    run: Run
    system: str
    kind: Kind
    threshold: float | None
    arrivals: Arrivals
    sent: Sent
    answers: Sequence[Found]
    """the different answers of `sent`, decoded"""
    watched: Watched
    promise: Promise
    service: Service
    accuracy: Accuracy | None = None

    def cell(self) -> Cell:
        """The cell of the record."""
        sent, due = self.sent, self.arrivals.due_s
        offered = sent.outcome != CANCELLED
        accepted = offered & (sent.outcome != REFUSED)
        latency = self.latency_ms
        within = self._answered & (latency <= self.promise.ms)
        routes = self._routes
        answered = int(self._answered.sum())
        lag_ms = 1e3 * (sent.sent_s - due)[~np.isnan(sent.sent_s)]
        lag_p95 = _quantile(lag_ms, 0.95) or 0.0
        refusals = 1e3 * (sent.ended_s - due)[sent.outcome == REFUSED]
        hard_share = float(np.mean(routes[self._answered] == HARD)) if answered else None
        degraded = float(np.mean(routes[self._answered] == DEGRADED)) if answered else None
        precision, precision_all = self._precisions()
        turns = windows.turns_s(self.watched.at_s, self.watched.threshold) if self.kind == "following" else np.empty(0)
        return Cell(
            profile=self.run.profile,
            level=self.run.level,
            system=self.system,
            kind=self.kind,
            threshold=self.threshold,
            seconds=self.run.seconds,
            rate_per_s=due.size / self.run.seconds,
            offered=int(offered.sum()),
            answered=answered,
            **self._counts(),
            within=float(within.sum() / max(1, offered.sum())),
            within_accepted=float(within.sum() / accepted.sum()) if accepted.any() else None,
            goodput_per_s=float(within.sum() / self.run.seconds),
            mean_ms=float(latency[self._answered].mean()) if answered else None,
            **self._percentiles(latency[accepted]),
            refusal_p95_ms=_quantile(refusals, 0.95),
            hard_share=hard_share,
            degraded_share=degraded,
            ap=precision,
            ap_all=precision_all,
            lag_p95_ms=max(0.0, lag_p95),
            valid=lag_p95 <= max(_LATE_MS, _LATE_SHARE * self.promise.ms),
            turns=turns.size,
            turns_in_10_s=windows.most_within(turns, _TURNS_WITHIN_S),
            **self._normal(),
            **self._memory(),
            allowed=self._allowed(hard_share or 0.0),
            errors=tuple(sent.sentences),
            line=self._line(),
        )

    @property
    def latency_ms(self) -> FloatArray:
        """(requests,) from when a request was due; infinite without an answer."""
        latency = np.full(self.arrivals.due_s.shape, np.inf)
        latency[self._answered] = 1e3 * (self.sent.ended_s - self.arrivals.due_s)[self._answered]
        return latency

    @property
    def _answered(self) -> BoolArray:
        return np.asarray(self.sent.outcome == ANSWERED, np.bool_)

    @property
    def _routes(self) -> npt.NDArray[np.int64]:
        """(requests,); 0 without an answer."""
        found = np.array([one.route for one in self.answers] + [0], np.int64)
        return found[self.sent.answer]  # -1 takes the last

    def _counts(self) -> dict[str, Any]:
        named = {
            "refused": REFUSED,
            "failed": FAILED,
            "unsent": UNSENT,
            "unanswered": UNANSWERED,
            "cancelled": CANCELLED,
        }
        return {name: int((self.sent.outcome == outcome).sum()) for name, outcome in named.items()}

    @staticmethod
    def _percentiles(latency_ms: FloatArray) -> dict[str, Any]:
        return {f"p{percent}_ms": _quantile(latency_ms, percent / 100) for percent in (50, 90, 95, 99)}

    def _precisions(self) -> tuple[float | None, float | None]:
        """AP of the answers, and with empty answers for all requests that got none."""
        if self.accuracy is None or not self._answered.any():
            return None, None
        pairs = np.stack([self.arrivals.images, self.sent.answer], axis=1)[self._answered]
        unique, counts = np.unique(pairs, axis=0, return_counts=True)
        given: list[Given] = [
            (int(image), self.answers[answer], int(count))
            for (image, answer), count in zip(unique, counts, strict=True)
        ]
        without = ~self._answered & (self.sent.outcome != CANCELLED)
        images, times = np.unique(self.arrivals.images[without], return_counts=True)
        empty: list[Given] = [(int(image), None, int(count)) for image, count in zip(images, times, strict=True)]
        found = _finite(self.accuracy(given))
        return found, found if not empty else _finite(self.accuracy([*given, *empty]))

    def _normal(self) -> dict[str, Any]:
        if self.run.over_s is None:
            return {}
        begin, end = self.run.over_s
        answered = self._answered
        p95 = windows.quantile_per_window(
            self.arrivals.due_s[answered], self.latency_ms[answered], self.run.seconds, 0.95
        )
        seen = self.watched
        return {
            "latency_normal_s": windows.normal_again_s(p95, begin_s=begin, end_s=end),
            "threshold_normal_s": None
            if self.kind != "following"
            else windows.threshold_back_s(seen.at_s, seen.threshold, begin_s=begin, end_s=end),
        }

    def _memory(self) -> dict[str, Any]:
        known = self.watched.memory_mb[~np.isnan(self.watched.memory_mb)]
        before, after, most = (known[0], known[-1], known.max()) if known.size else (None, None, None)
        return {"memory_before_mb": before, "memory_after_mb": after, "memory_most_mb": most}

    def _allowed(self, hard_share: float) -> Allowed:
        """What a queue would do with as many hard images as were answered so."""
        rate, service = self.arrivals.due_s.size / self.run.seconds, self.service
        busy = rate * ((1 - hard_share) * service.easy_s.mean() + hard_share * service.hard_s.mean())
        if self.run.profile != "steady":
            return Allowed(utilisation=busy, mean_ms=None, quantile_ms=None)
        return Allowed(
            utilisation=busy,
            mean_ms=mean_ms(service, rate, hard_share),
            quantile_ms=quantile_ms(service, rate, hard_share, self.promise.share),
        )

    def _line(self) -> TimeLine:
        seconds, due, sent, answered = self.run.seconds, self.arrivals.due_s, self.sent, self._answered
        latency, routes, seen = self.latency_ms, self._routes, self.watched
        offered = sent.outcome != CANCELLED
        threshold = seen.threshold
        if self.threshold is not None:
            threshold = np.full(seen.at_s.shape, self.threshold)
        ended = sent.ended_s[answered]
        return TimeLine(
            window_s=windows.WINDOW_S,
            offered_per_s=_values(windows.rate_per_window(due, seconds)),
            answered_per_s=_values(windows.rate_per_window(ended[ended < seconds], seconds)),
            p95_ms=_values(windows.quantile_per_window(due[answered], latency[answered], seconds, 0.95)),
            hard_share=_values(windows.share_per_window(due[answered], routes[answered] == HARD, seconds)),
            degraded_share=_values(windows.share_per_window(due[answered], routes[answered] == DEGRADED, seconds)),
            refused_share=_values(windows.share_per_window(due[offered], sent.outcome[offered] == REFUSED, seconds)),
            sample_s=_values(seen.at_s),
            threshold=_values(threshold, 4),
            gear=_values(seen.gear, 4),
            queue=_values(seen.queue),
            memory_mb=_values(seen.memory_mb, 1),
        )


def _quantile(values: FloatArray, share: float) -> float | None:
    """None without values, or if the percentile was never answered."""
    if not values.size:
        return None
    return _finite(float(np.quantile(values, share, method="inverted_cdf")))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _values(values: FloatArray, digits: int = 3) -> tuple[float | None, ...]:
    return tuple(_finite(round(float(value), digits)) for value in values)
