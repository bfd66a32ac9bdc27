"""The numbers of the page: what any threshold makes of the pictures that were seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dynamicdet.thresholds import easy_share
from dyndet_builder.trying.history import Seen, counted, match, numbers
from dyndet_builder.trying.points import Calibration
from dyndet_client import Detections

SEEN = (
    Seen(difficulty=0.2, easy_ms=10, hard_ms=30, matches=((0.9, 0.8), (0.6, 0.0))),
    Seen(difficulty=0.6, easy_ms=12, hard_ms=32, matches=((0.7, 0.3),)),
    Seen(difficulty=math.nan, easy_ms=14, hard_ms=34),
)


@pytest.mark.parametrize(
    ("threshold", "hard_share", "latencies"),
    [
        (0.0, 1.0, (30, 32, 34)),
        (0.2, 2 / 3, (10, 32, 34)),  # equal is easy, as on the server
        (0.6, 1 / 3, (10, 12, 34)),
        (1.0, 1 / 3, (10, 12, 34)),  # without a difficulty, a picture is hard at any threshold
    ],
)
def test_a_threshold_routes_the_pictures_seen_as_the_server_would(
    threshold: float, hard_share: float, latencies: tuple[float, ...]
) -> None:
    found = numbers(SEEN, threshold, min_score=0.25)
    assert found is not None
    assert found.hard_share == pytest.approx(hard_share)
    assert found.latencies_ms == latencies
    assert found.mean_ms == pytest.approx(np.mean(latencies)) == found.statistic("mean")
    assert found.statistic("p50") == latencies[1]
    assert found.statistic("throughput") is None
    assert (found.all_easy_ms, found.all_hard_ms) == (12, 32)


def test_what_only_detector_2_shows_counts_as_gained_in_hard_pictures_and_as_missed_in_easy_ones() -> None:
    def counts(threshold: float, min_score: float) -> tuple[int, int]:
        found = numbers(SEEN, threshold, min_score=min_score)
        assert found is not None
        return found.gained, found.missed

    assert counts(1.0, 0.25) == (0, 1)
    assert counts(0.5, 0.25) == (0, 1)
    assert counts(0.1, 0.25) == (1, 0)
    assert counts(0.5, 0.5) == (1, 1)  # what detector 1 found with 0.3 is not shown at 0.5
    assert counts(0.5, 0.65) == (1, 0)
    assert numbers((), 0.5, min_score=0.25) is None


def test_an_object_is_the_same_if_its_class_is_and_its_box_overlaps_by_half_and_it_is_used_once() -> None:
    first = _found((0.9, 0, (0, 0, 10, 10)), (0.8, 1, (20, 0, 30, 10)))
    second = _found(
        (0.95, 0, (0, 0, 10, 9)),
        (0.9, 0, (0, 1, 10, 10)),  # overlaps as well, but the first object has been chosen
        (0.8, 0, (20, 0, 30, 10)),  # of another class
        (0.7, 1, (26, 0, 36, 10)),  # overlaps by a quarter
    )
    assert match(first, second) == tuple((pytest.approx(a), pytest.approx(b)) for a, b in _expected())


def _expected() -> list[tuple[float, float]]:
    return [(0.95, 0.9), (0.9, 0.0), (0.8, 0.0), (0.7, 0.0)]


def test_the_histogram_counts_every_known_difficulty_once() -> None:
    counts = counted([0.0, 0.039, 0.041, 1.0, math.nan])
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (2, 1, 1, 4)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.35, 0.5, 0.82, 1.0])
def test_the_calibrations_quantiles_give_the_share_of_hard_pictures_back(threshold: float) -> None:
    difficulties = np.random.default_rng(1).beta(2, 3, 5000)
    calibration = _calibration(np.quantile(difficulties, np.linspace(0, 1, 101)))
    share = calibration.hard_share(threshold)
    assert share == pytest.approx(1 - easy_share(difficulties, threshold), abs=0.006)
    assert calibration.mean_ms(threshold) == pytest.approx(10 + 20 * share)
    assert sum(calibration.shares()) == pytest.approx(1)


def test_many_equal_difficulties_do_not_confuse_the_shares() -> None:
    calibration = _calibration(np.array([0.1, 0.5, 0.5, 0.5, 1.0]))
    assert calibration.hard_share(0.5) == pytest.approx(0.25)
    assert calibration.hard_share(0.49999) == pytest.approx(0.75, abs=1e-3)
    assert calibration.hard_share(0.05) == 1
    assert sum(calibration.shares()) == pytest.approx(1)


def _calibration(quantiles: np.ndarray) -> Calibration:  # type: ignore[type-arg]
    return Calibration(easy_ms=10, hard_ms=30, difficulty_quantiles=tuple(quantiles.tolist()))


def _found(*objects: tuple[float, int, tuple[float, float, float, float]]) -> Detections:
    return Detections(
        boxes=np.array([box for *_, box in objects], np.float32).reshape(-1, 4),
        scores=np.array([score for score, *_ in objects], np.float32),
        classes=np.array([number for _, number, _ in objects], np.int32),
        names=tuple("abc"[number] for _, number, _ in objects),
        difficulty=0.5,
        route="hard",
        image_size=(40, 40),
    )
