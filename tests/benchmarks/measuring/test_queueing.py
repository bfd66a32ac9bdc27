"""Queues against closed forms, and against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError
from dyndet_bench.measuring.queueing import closed_loop, waits

_REQUESTS = 400_000


def _arrivals(rate: float, requests: int, seed: int = 0) -> FloatArray:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests))


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_server_with_exponential_times_waits_as_m_m_1(busy: float) -> None:
    """Mean wait rho / (mu - lambda), and P(latency > t) = exp(-(mu - lambda) t)."""
    services = np.random.default_rng(1).exponential(1.0, _REQUESTS)
    waiting = waits(_arrivals(busy, _REQUESTS), services)
    assert waiting.mean() == pytest.approx(busy / (1 - busy), rel=0.06)
    assert np.quantile(waiting + services, 0.95) == pytest.approx(math.log(20) / (1 - busy), rel=0.06)


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_server_with_equal_times_waits_as_m_d_1(busy: float) -> None:
    """Half as long as with exponential times."""
    waiting = waits(_arrivals(busy, _REQUESTS), np.ones(_REQUESTS))
    assert waiting.mean() == pytest.approx(busy / (2 * (1 - busy)), rel=0.06)


@given(
    rate=st.floats(0.05, 3),
    faster=st.floats(1.01, 3),
    services=st.lists(st.floats(0.01, 5), min_size=2, max_size=80),
)
def test_nobody_waits_longer_with_fewer_requests(rate: float, faster: float, services: list[float]) -> None:
    due = _arrivals(rate, len(services))
    waiting = waits(due, services)
    assert np.all(waiting >= 0)
    assert np.all(waits(due / faster, services) >= waiting - 1e-9)


@given(services=st.lists(st.floats(0, 5), min_size=1, max_size=60), rate=st.floats(0.1, 5))
def test_sums_and_the_loop_over_requests_agree(services: list[float], rate: float) -> None:
    due = _arrivals(rate, len(services))
    free, expected = 0.0, []
    for arrival, service in zip(due, services, strict=True):
        start = max(arrival, free)
        expected.append(start - arrival)
        free = start + service
    assert waits(due, services) == pytest.approx(expected, abs=1e-9)


def test_a_closed_loop_without_delay_keeps_the_server_busy() -> None:
    """Little's law: latency is clients x service time; with a delay, few clients leave the server idle."""
    ones = np.ones(2000)
    for clients in (1, 2, 7):
        assert closed_loop(ones, np.zeros(2000), clients)[10:] == pytest.approx(np.full(1990 - clients * 2, clients))
    assert closed_loop(ones, np.full(2000, 3.0), 1) == pytest.approx(np.full(1998, 4.0))
    assert closed_loop(ones, np.full(2000, 3.0), 4)[50:].mean() == pytest.approx(4.0)
    assert closed_loop(ones, np.full(2000, 3.0), 8)[50:].mean() == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: waits([1, 0], [1, 1]), "ascending"),
        (lambda: waits([0], [math.nan]), "finite"),
        (lambda: waits([], []), "one or more"),
        (lambda: closed_loop([1], [1], 0), "a client"),
    ],
)
def test_what_is_no_queue_is_refused(call: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()  # type: ignore[operator]
