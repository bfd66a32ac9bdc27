"""Average precision over the hard share, from a sweep or an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dynamicdet.errors import InputError
from dynamicdet.records import Share, read_record
from dyndet_bench.sweep.record import FILE_NAME as SWEEP_FILE
from dyndet_bench.sweep.record import Percent, Sweep, read_sweep

_SHARES = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Accuracies:
    """AP over hard share: pairs of both, in ascending order of the share."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> Accuracies:
        """Raises InputError for fewer than two hard shares, which say nothing about those between."""
        shares = dict(sorted(points))
        if len(shares) < 2:
            raise InputError(f"AP is known at {len(shares)} hard shares; a plan needs it at two or more")
        return cls(tuple(shares.items()))

    def at(self, hard_share: float) -> float:
        """AP at a hard share, percent; between known ones, on the line."""
        shares, precisions = zip(*self.points, strict=True)
        return float(np.interp(hard_share, shares, precisions))

    def least_hard_share(self, floor: float) -> float:
        """The lowest hard share, in steps of 1 %, with at least this AP. Raises InputError if none has it."""
        for share in _SHARES:
            if self.at(share) >= floor:
                return float(share)
        share, best = max(self.points, key=lambda point: point[1])
        raise InputError(
            f"no hard share reaches an AP of {floor:g}; the best is {best:.1f}, at {share:.0%} hard images"
        )


class _Precision(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    ap: Percent


class _Point(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    hard_share: Share
    precision: _Precision


class _Evaluation(BaseModel):
    """What is read of the JSON of `dyndet evaluate`, which has more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    curve: Annotated[tuple[_Point, ...], Field(min_length=2, max_length=10_000)]


def read_accuracies(path: Path) -> Accuracies:
    """AP over hard share from the JSON of `dyndet evaluate`, or from a sweep with AP (its folder or file).

    Raises InputError if it is neither, or says too little.
    """
    if path.is_dir() or path.name == SWEEP_FILE:
        found = accuracies_of_sweep(read_sweep(path))
        if found is None:
            raise InputError(f"the sweep {path} has no average precision; `dyndet bench sweep --data` adds it")
        return found
    read = read_record(
        path,
        _Evaluation,
        described="an evaluation of both routes",
        advice="`dyndet evaluate --json` writes one",
    )
    return Accuracies.of([(point.hard_share, point.precision.ap) for point in read.curve])


def accuracies_of_sweep(sweep: Sweep) -> Accuracies | None:
    """Those of a sweep; None if it has none."""
    points = [(one.hard_share, one.ap) for one in sweep.accuracy]
    return Accuracies.of(points) if len(dict(points)) > 1 else None
