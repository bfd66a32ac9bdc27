"""The routing mathematics: properties that hold for any difficulties, and the ends of the range."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamicdet.errors import InputError, TargetOutOfReachError
from dynamicdet.thresholds import (
    easy_share,
    easy_share_for_target,
    is_hard,
    mixture_latency,
    threshold_for_easy_share,
)

settings.register_profile("no-deadline", deadline=None)  # a loaded machine is no failure
settings.load_profile("no-deadline")

unit = st.floats(0, 1, allow_subnormal=False)
# A few values that repeat, so that ties are common, besides anything else; NaN is a router that failed.
difficulty = st.one_of(unit, st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.just(math.nan))
difficulties = st.lists(difficulty, min_size=1, max_size=60)
latency = st.floats(1e-3, 1e4)


@given(difficulties, unit, unit)
def test_share_is_monotone_in_the_threshold(values: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert easy_share(values, low) <= easy_share(values, high)


@given(difficulties, unit)
def test_threshold_of_a_share_gives_that_share_again(values: list[float], threshold: float) -> None:
    share = easy_share(values, threshold)
    assert easy_share(values, threshold_for_easy_share(values, share)) == pytest.approx(share)


@given(difficulties, unit)
def test_no_threshold_comes_nearer_to_the_share(values: list[float], share: float) -> None:
    threshold = threshold_for_easy_share(values, share)
    assert 0.0 <= threshold <= 1.0
    distance = abs(easy_share(values, threshold) - share)
    others = [0.0, 1.0, *(value for value in values if not math.isnan(value))]
    assert distance <= min(abs(easy_share(values, other) - share) for other in others) + 1e-9


@given(st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=1, max_size=60), unit)
def test_a_server_that_compares_in_float32_routes_the_same(values: list[float], share: float) -> None:
    threshold = threshold_for_easy_share(values, share)
    as_served = np.asarray(values, np.float32) > np.float32(threshold)
    if threshold > 0:
        assert np.array_equal(as_served, is_hard(values, threshold))


@given(latency, latency, unit)
def test_the_mixture_never_beats_detector_1_alone(one: float, other: float, share: float) -> None:
    lat1, lat2 = sorted((one, other))
    assert lat1 <= mixture_latency(lat1, lat2, share) <= lat2 * (1 + 1e-12)


@given(latency, st.floats(1e-3, 10), unit)
def test_the_share_for_a_target_meets_it(lat1: float, extra: float, fraction: float) -> None:
    lat2 = lat1 * (1 + extra)
    target = min(lat1 + fraction * (lat2 - lat1), lat2)
    assert mixture_latency(lat1, lat2, easy_share_for_target(lat1, lat2, target)) == pytest.approx(target)


def test_shares_and_thresholds_at_the_ends() -> None:
    assert easy_share_for_target(8, 12, 8) == 1.0
    assert easy_share_for_target(8, 12, 12) == 0.0
    assert easy_share_for_target(8, 12, 9) == 0.75
    assert threshold_for_easy_share([0.2, 0.9], 0) == 0.0
    assert threshold_for_easy_share([0.2, 0.9], 1) == 1.0
    assert threshold_for_easy_share([0.25, 0.75], 0.5) == 0.5
    assert is_hard([0.0, 1.0, math.nan], 0).tolist() == [True, True, True]
    assert is_hard([0.0, 1.0, math.nan], 1).tolist() == [False, False, True]


def test_of_two_equally_near_shares_the_faster_is_taken() -> None:
    assert easy_share([0.1, 0.5, 0.5, 0.9], threshold_for_easy_share([0.1, 0.5, 0.5, 0.9], 0.5)) == 0.75


@pytest.mark.parametrize("target", [7.8, 12.2])
def test_a_target_out_of_reach_names_the_reachable_range(target: float) -> None:
    with pytest.raises(TargetOutOfReachError, match=r"7\.9 to 12\.1 ms"):
        easy_share_for_target(7.9, 12.1, target)


@pytest.mark.parametrize(("lat1", "lat2"), [(10, 10), (12, 10)])
def test_no_trade_off_without_a_slower_detector_2(lat1: float, lat2: float) -> None:
    with pytest.raises(TargetOutOfReachError, match="not slower"):
        easy_share_for_target(lat1, lat2, 10)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 0.0, -1.0])
def test_latencies_must_be_positive_and_finite(wrong: float) -> None:
    for arguments in ((wrong, 12, 10), (8, wrong, 10), (8, 12, wrong)):
        with pytest.raises(InputError, match="positive, finite"):
            easy_share_for_target(*arguments)


def test_wrong_difficulties_shares_and_thresholds_are_refused() -> None:
    with pytest.raises(InputError, match="no difficulties"):
        threshold_for_easy_share([], 0.5)
    with pytest.raises(InputError, match=r"got 1\.5"):
        threshold_for_easy_share([0.5, 1.5], 0.5)
    with pytest.raises(InputError, match="share must be from 0 to 1"):
        threshold_for_easy_share([0.5], math.nan)
    with pytest.raises(InputError, match="threshold must be from 0 to 1"):
        easy_share([0.5], math.nan)


def test_routing_mathematics_and_the_package_itself_load_no_torch() -> None:
    code = "import sys, dynamicdet, dynamicdet.thresholds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
