"""The latency of a mixture, against counting requests one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamicdet.errors import InputError, TargetOutOfReachError
from dynamicdet.latency import Mixture

_LATENCIES = st.lists(st.floats(0.5, 50), min_size=3, max_size=60)


@given(easy=_LATENCIES, hard=_LATENCIES, ninths=st.integers(0, 9), level=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_quantile_is_that_of_as_many_requests_of_each_kind(
    easy: list[float], hard: list[float], ninths: int, level: float
) -> None:
    # In these, each easy request occurs len(hard) * ninths times and each hard one len(easy) * (9 - ninths) times.
    counted = np.sort(np.concatenate([np.repeat(easy, len(hard) * ninths), np.repeat(hard, len(easy) * (9 - ninths))]))
    found = Mixture(np.array(easy), np.array(hard)).quantile(level, ninths / 9)
    assert found == counted[int(np.ceil(level * counted.size - 1e-6)) - 1]


@given(easy=_LATENCIES, gain=st.lists(st.floats(0, 30), min_size=60, max_size=60), level=st.floats(0.5, 0.99),
       target=st.floats(0.5, 80))  # fmt: skip
def test_the_share_found_is_the_smallest_that_keeps_the_target(
    easy: list[float], gain: list[float], level: float, target: float
) -> None:
    mixture = Mixture(np.array(easy), np.array(easy) + np.array(gain[: len(easy)]))
    try:
        share = mixture.easy_share_for_quantile(level, target, tolerance=0.05)
    except TargetOutOfReachError as error:
        assert "ask for" in str(error)
        return
    assert 0 <= share <= 1
    assert mixture.quantile(level, share) <= max(target, mixture.quantile(level, 1.0)) * (1 + 1e-9)
    if share > 0.01 and target > mixture.quantile(level, 1.0):
        assert mixture.quantile(level, share - 0.01) > target


def test_a_median_of_two_separate_routes_jumps_and_a_target_in_between_is_refused() -> None:
    mixture = Mixture(np.linspace(9, 11, 100), np.linspace(19, 21, 100))
    assert mixture.quantile(0.5, 0.6) < 11 < 19 <= mixture.quantile(0.5, 0.4)
    with pytest.raises(TargetOutOfReachError, match=r"up to 50\.0% of the images hard it is 11 ms or less"):
        mixture.easy_share_for_quantile(0.5, 15.0, tolerance=0.08)
    with pytest.raises(TargetOutOfReachError, match=r"all-easy p99 \(10\.98 ms\); ask for 10\.98 to 20\.98 ms"):
        mixture.easy_share_for_quantile(0.99, 5.0, tolerance=0.08)
    # The 0.95-quantile is the 0.9-quantile of the hard requests where half of all are hard.
    assert mixture.easy_share_for_quantile(0.95, 20.8, tolerance=0.01) == pytest.approx(0.5, abs=0.02)


@given(bad=st.sampled_from([[], [0.0], [-1.0], [float("nan")], [float("inf")]]))
def test_what_is_no_latency_is_refused(bad: list[float]) -> None:
    with pytest.raises(InputError, match="hard route"):
        Mixture(np.array([1.0]), np.array(bad))
