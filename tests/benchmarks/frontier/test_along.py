"""What a point is worth beside the line through static detectors, in numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dyndet_bench.frontier.along import Measured, compare, compare_on_average

LINE = ((10.0, 20.0), (20.0, 30.0), (25.0, 28.0), (40.0, 40.0))
"""ms and AP; the third is slower and worse than the second, so it is no part of the line"""


def _measured(ms: float, ap: float, draws: int = 0, *, noise: float = 0.0, seed: int = 0) -> Measured:
    rng = np.random.default_rng(seed)
    ms_draws, ap_draws = ms + noise * rng.normal(size=draws), ap + noise * rng.normal(size=draws)
    return Measured(ms=ms, ap=ap, ms_draws=ms_draws, ap_draws=ap_draws)


def _line(draws: int = 0, *, noise: float = 0.0) -> list[Measured]:
    return [_measured(ms, ap, draws, noise=noise, seed=place) for place, (ms, ap) in enumerate(LINE, 1)]


def test_time_saved_and_ap_gained_are_read_off_the_line() -> None:
    """A detector of 35 AP takes 30 ms on the line, and one that takes 24 ms has 32 AP."""
    found = compare(_measured(24, 35), _line())
    assert found.faster is not None and found.more_ap is not None
    assert found.faster.value == pytest.approx(1 - 24 / 30)
    assert found.more_ap.value == pytest.approx(3)


def test_a_dynamic_detector_that_loses_gets_negative_numbers() -> None:
    found = compare(_measured(36, 35), _line())
    assert found.faster is not None and found.more_ap is not None
    assert found.faster.value == pytest.approx(-0.2)
    assert found.more_ap.value == pytest.approx(35 - 38)


@pytest.mark.parametrize(
    ("ms", "ap", "known"), [(5, 50, (False, False)), (15, 41, (False, True)), (50, 30, (True, False))]
)
def test_nothing_is_said_beyond_the_ends_of_the_line(ms: float, ap: float, known: tuple[bool, bool]) -> None:
    found = compare(_measured(ms, ap), _line())
    assert (found.faster is not None, found.more_ap is not None) == known


def test_intervals_come_from_the_draws_and_the_mean_leaves_out_what_cannot_be_compared() -> None:
    line = _line(500, noise=0.1)
    points = [
        _measured(24, 35, 500, noise=0.5, seed=8),
        _measured(27, 35, 500, noise=0.5, seed=9),
        _measured(5, 50, 500),
    ]
    one, mean = compare(points[0], line).faster, compare_on_average(points, line).faster
    assert one is not None and mean is not None
    assert mean.value == pytest.approx(1 - (24 + 27) / 2 / 30)
    assert one.low < one.value < one.high
    assert one.high - one.low == pytest.approx(4 * 0.025, rel=0.4), "0.5 of 30 ms and 0.5 AP of 1 ms each"
    assert mean.high - mean.low < one.high - one.low
