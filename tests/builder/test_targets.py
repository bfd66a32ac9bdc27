"""How latency targets are written and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamicdet.errors import InputError
from dyndet_builder.targets import MeanLatency, ShareOfRange, parse_target


@given(ms=st.floats(1e-3, 1e6))
def test_units_mean_the_same_latency(ms: float) -> None:
    for text in (f"{ms!r}ms", f"{ms / 1e3!r}s", f"{ms * 1e3!r}us", f" {ms!r} ms "):
        target = parse_target(text)
        assert isinstance(target, MeanLatency)
        assert target.ms == pytest.approx(ms)
        assert target.resolve_ms(1.0, 2.0) == pytest.approx(ms)


@given(percent=st.floats(0, 100), lat1=st.floats(0.1, 1e4), span=st.floats(0.1, 1e4))
def test_a_share_lies_inside_the_range(percent: float, lat1: float, span: float) -> None:
    target = parse_target(f"{percent!r}%")
    assert isinstance(target, ShareOfRange)
    found = target.resolve_ms(lat1, lat1 + span)
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
    "text", ["abc", "", "12", "ms", "-5ms", "0ms", "nanms", "infms", "1e999ms", "12 m", "101%", "-1%", "12ms,13ms"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_target(text)


@pytest.mark.parametrize("text", ["p95:12ms", "throughput:300/s"])
def test_targets_of_later_versions_are_told_apart(text: str) -> None:
    with pytest.raises(InputError, match="cannot be asked for yet"):
        parse_target(text)
