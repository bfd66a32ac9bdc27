"""Arrivals of profiles and traces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError
from dyndet_bench.load.arrivals import BURST_S, PROFILES, Profile, ProfileName, arrivals_s, read_trace
from dyndet_bench.load.plan import LoadPlan


@given(
    name=st.sampled_from(PROFILES),
    level=st.floats(0.1, 5),
    seconds=st.floats(15, 60),
    rate=st.floats(1, 200),
    seed=st.integers(0, 2**32 - 1),
)
def test_arrivals_follow_the_rate_of_their_profile(
    name: ProfileName, level: float, seconds: float, rate: float, seed: int
) -> None:
    """As many as expected, six standard deviations at most away: in all, and in the first half."""
    profile = Profile(name=name, level=level, seconds=seconds)
    due = arrivals_s(profile, rate, seed=seed)
    assert (np.diff(due) >= 0).all() and (due >= 0).all() and (due <= seconds).all()
    assert np.array_equal(due, arrivals_s(profile, rate, seed=seed))
    at = np.linspace(0, seconds, 20_001)[:-1]
    rates = profile.rate(at) * rate
    for end in (seconds / 2, seconds):
        expected = rates[at < end].mean() * end
        assert abs((due < end).sum() - expected) <= 6 * expected**0.5 + 6
    assert profile.peak <= max(level, profile.base) * (1 + 1e-9)


def test_a_burst_is_as_high_and_as_long_as_it_says() -> None:
    profile = Profile(name="burst", level=3, seconds=40)
    assert profile.over_s == (10, 10 + BURST_S)
    due = arrivals_s(profile, 1000.0)
    inside = ((due >= 10) & (due < 15)).sum() / 5
    assert inside == pytest.approx(3000, rel=0.05) and (due < 10).sum() / 10 == pytest.approx(500, rel=0.05)


def _trace(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.csv", "0.5\n1\n\n2.25\n"),
        ("named.csv", "id, arrival_s\na,0.5\nb,1\nc,2.25\n"),
        ("numbers.jsonl", "0.5\n1\n2.25\n"),
        ("objects.txt", '{"arrival_s": 0.5}\n{"arrival_s": 1, "user": 7}\n{"arrival_s": 2.25}\n'),
    ],
)
def test_a_trace_is_read_from_csv_and_json_lines(tmp_path: Path, name: str, text: str) -> None:
    assert read_trace(_trace(tmp_path, text, name)).tolist() == [0.5, 1, 2.25]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 arrivals"),
        ("0.5\n0.4\n", "arrival 2 of"),
        ("-1\n", "not between 0 and"),
        ("1e9\n", "not between 0 and"),
        ("nan\n", "not between 0 and"),
        ("0.5\n\x1b[2Jsoon\n", "line 2 of"),
        ("1,2\n3,4\n", "several columns"),
        ('"1\n', "cannot be read"),
        ('{"arrival_s": true}\n', "line 1 of"),
        ('{"arrival_s": 1e999}\n', "not between"),
        ('{"when": 1}\n', "line 1 of"),
        ("{]\n", "line 1 of"),
        (json.dumps({"arrival_s": 10**400}), "line 1 of"),
    ],
)
def test_a_damaged_trace_is_refused_in_one_printable_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        read_trace(_trace(tmp_path, text))
    assert str(refused.value).isprintable()


@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 50), seconds=st.floats(1, 20))
def test_every_system_gets_the_same_requests_and_every_image_its_turn(seed: int, images: int, seconds: float) -> None:
    plan = LoadPlan(levels=(1.0,), seconds=seconds, seed=seed, cancel_share=0.2)
    (run,) = plan.runs()
    first, again = (plan.arrivals(run, capacity_per_s=50.0, images=images) for _ in range(2))
    for one, other in ((first.due_s, again.due_s), (first.images, again.images), (first.cancelled, again.cancelled)):
        assert np.array_equal(one, other)
    whole = len(first) // images * images
    assert set(np.bincount(first.images[:whole], minlength=images)) == ({len(first) // images} if images else set())


@pytest.mark.parametrize(
    "words",
    [
        {"seconds": 0.5},
        {"levels": (0.0,)},
        {"levels": (float("nan"),)},
        {"levels": (1.0, 1.0)},
        {"profiles": ("burst",), "seconds": 10},
        {"thresholds": (1.5,)},
        {"cancel_share": 1.0},
        {"processes": 17},
        {"base": 0.0},
        {"trace": np.array([1.0]), "levels": (1.0,)},
    ],
)
def test_plans_that_make_no_sense_are_refused(words: dict[str, object]) -> None:
    with pytest.raises(InputError):
        LoadPlan(**words)  # type: ignore[arg-type]


def test_a_trace_takes_the_place_of_profiles() -> None:
    trace: FloatArray = np.array([0.1, 0.2, 3.0])
    plan = LoadPlan(trace=trace)
    (run,) = plan.runs()
    assert (run.profile, run.level, run.seconds) == ("trace", None, 3.0)
    assert plan.arrivals(run, capacity_per_s=1e9, images=2).due_s is trace
