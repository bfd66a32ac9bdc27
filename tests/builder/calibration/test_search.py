"""The search for thresholds where the truth is known: latencies are drawn from a formula instead of measured.

What the real server does is in tests/triton/test_calibrate.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dynamicdet.aliases import silent
from dynamicdet.errors import TargetOutOfReachError, TooNoisyError
from dynamicdet.thresholds import is_hard
from dyndet_bench.measuring.counters import RouteCounts
from dyndet_bench.measuring.measure import PERCENTILES, Run
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.calibration.search import ThresholdSearch
from dyndet_builder.calibration.trial import Trial
from dyndet_builder.targets import parse_targets

_EASY_MS, _HARD_MS = 10.0, 18.0


class Formula:
    """Stands where `Rounds` does. Latency is a route's time, stretched by how busy the server is, and noise."""

    def __init__(self, *, queueing: float = 0.0, noise: float = 0.01, spread: float = 0.1, shift: float = 0.0) -> None:
        self.queueing, self.noise, self.spread = queueing, noise, spread
        self.rng = np.random.default_rng(1)
        self.difficulties = np.random.default_rng(2).beta(0.7, 0.7, 400) ** (1 - shift)
        self.workload = SimpleNamespace(discard=lambda _threshold: None)
        self.measured = 0

    def measure(
        self, thresholds: Sequence[float], tell: Callable[[], None], *, latencies_of: Collection[float] = ()
    ) -> list[Run]:
        del latencies_of
        self.measured += len(thresholds)
        return [self._run(threshold) for threshold in thresholds]

    def _run(self, threshold: float) -> Run:
        hard = is_hard(self.difficulties, threshold)
        share = float(hard.mean())
        route = np.where(hard, _HARD_MS, _EASY_MS) * self.rng.gamma(1 / self.spread**2, self.spread**2, hard.size)
        wait = self.queueing * share * (1 - share) * 10  # more than the mixture between the ends
        latencies = (route + wait) * (1 + self.noise * self.rng.normal())
        return Run(
            threshold=threshold,
            requests=latencies.size,
            mean_ms=float(latencies.mean()),
            percentiles_ms={percent: float(np.quantile(latencies, percent / 100)) for percent in PERCENTILES},
            throughput_per_s=1e3 / float(latencies.mean()),
            counts=RouteCounts(total=hard.size, hard=int(hard.sum())),
            latencies_ms=latencies,
        )


def _find(formula: Formula, targets: str, **effort: Any) -> tuple[list[Trial], ThresholdSearch]:
    calibration = np.random.default_rng(3).beta(0.7, 0.7, 400)
    search = ThresholdSearch(
        formula,  # type: ignore[arg-type]
        parse_targets(targets),
        calibration,
        formula.difficulties.size,
        Effort(time_budget_s=1, **effort),
        silent,
    )
    return search.find(), search


@pytest.mark.parametrize("queueing", [0.0, 0.6])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_every_statistic_is_met_also_where_the_mixture_and_the_images_are_wrong(queueing: float, shift: float) -> None:
    formula = Formula(queueing=queueing, shift=shift, spread=0.25)
    trials, search = _find(formula, "13ms,60%,p50:60%,p95:40%,throughput:75/s")
    for trial, tolerance in zip(trials, (0.03, 0.03, 0.08, 0.08, 0.03), strict=True):
        assert abs(trial.error) <= tolerance
        assert trial.interval[0] <= trial.error <= trial.interval[1]
    # What the threshold really gives, without noise: the formula's own mean.
    share = float(is_hard(formula.difficulties, trials[0].threshold).mean())
    truth = _EASY_MS + share * (_HARD_MS - _EASY_MS) + queueing * share * (1 - share) * 10
    assert truth == pytest.approx(13, rel=0.04)
    assert search.corrections <= 4


def test_all_targets_share_their_rounds() -> None:
    together = Formula()
    _find(together, "12ms,13ms,14ms,15ms")
    alone = 0
    for target in ("12ms", "13ms", "14ms", "15ms"):
        formula = Formula()
        _find(formula, target)
        alone += formula.measured
    assert together.measured < 0.8 * alone


def test_noise_that_hides_the_answer_is_said_with_numbers() -> None:
    said = r"too noisy to say whether 13ms is met: after \d+ rounds .*±3\.0%"
    try:
        _, search = _find(Formula(noise=0.3), "13ms", max_corrections=2)
    except TooNoisyError as error:
        assert re.search(said, str(error))
    else:
        (warning,) = search.warnings
        assert re.search(said, warning)
    assert _find(Formula(noise=0.001), "13ms")[1].warnings == []


def test_a_percentile_in_the_gap_between_the_routes_is_refused() -> None:
    with pytest.raises(TargetOutOfReachError, match="falls into the gap between the routes"):
        _find(Formula(spread=0.02, noise=0.0), "p50:14ms")


def test_a_target_between_two_thresholds_is_refused_with_what_is_near() -> None:
    formula = Formula(noise=0.001)
    formula.difficulties = np.repeat([0.2, 0.8], 200)
    search = ThresholdSearch(
        formula,  # type: ignore[arg-type]
        parse_targets("12ms"),
        np.repeat([0.2, 0.8], 200),
        400,
        Effort(time_budget_s=1),
        silent,
    )
    with pytest.raises(TargetOutOfReachError, match=r"12ms is between two thresholds: .* give more images"):
        search.find()
