"""How a rendered detector learns how long a request has waited: from the client's clock, which may show anything."""

from __future__ import annotations

import importlib
import time

import pytest

Arrivals = importlib.import_module("dyndet_templates.queueing.arrivals").Arrivals


def sent(ago_s: float, *, clock: str = "a", ahead_s: float = 0) -> str:
    """The parameter of a request that was sent some seconds ago, by a clock that is ahead of this one."""
    return f"{clock}:{round(1e6 * (time.monotonic() - ago_s + ahead_s))}"


@pytest.mark.parametrize("ahead_s", [0, 1e6, -1])
def test_the_wait_is_known_whatever_the_clock_shows(ahead_s: float) -> None:
    arrivals = Arrivals(idle_s=60)
    arrivals.free()
    for ago_s, waited_s in ((0.5, 0), (0.0, 0), (0.5, 0.5), (2.0, 2.0), (0.0, 0)):
        assert arrivals.waited_us(sent(ago_s, ahead_s=ahead_s)) / 1e6 == pytest.approx(waited_s, abs=0.2)
    assert arrivals.waited_us(sent(9, clock="b")) == 0  # another client, of which nothing is known
    for ago_s in (0, 9):
        assert arrivals.waited_us(sent(ago_s, clock="c" * 65)) == 0  # a name that nobody keeps in memory


def test_a_request_that_finds_the_detector_idle_did_not_wait() -> None:
    """So a clock that was set back, or stood still, is believed again at once."""
    arrivals = Arrivals(idle_s=0.01)
    arrivals.free()
    arrivals.waited_us(sent(0))
    time.sleep(0.02)
    assert arrivals.waited_us(sent(100)) == 0
    arrivals.free()
    assert arrivals.waited_us(sent(101)) / 1e6 == pytest.approx(1, abs=0.2)


def test_a_clock_that_runs_slow_is_wrong_for_two_windows_at_most() -> None:
    arrivals = Arrivals(window_s=0.01, idle_s=60)
    arrivals.free()
    waited = []
    for ago_s in (0, 5, 5, 5):
        waited.append(round(arrivals.waited_us(sent(ago_s)) / 1e6))
        time.sleep(0.02)
    assert waited == [0, 5, 0, 0]


def test_only_the_most_recent_clocks_are_remembered() -> None:
    arrivals = Arrivals(idle_s=60, most_clocks=2)
    arrivals.free()
    for clock in "abc":
        arrivals.waited_us(sent(0, clock=clock))
    assert [round(arrivals.waited_us(sent(5, clock=clock)) / 1e6) for clock in "ca"] == [5, 0]


@pytest.mark.parametrize("text", ["", ":", "a", "a:", ":5", "a:-5", "a:5.0", "a:" + "9" * 30, "a:٣", 7, None, True])
def test_what_is_no_time_counts_as_no_wait(text: object) -> None:
    assert Arrivals().waited_us(text) == 0


def test_a_request_that_comes_soon_after_execute_has_computed_has_probably_waited() -> None:
    """Also those that come in after it, one at once after the other; not one whose stamp says otherwise."""
    arrivals = Arrivals()
    arrivals.enter()
    assert arrivals.came_at_once(None)
    time.sleep(0.4)
    arrivals.free(computed=True)
    for _ in range(3):
        arrivals.enter()
        assert not arrivals.came_at_once(None)
        assert arrivals.came_at_once(sent(0))
        arrivals.free()
    time.sleep(0.15)
    arrivals.enter()
    assert arrivals.came_at_once(None)
