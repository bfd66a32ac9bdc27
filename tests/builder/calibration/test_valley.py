"""Percentiles that fall between the routes: what `valley_of` calls ill-conditioned, against drawing other images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamicdet.latency import Mixture
from dyndet_builder.calibration.route_model import deviation_of, valley_of

_LEVELS = st.sampled_from([0.5, 0.9, 0.95])
_TOLERANCE = 0.08


def _mixture(seed: int, *, ratio: float, spread: float) -> Mixture:
    """Two routes of 150 requests; `spread` is their standard deviation relative to their mean."""
    rng = np.random.default_rng(seed)
    easy, hard = (mean * rng.gamma(spread**-2, spread**2, 150) for mean in (10.0, 10.0 * ratio))
    return Mixture(easy, hard)


mixtures = st.builds(
    _mixture, st.integers(0, 2**31), ratio=st.floats(1.02, 3), spread=st.floats(0.02, 0.4)
)  # from routes that do not overlap to routes that are nearly equal


@settings(max_examples=60)
@given(mixture=mixtures, level=_LEVELS, share=st.floats(0, 1), images=st.integers(4, 2000))
def test_a_percentile_is_refused_where_a_likely_other_share_misses_it_and_only_there(
    mixture: Mixture, level: float, share: float, images: int
) -> None:
    valley = valley_of(mixture, level, share, images=images, tolerance=_TOLERANCE)
    (deviation,) = deviation_of([share], images)
    here = mixture.quantile(level, 1 - share)
    others = [mixture.quantile(level, 1 - min(1, max(0, share + sign * deviation))) for sign in (-1, 1)]
    steep = any(abs(other / here - 1) > _TOLERANCE for other in others)
    between = np.linspace(*others, 200)
    apart = [np.mean(mixture.easy <= value) - np.mean(mixture.hard <= value) for value in between]
    if steep and 0.45 < max(apart) < 0.55:
        return  # too close to call on a coarse grid
    assert (valley is not None) == (steep and max(apart) >= 0.5)
    if valley is not None:
        assert valley.shares[0] < share < valley.shares[1]
        low, high = valley.values_ms
        assert low * (1 - _TOLERANCE) <= min(others) < max(others) <= high * (1 + _TOLERANCE)


@settings(max_examples=60)
@given(mixture=mixtures, level=_LEVELS, share=st.floats(0, 1), images=st.integers(50, 2000))
def test_both_sides_of_a_valley_and_enough_images_can_be_promised(
    mixture: Mixture, level: float, share: float, images: int
) -> None:
    valley = valley_of(mixture, level, share, images=images, tolerance=_TOLERANCE)
    if valley is None:
        return
    for value in valley.values_ms:
        hard = 1 - mixture.easy_share_for_quantile(level, value, tolerance=_TOLERANCE)
        assert valley_of(mixture, level, hard, images=images, tolerance=_TOLERANCE) is None
    if valley.images is not None:
        assert valley.images > images
        assert valley_of(mixture, level, share, images=valley.images, tolerance=_TOLERANCE) is None


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), share=st.floats(0, 1), level=_LEVELS)
def test_equal_routes_have_no_valley(seed: int, share: float, level: float) -> None:
    latencies = np.random.default_rng(seed).gamma(25, 0.4, 150)
    assert valley_of(Mixture(latencies, latencies), level, share, images=4, tolerance=_TOLERANCE) is None


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_separate_routes_have_one_where_the_percentile_changes_from_one_route_to_the_other(level: float) -> None:
    mixture = _mixture(0, ratio=1.4, spread=0.03)
    for share in np.linspace(0.01, 0.99, 99):
        valley = valley_of(mixture, level, float(share), images=10_000, tolerance=_TOLERANCE)
        if not 0.015 < abs(share - (1 - level)) < 0.035:
            assert (valley is not None) == (abs(share - (1 - level)) < 0.02)
    # On images of which half are hard, the 0.5-quantile jumps; the mean would move by 0.08 ms with two points.
    jump = valley_of(mixture, level, 1 - level, images=10_000, tolerance=_TOLERANCE)
    assert jump is not None and jump.images is None
    assert jump.values_ms[0] < 11.5 < 12.5 < jump.values_ms[1]


def test_tails_that_noise_makes_long_are_not_a_valley() -> None:
    rng = np.random.default_rng(0)
    slow = 1 + 5 * rng.random(20) * (rng.random(20) < 0.3)  # a machine that stops for a while, with few requests
    mixture = Mixture(rng.normal(10, 1, 20) * slow, rng.normal(13, 1, 20) * rng.permutation(slow))
    for share in np.linspace(0, 1, 21):
        assert valley_of(mixture, 0.9, float(share), images=12, tolerance=0.3) is None


def test_thresholds_0_and_1_do_not_depend_on_the_images() -> None:
    mixture = _mixture(0, ratio=2, spread=0.03)
    assert list(deviation_of([0, 0.5, 1], 100)) == [0, 0.05, 0]
    for share in (0.0, 1.0):
        assert valley_of(mixture, 0.5, share, images=1, tolerance=_TOLERANCE) is None
