"""Plans for replicas whose thresholds follow the load: accuracy gives way first, then requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_bench.load.record import Cell, LoadRecord
from dyndet_bench.measuring.statistic import Statistic
from dyndet_builder.deployment.plan_accuracy import Accuracies
from dyndet_builder.deployment.plan_queue import Queue, fewest

_STEPS = 7
"""halvings of the hard share: a hundredth"""
_STEADY = "steady"
_MOST_ROWS = 6


@dataclass(frozen=True, kw_only=True)
class AbsorbingRow:
    """What a number of replicas does with the load."""

    replicas: int
    hard_share: float | None
    """what the promise leaves to detector 2; None: not even all easy answers keep it"""
    refused_share: float
    """of the requests, which all easy answers are too slow for"""
    ap: float | None
    """None: AP over hard share is not known"""


@dataclass(frozen=True, kw_only=True)
class LevelCheck:
    """A steady level of `dyndet bench load` on one server, measured and estimated."""

    rate_per_s: float
    measured_hard_share: float | None
    hard_share: float
    measured_refused_share: float
    refused_share: float
    measured_ap: float | None
    ap: float | None
    within: float
    """share of all requests that were answered within the promise, measured"""


@dataclass(frozen=True, kw_only=True)
class Absorbing:
    """How many replicas absorb the load with which loss."""

    hard_share_floor: float
    ap_floor: float | None
    replicas_without_refusals: int
    """at the request rate, if all images are easy"""
    replicas_at_floor: int
    """that keep the hard share, or AP, at the floor"""
    rows: tuple[AbsorbingRow, ...]
    checks: tuple[LevelCheck, ...]


def absorbing(
    queue: Queue,
    limit: float,
    *,
    floor: float,
    ap_floor: float | None = None,
    accuracies: Accuracies | None = None,
    measured: LoadRecord | None = None,
) -> Absorbing:
    """How many replicas keep the promised statistic within `limit` (ms) by easy answers alone, and at a floor.

    `floor` is a hard share. Raises InputError for a measured record without a level to compare with.
    """
    least, at_floor = fewest(queue.with_hard_share(0), limit), fewest(queue.with_hard_share(floor), limit)
    return Absorbing(
        hard_share_floor=floor,
        ap_floor=ap_floor,
        replicas_without_refusals=least,
        replicas_at_floor=at_floor,
        rows=tuple(_row(queue, number, limit, accuracies) for number in _shown(least, at_floor, fewest(queue, limit))),
        checks=() if measured is None else _checks(queue, measured, accuracies),
    )


def floor_of(
    most: float, hard_share_floor: float | None, ap_floor: float | None, accuracies: Accuracies | None
) -> float:
    """The floor as a hard share, by default `most`, that without load.

    Raises InputError for two floors, for an AP floor without `accuracies`, and for a floor above `most`, which no
    number of replicas exceeds.
    """
    if hard_share_floor is not None and ap_floor is not None:
        raise InputError("a floor is a hard share or an average precision; give one of them")
    if ap_floor is not None:
        if accuracies is None:
            raise InputError(
                "an AP floor needs AP over the hard share: plan from a sweep with AP, or give --evaluation; without "
                "them, give --hard-share-floor"
            )
        floor, what = accuracies.least_hard_share(ap_floor), f"the AP floor {ap_floor:g}"
    else:
        floor, what = most if hard_share_floor is None else hard_share_floor, "the hard share floor"
    if not 0 <= floor <= 1:
        raise InputError(f"the hard share floor must be from 0 to 1, not {floor:g}")
    if floor > most + 1e-9:
        raise InputError(
            f"{what} needs a hard share of {floor:.4g}, above the one without load, {most:.4g}, which no number of "
            "replicas exceeds; choose another operating point, or give a lower floor"
        )
    return min(floor, most)


def _shown(least: int, at_floor: int, enough: int) -> Sequence[int]:
    """Numbers of replicas from one too few to one more than enough; of many, about six."""
    first, last = max(1, least - 1), max(at_floor, enough) + 1
    step = max(1, (last - first) // _MOST_ROWS)
    return sorted({least, at_floor, enough, *range(first, last + 1, step)})


def _row(queue: Queue, replicas: int, limit: float, accuracies: Accuracies | None) -> AbsorbingRow:
    share = _kept(queue, replicas, limit)
    kept = 0.0 if share is None else share
    return AbsorbingRow(
        replicas=replicas,
        hard_share=share,
        refused_share=0.0 if share is not None else _refused(queue, replicas, limit),
        ap=None if accuracies is None else accuracies.at(kept),
    )


def _kept(queue: Queue, replicas: int, limit: float) -> float | None:
    """The highest hard share that keeps the promise; None if even all easy answers break it."""

    def holds(share: float) -> bool:
        mixed = queue.with_hard_share(share)
        return replicas >= mixed.least and mixed.promised_ms(replicas) <= limit

    low, high = 0.0, queue.replica.hard_share
    if not holds(low):
        return None
    if holds(high):
        return high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _refused(queue: Queue, replicas: int, limit: float) -> float:
    """The share of the requests beyond what all easy answers can take within the promise."""
    easy = queue.with_hard_share(0)
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        some = replace(easy, rate=middle * queue.rate)
        holds = replicas >= some.least and some.promised_ms(replicas) <= limit
        low, high = (middle, high) if holds else (low, middle)
    return 1 - low


def _checks(queue: Queue, measured: LoadRecord, accuracies: Accuracies | None) -> tuple[LevelCheck, ...]:
    """Every steady level with a threshold that follows, on one server, with the promise of the measurement."""
    promised = replace(queue, statistic=Statistic(measured.promise.statistic))
    cells = [cell for cell in measured.cells if cell.kind == "following" and cell.profile == _STEADY]
    if not cells:
        raise InputError(
            f"the load record of {printable(measured.model)} has no steady level with a threshold that follows; "
            "measure one with `dyndet bench load --profile steady`"
        )
    return tuple(_check(promised, cell, measured.promise.ms, accuracies) for cell in cells if cell.rate_per_s > 0)


def _check(queue: Queue, cell: Cell, promise_ms: float, accuracies: Accuracies | None) -> LevelCheck:
    row = _row(replace(queue, rate=cell.rate_per_s), 1, promise_ms, accuracies)
    return LevelCheck(
        rate_per_s=cell.rate_per_s,
        measured_hard_share=cell.hard_share,
        hard_share=row.hard_share or 0.0,
        measured_refused_share=cell.refused / cell.offered if cell.offered else 0.0,
        refused_share=row.refused_share,
        measured_ap=cell.ap,
        ap=row.ap,
        within=cell.within,
    )
