"""A cell says what became of the requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from dyndet_bench.load.scoring import Given
from dyndet_bench.load.sending import ANSWERED, CANCELLED, FAILED, REFUSED, UNANSWERED, UNSENT
from tests.support.loads import ANSWERS, DEGRADED_ANSWER, EASY_ANSWER, HARD_ANSWER, load_cell


class Remembers:
    """Keeps what it is to score; the AP is the number of answers that found something."""

    data = "some/val"

    def __init__(self) -> None:
        self.given: list[list[Given]] = []

    def __call__(self, given: Sequence[Given]) -> float:
        self.given.append(list(given))
        return float(sum(count for _, found, count in given if found is not None))


def test_only_answers_within_the_promise_are_in_time_and_refusals_are_told_apart() -> None:
    outcome = [ANSWERED] * 6 + [REFUSED, REFUSED, FAILED, UNSENT, UNANSWERED, CANCELLED]
    answer = [EASY_ANSWER, HARD_ANSWER, EASY_ANSWER, HARD_ANSWER, DEGRADED_ANSWER, EASY_ANSWER] + [-1] * 6
    latency = [10, 20, 99, 100, 101, 5000, 3, 5, 40, np.nan, np.nan, np.nan]
    cell = load_cell(outcome, answer, latency)
    counts = (cell.offered, cell.answered, cell.refused, cell.failed, cell.unsent, cell.unanswered, cell.cancelled)
    assert counts == (11, 6, 2, 1, 1, 1, 1)
    assert cell.within == pytest.approx(4 / 11) and cell.within_accepted == pytest.approx(4 / 9)
    assert cell.goodput_per_s == pytest.approx(4 / 20)
    assert (cell.hard_share, cell.degraded_share) == (pytest.approx(2 / 6), pytest.approx(1 / 6))
    assert cell.refusal_p95_ms == pytest.approx(5)
    assert cell.p50_ms == pytest.approx(101)  # the fifth of nine accepted ones; three have no answer
    assert cell.p90_ms is None and cell.p99_ms is None
    assert cell.errors == ("dyndet/stage-failed: the stage failed",)


def test_every_answer_counts_and_a_request_without_one_counts_as_empty() -> None:
    accuracy = Remembers()
    outcome = [ANSWERED, ANSWERED, ANSWERED, REFUSED, UNSENT, CANCELLED]
    answer = [EASY_ANSWER, HARD_ANSWER, EASY_ANSWER, -1, -1, -1]
    cell = load_cell(outcome, answer, [1.0] * 6, accuracy=accuracy)
    first, second = accuracy.given
    assert [(image, ANSWERS.index(found), count) for image, found, count in first if found is not None] == [
        (0, EASY_ANSWER, 2),
        (1, HARD_ANSWER, 1),
    ]
    assert second[:2] == first and second[2:] == [(0, None, 1), (1, None, 1)]
    assert (cell.ap, cell.ap_all) == (3, 3)


def test_a_generator_that_sends_late_makes_the_cell_invalid() -> None:
    fine, late = (load_cell([ANSWERED] * 20, [EASY_ANSWER] * 20, [20.0] * 20, lag_ms=lag_ms) for lag_ms in (9.0, 11.0))
    assert fine.valid and not late.valid and late.lag_p95_ms == pytest.approx(11)


def test_the_threshold_that_follows_turns_and_comes_back() -> None:
    """A burst from 5 to 10 s of 20: the threshold rises with it and is back 1 s after it."""
    at = np.arange(80) * 0.25
    threshold = np.where((at >= 5) & (at < 11), 0.9, 0.5)
    latency = [10.0 if not 5 <= at < 10.4 else 400.0 for at in np.linspace(0.1, 19.9, 200)]
    found = [
        load_cell([ANSWERED] * 200, [EASY_ANSWER] * 200, latency, kind=kind, threshold=threshold, name="burst")
        for kind in ("following", "plain")
    ]
    following, plain = found
    assert following.threshold_normal_s == pytest.approx(1) and plain.threshold_normal_s is None
    assert following.latency_normal_s == pytest.approx(0.5) == plain.latency_normal_s
    assert (following.turns, plain.turns) == (1, 0)
    assert {*plain.line.threshold} == {0.5} and {*following.line.threshold} == {0.5, 0.9}
    assert following.memory_before_mb == 100 and following.memory_after_mb == pytest.approx(119.75)
    assert len(following.line.p95_ms) == 40 and following.allowed.mean_ms is None


def test_a_steady_load_stands_beside_what_a_queue_allows() -> None:
    cell = load_cell([ANSWERED] * 1000, [EASY_ANSWER, HARD_ANSWER] * 500, [20.0] * 1000)
    assert cell.allowed.utilisation == pytest.approx(50 * 0.015)
    assert cell.allowed.mean_ms == pytest.approx(15 + 1e3 * 50 * 0.00025 / (2 * 0.25))
