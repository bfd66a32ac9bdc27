"""Whether routing between two detectors pays, in a few short sentences, and what to know beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

from dynamicdet.evaluation.evaluate import LEAST_AP, LEAST_GAP
from dyndet_bench.report.text import milliseconds, percent
from dyndet_builder.pairing.payoff.frontier import Accuracy, Frontier, Point

Outcome = Literal["cascade", "single", "unclear"]
FEW_PICTURES = 50
"""fewer cannot show that a router or a gain is none"""
_COIN = "a coin"
_TYPICAL_SHARE = 0.28
"""hard share at which a mid-size sibling of the same family is often as fast (YOLO11 n, m, x; D-FINE N, M, X)"""


@dataclass(frozen=True, kw_only=True)
class Win:
    """Mean latencies at which the cascade is better than everything else of the same speed."""

    from_ms: float
    to_ms: float
    clear: bool
    """whether the intervals of the differences leave out 0"""

    def __str__(self) -> str:
        if self.from_ms == self.to_ms:
            return f"of {milliseconds(self.from_ms)}"
        return f"from {milliseconds(self.from_ms)} to {milliseconds(self.to_ms)}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to the question whether routing pays."""

    outcome: Outcome
    sentence: str
    """the recommendation first, then its reasons: up to four short sentences, the last without its full stop"""
    remarks: tuple[str, ...]
    wins: tuple[Win, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "outcome": self.outcome,
            "sentence": self.sentence,
            "remarks": list(self.remarks),
            "wins": [asdict(one) for one in self.wins],
        }


@dataclass(frozen=True, kw_only=True)
class _Rival:
    """The cascade at one latency, and the best of what is as fast."""

    point: Point
    name: str
    rival: Accuracy
    lead: Accuracy
    """of the cascade; negative: it is behind"""


def judge(frontier: Frontier, *, measure: str, pictures: int) -> Verdict:
    """The verdict on a frontier; `measure` is what its accuracies are called, `AP` or `agreement`."""
    words = _Words(frontier, measure, pictures)
    useless = _useless(frontier, words)
    if useless is not None:
        return useless
    rivals = list(_rivals(frontier))
    wins = tuple(_wins(rivals))
    remarks = tuple(_remarks(frontier, words, rivals))
    if any(win.clear for win in wins):
        return Verdict(outcome="cascade", sentence=words.win(rivals, wins), remarks=remarks, wins=wins)
    if wins:
        return Verdict(outcome="unclear", sentence=words.noise(rivals, wins), remarks=remarks, wins=wins)
    return Verdict(outcome="single", sentence=words.loss(rivals), remarks=remarks, wins=())


def _useless(frontier: Frontier, words: _Words) -> Verdict | None:
    """The verdict where the large detector gains nothing, so that there is nothing to route for."""
    small, large, gain = frontier.small, frontier.large, frontier.gain
    if max(one.accuracy.value for one in frontier.singles) < LEAST_AP:
        sentence = (
            "Check colour, scale and resizing with `dyndet inspect --probe` before anything else. The detectors find "
            f"next to nothing ({words.has(small.accuracy)} and {words.has(large.accuracy)})"
        )
        return Verdict(outcome="single", sentence=sentence, remarks=(), wins=())
    if gain.value >= LEAST_GAP:
        return None
    sentence = (
        f"Use {small.name} alone, because there is nothing to gain. It has {words.has(small.accuracy)} and takes "
        f"{milliseconds(small.latency_ms)}. {large.name} has {words.has(large.accuracy)} and takes "
        f"{milliseconds(large.latency_ms)}"
    )
    return Verdict(outcome="single", sentence=sentence, remarks=(), wins=())


def _rivals(frontier: Frontier) -> Iterator[_Rival]:
    """The cascade at each of its latencies and at those of the other detectors, beside what is as fast."""
    points = [point for point in frontier.router.points if point.hard_share > 0]
    points += [point for one in frontier.others if (point := frontier.cascade_at(one.latency_ms)) is not None]
    for point in sorted(points, key=lambda one: one.latency_ms):
        yield rival_at(frontier, point)


def rival_at(frontier: Frontier, point: Point) -> _Rival:
    """The best of what is as fast as the cascade at a point: a single detector, or a coin between the two."""
    found = [(one.name, one.accuracy) for one in frontier.singles if one.latency_ms <= point.latency_ms * (1 + 1e-9)]
    coin = frontier.coin_at(point.latency_ms)
    found += [(_COIN, coin)] if coin is not None else []
    name, rival = max(found, key=lambda pair: pair[1].value)
    return _Rival(point=point, name=name, rival=rival, lead=point.accuracy.minus(rival))


def _wins(rivals: Sequence[_Rival]) -> Iterator[Win]:
    def level(one: _Rival) -> int:
        return 0 if one.lead.value <= 0 else 2 if one.lead.low > 0 else 1

    for reached, group in groupby(rivals, level):
        members = list(group)
        if reached:
            yield Win(from_ms=members[0].point.latency_ms, to_ms=members[-1].point.latency_ms, clear=reached == 2)


