"""The bracket around the share of easy images that meets a target, where the latency of every share is known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyndet_builder.calibration.bracket import Bracket

FloatArray = npt.NDArray[np.float64]

_TOLERANCE = 0.03
_MOST_TRIALS_OF_ONE_SHARE = 3

Proposal = Callable[["Machine"], float]
"""a model: the share that it proposes after the trials so far"""


@dataclass
class Machine:
    """Latency of each share, (shares,), falling; the relative error of a trial is off by at most `noise`."""

    shares: FloatArray
    latencies: FloatArray
    goal: float
    noise: float = 0.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    tried: list[float] = field(default_factory=list)

    def errors(self) -> FloatArray:
        """True relative error of each share, (shares,)."""
        return self.latencies / self.goal - 1

    def find(self, bracket: Bracket, propose: Proposal) -> float | None:
        """The share whose trial met the goal, or None where the bracket has none left."""
        while True:
            self.tried.append(bracket.share)
            true = float(self.errors()[self.shares == bracket.share][0])
            error = true + self.rng.uniform(-self.noise, self.noise)
            if abs(error) <= _TOLERANCE:
                return bracket.share
            certain = abs(error) > _TOLERANCE + self.noise
            if bracket.next(too_slow=error > 0, certain=certain, expected=propose(self)) is None:
                return None


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Any falling latency over the shares that some images leave, and a goal in or near what it reaches."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = draw(st.integers(1, 300))
    difficulties = rng.integers(0, draw(st.integers(1, 600)), images)
    _, counts = np.unique(difficulties, return_counts=True)
    shares = np.array([0.0, *np.cumsum(counts) / images])
    drops = rng.gamma(draw(st.floats(0.05, 5)), size=shares.size)  # from a few steps to a straight line
    fastest, slowest = 10.0, draw(st.floats(11, 100))
    latencies = fastest + (slowest - fastest) * np.cumsum(drops)[::-1] / drops.sum()
    goal = fastest + draw(st.floats(-0.1, 1.1)) * (slowest - fastest)
    return Machine(shares, latencies, max(goal, 1.0), draw(st.floats(0, 0.029)), rng)


proposals: st.SearchStrategy[Proposal] = st.sampled_from(
    [
        lambda machine: float(machine.rng.random()),
        lambda machine: 0.0,
        lambda machine: 1.0,
        lambda machine: machine.tried[-1],  # would rather stay
        lambda machine: float(len(machine.tried) % 2),
        lambda machine: float("inf"),
    ]
)


@given(machine=machines(), start=st.floats(0, 1), propose=proposals)
def test_any_model_leads_to_the_target_or_to_its_absence_in_a_bounded_number_of_trials(
    machine: Machine, start: float, propose: Proposal
) -> None:
    errors = np.abs(machine.errors())
    found = machine.find(Bracket(machine.shares, start), propose)
    if found is None:
        assert not np.any(errors <= _TOLERANCE - machine.noise)  # whatever would have met the goal for sure
    else:
        assert errors[machine.shares == found] <= _TOLERANCE + machine.noise
    assert set(machine.tried) <= set(machine.shares.tolist())
    assert max(Counter(machine.tried).values()) <= _MOST_TRIALS_OF_ONE_SHARE
    assert len(machine.tried) <= 5 * (math.log2(machine.shares.size) + 2)


@given(machine=machines(), start=st.floats(0, 1))
def test_a_model_that_is_right_needs_one_correction(machine: Machine, start: float) -> None:
    errors = np.abs(machine.errors())
    best = float(machine.shares[np.argmin(errors)])
    if errors.min() > _TOLERANCE - machine.noise:
        return
    machine.find(Bracket(machine.shares, start), lambda _: best)
    assert len(machine.tried) <= 2


@given(machine=machines(), start=st.floats(0, 1), factor=st.floats(0.7, 1.4), after=st.integers(1, 4))
def test_a_machine_that_changes_its_speed_ends_the_search_all_the_same(
    machine: Machine, start: float, factor: float, after: int
) -> None:
    def slow_down(machine: Machine) -> float:
        if len(machine.tried) == after:
            machine.latencies = machine.latencies * factor
        return float(machine.rng.random())

    machine.find(Bracket(machine.shares, start), slow_down)
    assert max(Counter(machine.tried).values()) <= _MOST_TRIALS_OF_ONE_SHARE


def test_a_share_that_is_tried_again_counts_by_its_last_trial() -> None:
    bracket = Bracket(np.linspace(0, 1, 11), 0.5)
    assert bracket.next(too_slow=True, certain=True, expected=0.8) == 0.8
    assert bracket.next(too_slow=False, certain=True, expected=0.6) == pytest.approx(0.6)
    assert bracket.next(too_slow=False, certain=False, expected=0.6) == pytest.approx(0.6)
    assert bracket.next(too_slow=True, certain=True, expected=0.7) == pytest.approx(0.7)
    assert bracket.next(too_slow=True, certain=True, expected=0.9) is None  # 0.7 is too slow, 0.8 was too fast


def test_noise_that_hides_every_answer_ends_the_search() -> None:
    bracket = Bracket((0.0, 0.5, 1.0), 0.5)
    tried: list[float | None] = [bracket.share]
    while tried[-1] is not None:
        share = tried[-1]
        tried.append(bracket.next(too_slow=share < 0.75, certain=False, expected=share))
    assert Counter(tried) == {0.5: 3, 1.0: 3, None: 1}


@pytest.mark.parametrize(("goal", "tried"), [(5.0, {0.5, 1.0}), (50.0, {0.5, 0.0}), (15.0, {0.5, 1.0})])
def test_a_target_that_no_share_meets_is_said_after_both_neighbours_were_tried(goal: float, tried: set[float]) -> None:
    machine = Machine(np.array([0.0, 0.5, 1.0]), np.array([30.0, 20.0, 10.0]), goal)
    assert machine.find(Bracket(machine.shares, 0.5), lambda machine: machine.tried[-1]) is None
    assert set(machine.tried) == tried
