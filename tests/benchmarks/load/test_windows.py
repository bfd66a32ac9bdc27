"""What a run says over time, and what queueing theory allows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyndet_bench.load import windows
from dyndet_bench.load.queueing import Service, best_static, latencies_ms, mean_ms, quantile_ms, simulate_static


def test_windows_count_by_time() -> None:
    at = np.array([0.0, 0.1, 0.6, 0.7, 0.8, 2.4])
    assert windows.rate_per_window(at, 2.5).tolist() == [4, 6, 0, 0, 2]
    p95 = windows.quantile_per_window(at, np.array([1.0, 2, 3, 4, 5, 6]), 2.5, 0.95)
    assert np.array_equal(p95, [2, 5, np.nan, np.nan, 6], equal_nan=True)
    share = windows.share_per_window(at, np.array([True, False, True, True, True, False]), 2.5)
    assert np.array_equal(share, [0.5, 1, np.nan, np.nan, 0], equal_nan=True)


def test_latency_is_normal_again_when_two_windows_in_a_row_are() -> None:
    """A window before the burst sets what is normal; its first two seconds do not."""
    before = [90.0, 1, 1, 1, 10, 12, 9, 8]  # 4 s
    burst, after = [500.0] * 4, [400.0, 11, 300, 12, 12, 90]
    latency = np.array([*before, *burst, *after])
    assert windows.normal_again_s(latency, begin_s=4, end_s=6) == pytest.approx(1.5)
    assert windows.normal_again_s(latency[:-3], begin_s=4, end_s=6) is None
    silent = np.array([*before, *burst, 400.0, 11, np.nan, 12, 12])
    assert windows.normal_again_s(silent, begin_s=4, end_s=6) == pytest.approx(0.5)


def test_the_threshold_is_back_where_it_was() -> None:
    at = np.arange(0, 12, 0.25)
    threshold = np.where((at >= 4) & (at < 7.5), 0.9, 0.5)
    assert windows.threshold_back_s(at, threshold, begin_s=4, end_s=6) == pytest.approx(1.5)
    assert windows.threshold_back_s(at, np.where(at >= 4, 0.9, 0.5), begin_s=4, end_s=6) is None
    assert windows.threshold_back_s(at, np.full(at.shape, np.nan), begin_s=4, end_s=6) is None


@given(
    peaks=st.lists(st.floats(0.02, 0.5), min_size=0, max_size=8),
    noise=st.floats(0, 0.004),
    steps=st.integers(2, 20),
)
def test_every_turn_of_a_threshold_counts_once_and_noise_does_not(peaks: list[float], noise: float, steps: int) -> None:
    """A zigzag through known extremes, with less noise than the dead band."""
    extremes = [0.0]
    for number, height in enumerate(peaks):
        extremes.append(extremes[-1] + (height if number % 2 == 0 else -height))
    parts = [np.linspace(one, other, steps) for one, other in pairwise(extremes)]
    line = np.concatenate(parts or [np.zeros(2)])
    noisy = line + noise * np.where(np.arange(line.size) % 2, 1, -1)
    turns = windows.turns_s(np.arange(line.size) * 0.25, noisy)
    assert turns.size == max(0, len(peaks) - 1)
    assert windows.most_within(turns, 1e9) == turns.size


def test_the_most_turns_within_a_span() -> None:
    assert windows.most_within(np.array([0.0, 9, 10.5, 11, 30]), 10) == 3
    assert windows.most_within(np.array([]), 10) == 0


@given(
    gaps=st.lists(st.floats(1e-4, 2), min_size=1, max_size=60),
    service=st.floats(1e-4, 2),
    seed=st.integers(0, 1000),
)
def test_the_recursion_is_that_of_a_queue_that_answers_in_order(gaps: list[float], service: float, seed: int) -> None:
    due = np.cumsum(gaps)
    times = service * np.random.default_rng(seed).exponential(1, due.size)
    free, expected = 0.0, []
    for at, took in zip(due, times, strict=True):
        free = max(free, at) + took
        expected.append(1e3 * (free - at))
    assert latencies_ms(due, times) == pytest.approx(expected, abs=1e-6)


def test_the_formula_and_the_simulation_of_a_queue_agree() -> None:
    """Constant service times at half load: M/D/1 waits half as long as M/M/1. And overload has no answer."""
    service = Service(easy_s=np.array([0.01]), hard_s=np.array([0.02]))
    assert mean_ms(service, 50, 0) == pytest.approx(10 + 5)
    assert mean_ms(service, 25, 1) == pytest.approx(20 + 10)
    assert mean_ms(service, 100, 0) is None and quantile_ms(service, 100, 0, 0.95) is None
    rng = np.random.default_rng(3)
    due = np.cumsum(rng.exponential(1 / 40, 200_000))
    hard = rng.random(due.size) < 0.5
    expected = mean_ms(service, 40, 0.5)
    assert latencies_ms(due, service.draw(hard, seed=1)).mean() == pytest.approx(expected, rel=0.05)
    median, tail = quantile_ms(service, 40, 0.5, 0.5), quantile_ms(service, 40, 0.5, 0.95)
    assert median is not None and tail is not None and expected is not None and median < expected < tail


def test_service_times_at_full_load_have_the_mean_of_the_throughput() -> None:
    service = Service.scaled(np.array([5.0, 15]), np.array([20.0, 40]), easy_per_s=200, hard_per_s=50)
    assert service.easy_s.mean() == pytest.approx(1 / 200) and service.hard_s.mean() == pytest.approx(1 / 50)
    assert service.hard_s[1] == pytest.approx(2 * service.hard_s[0])


def test_the_best_fixed_threshold_has_most_hard_images_of_those_that_keep_the_promise() -> None:
    service = Service(easy_s=np.array([0.01]), hard_s=np.array([0.03]))
    due, images = np.arange(400) * 0.02, np.arange(400) % 10
    ways = [
        simulate_static(service, due, images, np.arange(10) < hard, threshold=1 - hard / 10, promise_ms=45)
        for hard in range(11)
    ]
    assert [way.within >= 0.95 for way in ways[:3]] == [True] * 3 and ways[10].within < 0.95
    best = best_static(ways, share=0.95)
    assert best is not None and best.hard_share == max(way.hard_share for way in ways if way.within >= 0.95)
    assert best_static(ways, share=1.1) is None