def _around(wins: Sequence[Win], best: _Rival) -> str:
    """The range with the largest lead; a sentence has no room for all."""
    return next(str(win) for win in wins if win.from_ms <= best.point.latency_ms <= win.to_ms)


def _remarks(frontier: Frontier, words: _Words, rivals: Sequence[_Rival]) -> Iterator[str]:
    if frontier.gain.low <= 0:
        yield (
            f"{frontier.large.name} gains {words.number(frontier.gain)} over {frontier.small.name}, which is inside "
            f"the noise of {words.pictures} pictures"
        )
    best = max(frontier.others, key=lambda one: one.accuracy.value, default=None)
    if best is not None and best.accuracy.value >= frontier.large.accuracy.value:
        yield (
            f"{best.name} has at least the accuracy of {frontier.large.name} and takes "
            f"{milliseconds(best.latency_ms)}. Consider it in place of {frontier.large.name}"
        )
    if not frontier.others:
        yield words.unknown_sibling(rivals)


@dataclass(frozen=True)
class _Words:
    """The sentences."""

    frontier: Frontier
    measure: str
    pictures: int

    def has(self, accuracy: Accuracy) -> str:
        """Such as `49.8 AP` or `agreement 49.8`."""
        return f"{accuracy.value:.1f} AP" if self.measure == "AP" else f"{self.measure} {accuracy.value:.1f}"

    def number(self, difference: Accuracy) -> str:
        """A difference with its interval."""
        unit = " AP" if self.measure == "AP" else ""
        return f"{difference.value:.1f}{unit} (95 % interval {difference.low:+.1f} to {difference.high:+.1f})"

    def win(self, rivals: Sequence[_Rival], wins: Sequence[Win]) -> str:
        """The cascade wins somewhere, and not by chance."""
        clear = [win for win in wins if win.clear]
        best = max((one for one in rivals if one.lead.low > 0), key=lambda one: one.lead.value)
        found = [
            f"Use the cascade for a mean latency {_around(clear, best)}",
            f"It is better there than {self._all()}, by up to {self.number(best.lead)}",
            f"At {milliseconds(best.point.latency_ms)}, with {percent(best.point.hard_share)} of the pictures hard, it "
            f"has {self.has(best.point.accuracy)}; {self._rival(best)} has {self.has(best.rival)}",
        ]
        if best.point.latency_ms > self.frontier.large.latency_ms:
            large = self.frontier.large
            found.append(f"That is slower than {large.name} alone, which takes {milliseconds(large.latency_ms)}")
        return ". ".join([*found, *self._beaten()])

    def noise(self, rivals: Sequence[_Rival], wins: Sequence[Win]) -> str:
        """The cascade is ahead somewhere, by less than the noise."""
        best = max(rivals, key=lambda one: one.lead.value)
        found = [
            *(self._beaten() or ["It is not clear that the cascade pays"]),
            f"For a mean latency {_around(wins, best)}, the cascade is ahead of {self._all()}, but by no more than "
            f"{self.number(best.lead)}",
            f"That is inside the noise of {self.pictures} pictures",
        ]
        return ". ".join(found)

    def loss(self, rivals: Sequence[_Rival]) -> str:
        """The cascade is behind everywhere."""
        beaten = self._beaten()
        if beaten:
            return ". ".join(beaten)
        best = max(rivals, key=lambda one: one.lead.value)
        return (
            f"Use a single detector. The cascade is nowhere better than {self._all()}. At "
            f"{milliseconds(best.point.latency_ms)} it has {self.has(best.point.accuracy)}; "
            f"{self._rival(best)} has {self.has(best.rival)}"
        )

    def unknown_sibling(self, rivals: Sequence[_Rival]) -> str:
        """What nobody has measured without a third detector."""
        point = min((one.point for one in rivals), key=lambda one: abs(one.hard_share - _TYPICAL_SHARE))
        return (
            "no third detector was given. A mid-size one of the same family is often better. Here it would have to "
            f"take at most {milliseconds(point.latency_ms)} and have more than {self.has(point.accuracy)}. "
            "`--also MID.onnx` measures one"
        )

    def _beaten(self) -> list[str]:
        """Sentences on the further detector that beats the cascade at its own latency by most; none if none does."""
        found = []
        for one in self.frontier.others:
            point = self.frontier.cascade_at(one.latency_ms)
            if point is not None and one.accuracy.value >= point.accuracy.value:
                found.append((one.accuracy.minus(point.accuracy), one, point))
        if not found:
            return []
        lead, one, point = max(found, key=lambda entry: entry[0].value)
        said = [
            f"Use {one.name} for a mean latency of {milliseconds(one.latency_ms)}",
            f"It has {self.has(one.accuracy)} alone; the cascade has {self.has(point.accuracy)} there",
        ]
        if lead.low <= 0:
            said.append(f"The difference, {self.number(lead)}, is inside the noise, but one detector is simpler")
        return said

    def _all(self) -> str:
        each = "each detector" if self.frontier.others else "either detector"
        return f"{each} alone and a coin between the two"

    def _rival(self, one: _Rival) -> str:
        if one.name == _COIN:
            return f"a coin between {self.frontier.small.name} and {self.frontier.large.name}"
        return f"{one.name} alone"
