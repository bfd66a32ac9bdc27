"""What a pair gives, on made-up matches whose precision is known, and what is said about it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from dynamicdet.errors import InputError
from dynamicdet.evaluation.precision import ClassMatches
from dyndet_builder.pairing.payoff.frontier import Accuracy, Chooser, Frontier, Pair, Single, choosers_of
from dyndet_builder.pairing.payoff.mixes import Mixes
from dyndet_builder.pairing.payoff.promises import (
    Samples,
    accuracy_promise,
    check_latency_target,
    latency_promise,
    parse_accuracy,
)
from dyndet_builder.pairing.payoff.stream import weigh
from dyndet_builder.pairing.payoff.verdict import judge
from dyndet_builder.targets import parse_target

PICTURES = 400


def mixes(*, small: float, large: float, pictures: int = PICTURES) -> Mixes:
    """One object and one detection in each picture; the first pictures of each detector are found."""
    rows = np.tile(np.arange(pictures), 2)
    by_hard = np.repeat([False, True], pictures)
    found = np.where(by_hard, rows < large * pictures, rows < small * pictures)
    hits = np.broadcast_to(found, (10, 2 * pictures)).copy()
    order = np.argsort(~found, kind="stable")  # hits have the better scores
    one = ClassMatches(
        image=rows[order],
        by_hard=by_hard[order],
        scores=np.linspace(1, 0, 2 * pictures),
        hits=hits[:, order],
        misses=~hits[:, order],
        objects=np.ones(pictures, np.int64),
    )
    return Mixes([one], pictures=pictures)


def perfect(pictures: int = PICTURES, *, small: float = 0.4, large: float = 0.8) -> Chooser:
    """Sends first what only the large detector finds."""
    place = np.arange(pictures) / pictures
    gains = (place >= small) & (place < large)
    ((router, *_),) = (choosers_of(("router", (gains * 2 + place) / 3), {}, place),)
    return router


@cache
def frontier(
    *, small_ms: float = 1.0, large_ms: float = 10.0, others: tuple[tuple[str, float, float], ...] = ()
) -> Frontier:
    pair = Pair(mixes(small=0.4, large=0.8), small_ms=small_ms, large_ms=large_ms)
    further = [pair.single(name, mixes(small=ap, large=0.8), latency) for name, ap, latency in others]
    return pair.frontier([perfect()], names=("n", "x"), others=further)


def test_a_router_that_knows_everything_keeps_the_gain_in_the_share_of_pictures_that_gain() -> None:
    found = frontier()
    assert found.small.accuracy.value == pytest.approx(40, abs=0.7)
    assert found.large.accuracy.value == pytest.approx(80, abs=0.7)
    assert found.router.kept_at(0.4) == pytest.approx(1, abs=0.02)
    assert found.router.kept_at(0.2) == pytest.approx(0.5, abs=0.03)
    (point,) = [one for one in found.router.points if one.hard_share == pytest.approx(0.2)]
    assert point.latency_ms == pytest.approx(1 + 0.2 * 10)
    assert point.accuracy.low < point.accuracy.value < point.accuracy.high


def test_a_coin_needs_no_small_detector_before_the_large_one() -> None:
    coin = frontier().curves[-1]
    assert [coin.points[0].latency_ms, coin.points[-1].latency_ms] == pytest.approx([1, 10])
    assert coin.kept_at(0.5) == pytest.approx(0.5, abs=0.12)


def test_the_interval_is_that_of_a_share_of_as_many_pictures() -> None:
    accuracy = frontier().small.accuracy
    expected = 100 * 1.96 * np.sqrt(0.4 * 0.6 / PICTURES)
    assert (accuracy.high - accuracy.low) / 2 == pytest.approx(expected, rel=0.25)


def test_a_cascade_that_clearly_wins_is_recommended_and_names_its_range() -> None:
    verdict = judge(frontier(), measure="AP", pictures=PICTURES)
    assert verdict.outcome == "cascade"
    assert verdict.sentence.startswith("Use the cascade for a mean latency from ")
    assert any("--also" in remark for remark in verdict.remarks)


def test_a_middle_detector_that_is_better_at_its_own_latency_is_recommended() -> None:
    verdict = judge(frontier(others=(("m", 0.7, 3.0),)), measure="AP", pictures=PICTURES)
    assert "Use m for a mean latency of 3.00 ms. It has 70.3 AP alone; the cascade has 60.4 AP" in verdict.sentence
    assert not any("--also" in remark for remark in verdict.remarks)


def test_without_a_gain_the_small_detector_is_recommended() -> None:
    pair = Pair(mixes(small=0.4, large=0.35), small_ms=1, large_ms=10)
    verdict = judge(pair.frontier([perfect()], names=("n", "x")), measure="AP", pictures=PICTURES)
    assert verdict.outcome == "single"
    assert "Use n alone" in verdict.sentence


def test_a_win_inside_the_noise_is_called_that() -> None:
    noisy = frontier()
    wide = tuple(replace(one, accuracy=_noisy(one.accuracy)) for one in noisy.router.points)
    verdict = judge(replace(noisy, curves=(replace(noisy.router, points=wide),)), measure="agreement", pictures=30)
    assert verdict.outcome == "unclear"
    assert "inside the noise of 30 pictures" in verdict.sentence
    assert " AP" not in verdict.sentence  # without labels nothing is called so


def _noisy(accuracy: Accuracy) -> Accuracy:
    return Accuracy.of(accuracy.value, accuracy.value + 200 * np.random.default_rng(0).standard_normal(200))


def test_a_cascade_that_never_wins_is_advised_against() -> None:
    blind = Chooser(name="router", kind="router", difficulties=np.arange(PICTURES)[::-1] / PICTURES)
    pair = Pair(mixes(small=0.4, large=0.8), small_ms=5, large_ms=6)
    found = pair.frontier([blind], names=("n", "x"), others=[Single(name="m", accuracy=pair.large, latency_ms=5.5)])
    verdict = judge(found, measure="AP", pictures=PICTURES)
    assert verdict.outcome == "single"
    assert "Use m for" in verdict.sentence


def test_targets_get_a_threshold_or_the_reason_why_not() -> None:
    pair, router = Pair(mixes(small=0.4, large=0.8), small_ms=1, large_ms=10), perfect()
    samples = Samples(small=np.array([0.9, 1.1]), large=np.array([9.0, 11.0]))
    mean = latency_promise(parse_target("5ms"), pair, router, samples)
    assert mean.met and mean.point is not None
    assert mean.point.hard_share == pytest.approx(0.4, abs=0.01)
    percentile = latency_promise(parse_target("p95:5ms"), pair, router, samples)
    assert "below what any hard picture takes" in percentile.reason
    assert percentile.point is not None and percentile.point.hard_share == pytest.approx(0.05)
    assert (
        "less than the small detector alone takes"
        in latency_promise(parse_target("0.5ms"), pair, router, samples).reason
    )
    half = accuracy_promise(parse_accuracy("50%"), pair, router, measure="AP")
    assert half.point is not None and half.point.hard_share == pytest.approx(0.2, abs=0.02)
    assert "above what the pair reaches" in accuracy_promise(parse_accuracy("99"), pair, router, measure="AP").reason


@pytest.mark.parametrize("text", ["", "fast", "101", "-1", "nan", "80%%"])
def test_an_accuracy_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not an accuracy"):
        parse_accuracy(text)


def test_a_throughput_is_left_to_a_server() -> None:
    with pytest.raises(InputError, match="dyndet calibrate"):
        check_latency_target(parse_target("throughput:80/s"))


def test_a_stream_of_easy_pictures_weighs_them_more_and_moves_the_threshold() -> None:
    router = perfect()
    easy = router.difficulties[router.difficulties < 0.5]
    stream = weigh(router.difficulties, np.tile(easy, 3))
    assert stream.weights[router.difficulties > 0.67].max() < stream.weights[router.difficulties < 0.3].min()
    assert any("unlike" in one for one in weigh(router.difficulties, np.zeros(50) + easy[0]).warnings())
    pair = Pair(mixes(small=0.4, large=0.8), small_ms=1, large_ms=10, stream=stream)
    assert pair.large.value - pair.small.value < 15  # what gains is not in the stream
    point = pair.at(replace(router, on_stream=stream.difficulties), 0.5)
    assert point.threshold is not None and point.threshold < 0.5


def test_a_stream_like_the_labelled_pictures_changes_nothing() -> None:
    stream = weigh(perfect().difficulties, perfect().difficulties)
    assert stream.weights == pytest.approx(1.0)
    assert not stream.warnings()


@pytest.mark.parametrize(("value", "draws"), [(33.3, 6), (70.1, 100), (100 / 3, 10)])
def test_an_interval_holds_its_value_where_all_draws_are_equal(value: float, draws: int) -> None:
    found = Accuracy.of(value, np.full(draws, value))
    assert found.low <= value <= found.high
