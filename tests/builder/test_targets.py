"""How targets are written and read, and the first threshold that they lead to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamicdet.errors import InputError, TargetOutOfReachError
from dyndet_bench.measuring.counters import RouteCounts
from dyndet_bench.measuring.measure import Run
from dyndet_bench.measuring.statistic import MEAN, REPORTED, THROUGHPUT, Statistic, bootstrap_interval
from dyndet_builder.calibration.route_model import corrected_easy_share, first_easy_share
from dyndet_builder.targets import Target, parse_target, parse_targets


@given(ms=st.floats(1e-3, 1e6))
def test_units_mean_the_same_latency(ms: float) -> None:
    for text in (f"{ms!r}ms", f"{ms / 1e3!r}s", f"{ms * 1e3!r}us", f" {ms!r} ms ", f"mean:{ms!r}ms"):
        target = parse_target(text)
        assert (target.statistic, target.of_range) == (MEAN, False)
        assert target.value == pytest.approx(ms)
        assert target.resolve(1.0, 2.0) == pytest.approx(ms)


@pytest.mark.parametrize(
    ("text", "statistic", "value", "of_range"),
    [
        ("p95:15ms", "p95", 15.0, False),
        ("P99.9 : 0.02 s", "p99.9", 20.0, False),
        ("throughput:80/s", "throughput", 80.0, False),
        ("throughput:25%", "throughput", 0.25, True),
        ("p50:50%", "p50", 0.5, True),
    ],
)
def test_the_statistic_stands_before_the_colon(text: str, statistic: str, value: float, of_range: bool) -> None:
    target = parse_target(text)
    assert (target.statistic.name, target.of_range) == (statistic, of_range)
    assert target.value == pytest.approx(value)


def test_several_targets_are_several_points() -> None:
    assert [target.text for target in parse_targets("10ms, 12ms,p95:15ms")] == ["10ms", "12ms", "p95:15ms"]
    with pytest.raises(InputError, match="'10ms' occurs twice"):
        parse_targets("10ms,12ms,10 ms")


@given(percent=st.floats(0, 100), lat1=st.floats(0.1, 1e4), span=st.floats(0.1, 1e4))
def test_a_share_lies_inside_the_range(percent: float, lat1: float, span: float) -> None:
    target = parse_target(f"{percent!r}%")
    assert target.of_range
    found = target.resolve(lat1, lat1 + span)
    assert lat1 <= found <= (lat1 + span) * (1 + 1e-12)
    assert found == pytest.approx(lat1 + percent / 100 * span)


@given(text=st.text(max_size=12))
def test_anything_else_is_one_sentence(text: str) -> None:
    try:
        target = parse_target(text)
    except InputError as error:
        assert "such as 12ms" in str(error) or "0% to 100%" in str(error)
        assert "\n" not in str(error)
    else:
        assert target.text


@pytest.mark.parametrize(
    "text",
    ["abc", "", "12", "ms", "-5ms", "0ms", "nanms", "infms", "1e999ms", "12 m", "101%", "-1%", "12ms,13ms", "p0:1ms",
     "p100:1ms", "p95:", ":12ms", "p95:80/s", "throughput:12ms", "throughput:0/s", "median:12ms", "p95:p95:1ms"],
)  # fmt: skip
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_target(text)


def _run(latencies: np.ndarray, hard: int = 0) -> Run:
    return Run(
        threshold=None,
        requests=latencies.size,
        mean_ms=float(latencies.mean()),
        percentiles_ms={},
        throughput_per_s=1e3 / float(latencies.mean()),
        counts=RouteCounts(total=latencies.size, hard=hard),
        latencies_ms=latencies,
    )


def _routes(seed: int) -> tuple[Run, Run]:
    rng = np.random.default_rng(seed)
    return _run(10 + rng.gamma(2, 0.5, 400)), _run(14 + rng.gamma(2, 1.5, 400))


@given(seed=st.integers(0, 50), where=st.floats(0.02, 0.98), statistic=st.sampled_from(REPORTED))
def test_the_first_share_and_an_uncorrected_model_meet_the_target(
    seed: int, where: float, statistic: Statistic
) -> None:
    easy, hard = _routes(seed)
    target = Target("t", statistic, where, of_range=True)
    try:
        share = first_easy_share(target, [easy], [hard], 0.08)
    except TargetOutOfReachError as error:
        assert "gap between the routes" in str(error)
        return
    assert corrected_easy_share(target, [easy], [hard], ()) == pytest.approx(share, abs=0.002)
    (found,) = statistic.predicted([easy], [hard], [share])
    goal = target.resolve(statistic.of([easy]), statistic.of([hard]))
    assert found == pytest.approx(goal, rel=0.09 if statistic.level else 1e-9)


@given(seed=st.integers(0, 50), where=st.floats(0.1, 0.9), factor=st.floats(1.0, 1.1))
def test_what_queues_needs_more_easy_images(seed: int, where: float, factor: float) -> None:
    easy, hard = _routes(seed)
    target = Target("t", MEAN, where, of_range=True)
    share = first_easy_share(target, [easy], [hard], 0.03)
    corrected = corrected_easy_share(target, [easy], [hard], [(share, factor)])
    assert corrected >= share - 0.002
    (model,) = MEAN.predicted([easy], [hard], [corrected])
    goal = target.resolve(easy.mean_ms, hard.mean_ms)
    between = np.interp(corrected, [0, share, 1], [1, factor, 1])
    assert model * between <= goal * 1.0001


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5ms", r"5ms is out of reach: 5 ms is below this server's all-easy latency \(11 ms\); ask for 11 to 17 ms"),
        ("20ms", r"above this server's all-hard latency \(17 ms\); ask for 11 to 17 ms"),
        ("p99:9ms", r"below this server's all-easy p99"),
        ("throughput:95/s", r"above this server's all-easy throughput \(90\.\d+/s\); ask for 58\.\d+ to 90\.\d+/s"),
        ("throughput:5/s", "below this server's all-hard throughput"),
    ],
)
def test_out_of_reach_states_the_range_of_that_statistic(text: str, said: str) -> None:
    easy, hard = (_run(value + np.linspace(-0.5, 0.5, 101)) for value in (11, 17))
    with pytest.raises(TargetOutOfReachError, match=said):
        first_easy_share(parse_target(text), [easy], [hard], 0.03)


def test_a_detector_2_that_is_not_slower_cannot_be_routed_around() -> None:
    same = _run(np.linspace(9, 11, 101))
    for statistic in (MEAN, THROUGHPUT, Statistic("p95")):
        with pytest.raises(TargetOutOfReachError, match="no threshold changes"):
            first_easy_share(Target("t", statistic, 0.5, of_range=True), [same], [same], 0.03)


@given(seed=st.integers(0, 1000))
def test_an_interval_is_as_wide_as_the_noise_of_a_mean(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0, 1, 64).tolist()
    low, high = bootstrap_interval(lambda drawn: float(np.mean(drawn)), values)
    assert low <= np.mean(values) <= high
    assert 0.25 < high - low < 0.8  # 2 * 1.96 / sqrt(64) = 0.49, for the noise of 64 draws
    assert bootstrap_interval(lambda drawn: float(np.mean(drawn)), values[:1]) == (-np.inf, np.inf)
