"""Records of a detector under load, made of outcomes, answers and latencies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynamicdet.aliases import FloatArray
from dyndet_bench.load.arrivals import Arrivals, Kind, Profile
from dyndet_bench.load.messages import Found
from dyndet_bench.load.plan import Run
from dyndet_bench.load.queueing import Service
from dyndet_bench.load.record import Capacity, Cell, Hindsight, LoadRecord, Promise
from dyndet_bench.load.scoring import Accuracy, Measured
from dyndet_bench.load.sending import ANSWERED, CANCELLED, REFUSED, UNSENT, Sent
from dyndet_bench.load.watching import Watched
from dyndet_bench.measuring.machine import Circumstances

EASY_ANSWER, HARD_ANSWER, DEGRADED_ANSWER = range(3)
ANSWERS = [
    Found(
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        classes=np.zeros(0, np.int64),
        difficulty=0.5,
        route=route,
    )
    for route in (1, 2, -3)
]


def load_cell(
    outcome: Sequence[int],
    answer: Sequence[int],
    latency_ms: Sequence[float],
    *,
    accuracy: Accuracy | None = None,
    kind: Kind = "plain",
    threshold: Sequence[float] = (),
    name: str = "steady",
    lag_ms: float = 0.1,
    system: str = "some",
    level: float = 1.0,
) -> Cell:
    """The cell of one request after another over 20 s, with these outcomes, answers and latencies."""
    count = len(outcome)
    seconds = 20.0
    due = np.linspace(0.1, seconds - 0.1, count)
    ended: FloatArray = due + np.array(latency_ms) / 1e3
    samples = np.arange(len(threshold)) * 0.25
    return Measured(
        run=Run(
            profile=name,
            level=level,
            shape=Profile(name=name, level=level, seconds=seconds),  # type: ignore[arg-type]
            seconds=seconds,
        ),
        system=system,
        kind=kind,
        threshold=None if kind == "following" else 0.5,
        arrivals=Arrivals(due_s=due, images=np.arange(count) % 2, cancelled=np.array(outcome) == CANCELLED),
        sent=Sent(
            sent_s=np.where(np.array(outcome) == UNSENT, np.nan, due + lag_ms / 1e3),
            ended_s=ended,
            outcome=np.array(outcome, np.int8),
            answer=np.array(answer, np.int64),
            answers=[],
            sentences=["dyndet/stage-failed: the stage failed"],
        ),
        answers=ANSWERS,
        watched=Watched(
            at_s=samples,
            threshold=np.array(threshold, np.float64),
            gear=np.full(samples.shape, np.nan),
            queue=np.zeros(samples.shape),
            memory_mb=100 + samples,
        ),
        promise=Promise(statistic="p95", share=0.95, ms=100, source="option --promise"),
        service=Service(easy_s=np.array([0.01]), hard_s=np.array([0.02])),
        accuracy=accuracy,
    ).cell()


def load_record(*, name: str = "street", data: str | None = "demo/val", burst: bool = True) -> LoadRecord:
    """Two steady levels and a burst: a threshold that follows, and plain queueing that is late at the higher level."""
    cells = []
    runs: list[tuple[str, float]] = [("steady", 0.5), ("steady", 2.0), *([("burst", 3.0)] if burst else [])]
    for profile, level in runs:
        at = np.linspace(0.1, 19.9, 200)
        busy = (at >= 5) & (at < 11) if profile == "burst" else np.full(200, level > 1)
        threshold = np.where((np.arange(80) >= 20) & (np.arange(80) < 44), 0.9, 0.5)
        accuracy = None if data is None else Fixed(data)
        following = [REFUSED if late and number % 10 == 0 else ANSWERED for number, late in enumerate(busy)]
        answers = [EASY_ANSWER if late else HARD_ANSWER for late in busy]
        cells.append(
            load_cell(following, np.where(np.array(following) == REFUSED, -1, answers).tolist(),
                      [20.0] * 200, kind="following", threshold=threshold, name=profile, level=level,
                      system="following", accuracy=accuracy)
        )  # fmt: skip
        cells.append(
            load_cell([ANSWERED] * 200, [HARD_ANSWER] * 200, [900.0 if late else 20.0 for late in busy],
                      name=profile, level=level, system="plain queueing", accuracy=accuracy)
        )  # fmt: skip
    return LoadRecord(
        model=name,
        bundle_sha256="0" * 64,
        operating_point="50%",
        base_threshold=0.5,
        images=2,
        data=data,
        promise=Promise(statistic="p95", share=0.95, ms=100, source="option --promise"),
        capacity=Capacity(easy_mean_ms=10, hard_mean_ms=20, easy_per_s=100, hard_per_s=50, concurrency=4),
        seed=0,
        processes=1,
        most_outstanding=1000,
        cells=tuple(cells),
        hindsight=tuple(
            Hindsight(profile=profile, level=level, threshold=0.75, hard_share=0.25, within=0.96, ap=41.5)
            for profile, level in runs
        ),
        circumstances=Circumstances(
            machine={"cpu": "some"}, versions={"numpy": "1"}, command="dyndet", date="2026-01-01"
        ),
    )


class Fixed:
    """Gives every list of answers the same AP."""

    def __init__(self, data: str) -> None:
        self.data = data

    def __call__(self, given: Sequence[object]) -> float:
        return 42.25
