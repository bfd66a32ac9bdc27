"""What a calibration says where it cannot succeed: the right cause, whatever the statistic and the number of rounds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dynamicdet.aliases import silent
from dynamicdet.errors import DyndetError, IllConditionedError, InputError, TargetOutOfReachError, TooNoisyError
from dynamicdet.thresholds import is_hard
from dyndet_bench.measuring.counters import RouteCounts
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.measure import PERCENTILES, Run
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.calibration.route_model import check_reachable
from dyndet_builder.calibration.search import ThresholdSearch
from dyndet_builder.calibration.trial import Trial
from dyndet_builder.targets import parse_target, parse_targets

_EASY_MS = 10.0
_STATISTICS = ["mean", "p50", "p90", "p95", "p99", "throughput"]


class Formula:
    """Stands where `Rounds` does, with a latency for each route; `noise` changes the speed of a whole run."""

    def __init__(
        self, difficulties: npt.ArrayLike, *, hard_ms: float = 18.0, noise: float = 0.0, spread: float = 0.02
    ) -> None:
        self.difficulties = np.asarray(difficulties, np.float64)
        self.hard_ms, self.noise, self.spread = hard_ms, noise, spread
        self.rng = np.random.default_rng(1)
        self.workload = SimpleNamespace(discard=lambda _threshold: None)

    def measure(self, thresholds: Sequence[float], _tell: object, **_options: object) -> list[Run]:
        return [self.run(threshold) for threshold in thresholds]

    def run(self, threshold: float) -> Run:
        hard = is_hard(self.difficulties, threshold)
        latencies = np.where(hard, self.hard_ms, _EASY_MS) * self.rng.gamma(self.spread**-2, self.spread**2, hard.size)
        latencies *= np.exp(self.noise * self.rng.normal())
        return Run(
            threshold=threshold,
            requests=latencies.size,
            mean_ms=float(latencies.mean()),
            percentiles_ms={percent: float(np.quantile(latencies, percent / 100)) for percent in PERCENTILES},
            throughput_per_s=1e3 / float(latencies.mean()),
            counts=RouteCounts(total=hard.size, hard=int(hard.sum())),
            latencies_ms=latencies,
        )


def _find(
    formula: Formula, target: str, rounds: int = 5, *, held_out: int | None = None, **effort: Any
) -> tuple[Trial, list[str]]:
    """The whole search, with the effort that `--rounds` gives."""
    measured = {"range_rounds": min(rounds, 3), "trial_rounds": min(rounds, 2), "verification_rounds": rounds}
    search = ThresholdSearch(
        formula,  # type: ignore[arg-type]
        parse_targets(target),
        formula.difficulties,
        held_out or formula.difficulties.size,
        Effort(time_budget_s=0, **measured, **effort),
        silent,
    )
    (trial,) = search.find()
    return trial, search.warnings


def _refusal(formula: Formula, target: str, rounds: int = 5, **effort: Any) -> DyndetError:
    with pytest.raises(DyndetError) as refused:
        _find(formula, target, rounds, **effort)
    said = str(refused.value)
    assert not re.search(r"\binf\b|\bnan\b|-inf|\n", said)
    return refused.value


@pytest.mark.parametrize("statistic", _STATISTICS)
@pytest.mark.parametrize(("rounds", "difficulty"), [(1, 0.0), (2, 0.5), (5, 1.0)])
def test_equal_difficulties_are_the_cause_however_noisy_the_machine_is(
    statistic: str, rounds: int, difficulty: float
) -> None:
    formula = Formula(np.full(40, difficulty), noise=0.1, hard_ms=30)
    refused = _refusal(formula, f"{statistic}:50%", rounds)
    assert type(refused) is TargetOutOfReachError
    assert re.search(rf"all 40 calibration images have the same difficulty \({difficulty:g}\).*or none", str(refused))
    assert "nois" not in str(refused)
    for end, threshold in (("0%", 1.0), ("100%", 0.0)):  # the ends are always reached
        assert _find(Formula(np.full(40, difficulty)), f"{statistic}:{end}", 1)[0].threshold == threshold


@pytest.mark.parametrize("statistic", ["mean", "throughput"])
@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_two_difficulties_reach_three_values_and_are_the_cause_elsewhere(
    statistic: str, rounds: int, noise: float
) -> None:
    two = np.repeat([0.2, 0.8], 40)
    refused = _refusal(Formula(two, noise=noise), f"{statistic}:20%", rounds)
    assert type(refused) is TargetOutOfReachError
    assert re.search(r"between two thresholds: .* 80 images with 2 different difficulties", str(refused))
    goal = "50%" if statistic == "mean" else "throughput:64.3%"  # the harmonic mean
    assert 0.2 < _find(Formula(two), goal, rounds)[0].threshold < 0.8


def test_images_without_a_difficulty_are_counted_apart() -> None:
    refused = _refusal(Formula(np.repeat([0.5, np.nan], 40)), "50%", 2)
    assert re.search(r"80 images with one difficulty \(40 have none: NaN\) leave no threshold", str(refused))


@pytest.mark.parametrize("statistic", _STATISTICS)
@pytest.mark.parametrize(("hard_ms", "rounds"), [(9.0, 1), (6.0, 2), (9.5, 5)])
def test_a_detector_2_that_costs_no_time_is_said_without_blaming_noise(
    statistic: str, hard_ms: float, rounds: int
) -> None:
    refused = _refusal(Formula(np.linspace(0, 1, 200), hard_ms=hard_ms, spread=0.002), f"{statistic}:50%", rounds)
    assert type(refused) is TargetOutOfReachError
    assert re.search("no threshold changes the .* not slower than all-easy .* detector 2 costs no time", str(refused))
    assert ("only round" in str(refused)) == (rounds == 1)


def test_rounds_that_disagree_about_the_slower_route_are_noise() -> None:
    rounds = [Formula(np.linspace(0, 1, 40), hard_ms=hard_ms) for hard_ms in (8.0, 13.0, 9.5)]
    easy, hard = ([one.run(threshold) for one in rounds] for threshold in (1.0, 0.0))
    with pytest.raises(TooNoisyError, match=r"whether detector 2 changes .* differ by -\d+\.\d% to \+\d+\.\d%"):
        check_reachable(parse_target("50%"), easy, hard, 0.03)


@pytest.mark.parametrize("statistic", ["mean", "p50"])
def test_routes_that_are_equally_fast_meet_every_target_between_them_with_a_warning(statistic: str) -> None:
    formula = Formula(np.linspace(0, 1, 100), hard_ms=_EASY_MS * 1.01, spread=0.002)
    trial, (warning,) = _find(formula, f"{statistic}:50%", 2)
    assert re.search(f"every threshold meets {statistic}:50%", warning)
    assert abs(trial.error) < 0.02


@pytest.mark.parametrize("statistic", ["mean", "throughput"])
def test_a_single_round_is_the_cause_where_only_more_could_tell(statistic: str) -> None:
    seen = set()
    for seed in range(6):
        formula = Formula(np.random.default_rng(0).beta(0.7, 0.7, 60), noise=0.25, spread=0.2)
        formula.rng = np.random.default_rng(seed)
        try:
            _find(formula, f"{statistic}:50%", 1, max_corrections=2)
        except TooNoisyError as error:
            seen.add("rounds")
            assert re.search(r"one round is too few to say .* \(--rounds\)", str(error))
            assert not re.search("noisy|inf", str(error))
        except TargetOutOfReachError:
            pass
    assert seen == {"rounds"}


def test_few_requests_are_the_cause_where_a_percentile_is_the_slowest_of_them() -> None:
    formula = Formula(np.random.default_rng(0).beta(0.7, 0.7, 8), noise=0.2, spread=0.3)
    formula.rng = np.random.default_rng(2)
    refused = _refusal(formula, "p99:60%", 2, held_out=10_000, max_corrections=1)
    assert isinstance(refused, TooNoisyError)
    assert re.search(r"^\d+ requests are too few to say whether p99:60% .* p99 needs at least 300", str(refused))
    assert "noisy" not in str(refused)


@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_percentile_between_the_routes_is_ill_conditioned_before_it_is_tried(rounds: int, noise: float) -> None:
    formula = Formula(np.linspace(0, 1, 100), hard_ms=14, spread=0.05, noise=noise)
    refused = _refusal(formula, "p50:50%", rounds)
    assert type(refused) is IllConditionedError and refused.exit_code == 3
    found = re.search(
        r"p50:50% is ill-conditioned: p50 (?:jumps|rises) from ([\d.]+) to ([\d.]+) ms between hard shares of (\d+)% "
        r"and (\d+)%, and images other than the 100 held-out ones change the hard share by 5 points; ask for a mean",
        str(refused),
    )
    assert found is not None and "nois" not in str(refused)
    low, high, fewer, more = map(float, found.groups())
    assert 10 < low < 11.5 < 12.5 < high < 14 and fewer < 50 < more


def test_what_the_message_proposes_is_accepted_and_so_is_the_target_with_the_option() -> None:
    for proposal in ("p50:10.2ms", "p50:13.6ms", "50%"):
        trial, warnings = _find(Formula(np.linspace(0, 1, 100), hard_ms=14, spread=0.05), proposal, 1)
        assert abs(trial.error) < 0.08 and warnings == []
    formula = Formula(np.linspace(0, 1, 100), hard_ms=14, spread=0.05)
    _, warnings = _find(formula, "p50:50%", 2, accept_ill_conditioned=True)
    (warning,) = warnings
    assert "p50:50% is ill-conditioned" in warning
    assert "accept-ill" not in warning


@pytest.mark.parametrize(
    ("number", "batch", "said"),
    [
        (1, 1, "photos holds 1 image; calibration needs at least 8"),
        (3, 1, "photos holds 3 images; calibration needs at least 8"),
        (20, 16, "batches of 16 need at least 32 images, .* photos holds 20 images"),
        (500, 128, r"at least 256 images, .*; photos holds 500 images, of which 200 are used \(--max-images\)"),
    ],
)
def test_too_few_images_are_named_with_how_many_are_needed(number: int, batch: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Effort().check_images(Path("photos"), number, Load(batch=batch))
    Effort().check_images(Path("photos"), 2 * max(batch, 4) if batch < 128 else 256, Load(batch=min(batch, 100)))
