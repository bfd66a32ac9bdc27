"""The best fixed threshold of a level, found afterwards: of many simulated ones, and of those that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dynamicdet.thresholds import is_hard
from dyndet_bench.load.arrivals import Arrivals
from dyndet_bench.load.messages import Found
from dyndet_bench.load.plan import Run
from dyndet_bench.load.queueing import Service, Static, best_static, simulate_static
from dyndet_bench.load.record import Cell, Hindsight, Promise
from dyndet_bench.load.scoring import Accuracy
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD

_CANDIDATES = 21
"""fixed thresholds that are simulated, beside all easy and all hard"""


@dataclass(frozen=True, kw_only=True)
class Looking:
    """What the search knows: both routes' answers to every image, service times, and the promise."""

    easy: Sequence[Found]
    hard: Sequence[Found]
    service: Service
    promise: Promise
    seed: int
    accuracy: Accuracy | None
    _known: dict[float, float | None] = field(default_factory=dict)

    def back(self, run: Run, arrivals: Arrivals, cells: Sequence[Cell]) -> Hindsight:
        """The best fixed threshold for these arrivals; `cells` are those of the level."""
        best = best_static(self._simulated(arrivals), share=self.promise.share)
        kept = [cell for cell in cells if cell.kind != "following" and cell.within >= self.promise.share]
        measured = max(kept, key=lambda cell: (cell.ap or 0.0, cell.hard_share or 0.0), default=None)
        return Hindsight(
            profile=run.profile,
            level=run.level,
            threshold=None if best is None else best.threshold,
            hard_share=None if best is None else best.hard_share,
            within=None if best is None else best.within,
            ap=None if best is None else self._ap(best.threshold),
            measured=None if measured is None else measured.system,
            measured_ap=None if measured is None else measured.ap,
        )

    def both_ap(self) -> tuple[float, float] | None:
        """AP of all easy and of all hard; None without labels."""
        ends = (self._ap(ALL_EASY), self._ap(ALL_HARD))
        return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])

    def _simulated(self, arrivals: Arrivals) -> list[Static]:
        """Fixed thresholds on these arrivals, from all easy to all hard."""
        difficulties = np.array([one.difficulty for one in self.easy])
        known = difficulties[~np.isnan(difficulties)]
        inner = np.quantile(known, np.linspace(0, 1, _CANDIDATES)) if known.size else np.empty(0)
        thresholds = sorted({ALL_EASY, ALL_HARD, *(float(np.float32(one)) for one in inner if 0 < one < 1)})
        return [
            simulate_static(
                self.service,
                arrivals.due_s,
                arrivals.images,
                is_hard(difficulties, threshold),
                threshold=threshold,
                promise_ms=self.promise.ms,
                seed=self.seed,
            )
            for threshold in thresholds
        ]

    def _ap(self, threshold: float) -> float | None:
        """AP of a fixed threshold, every image once."""
        if self.accuracy is None:
            return None
        if threshold not in self._known:
            hard = is_hard([one.difficulty for one in self.easy], threshold)
            answers = [
                slow if chosen else quick for quick, slow, chosen in zip(self.easy, self.hard, hard, strict=True)
            ]
            found = self.accuracy([(number, one, 1) for number, one in enumerate(answers)])
            self._known[threshold] = found if np.isfinite(found) else None
        return self._known[threshold]
