"""Where bars cannot move, plain lines say what a command does, how far it is, and how long it took."""

from __future__ import annotations

import re
import time

import pytest

from dyndet_client.cli import steps
from dyndet_client.cli.steps import StepLines, duration
from dyndet_client.cli.terminal import Console

TIME = re.compile(r"^\d\d:\d\d:\d\d ")
SECONDS = re.compile(r"[\d.]+ s")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed on standard error, with N for the seconds; each line begins with the time."""
    told = capsys.readouterr().err.splitlines()
    assert all(TIME.match(line) for line in told)
    return [SECONDS.sub("N", TIME.sub("", line)) for line in told]


def test_a_step_has_a_line_when_it_begins_and_one_when_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with StepLines(Console(stderr=True)) as say:
        for done in range(4):
            say("export graphs", done, 3)
        say("export graphs", 3, 3)
        say("load", 1, 1)
    assert lines(capsys) == ["export graphs ...", "export graphs: done, N", "load: done, N"]


def test_a_round_that_is_added_to_a_step_has_only_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with StepLines(Console(stderr=True)) as say:
        for _ in range(2):
            say("again", 0, 2)
            say("again", 2, 2)
    assert lines(capsys) == ["again ...", "again: done, N", "again: done, N"]


def test_a_long_step_says_how_far_it_is_and_what_waits_for_it_is_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_PAUSE_S", 0.02)
    monkeypatch.setattr(steps, "_LOOK_S", 0.01)
    told: list[str] = []
    with StepLines(Console(stderr=True)) as say:
        say("push", 1, 5)
        say("measure", 0, 4)
        say("measure", 1, 4)
        end = time.monotonic() + 20
        while not any("so far" in line for line in told) and time.monotonic() < end:
            time.sleep(0.02)
            told += lines(capsys)
    assert told[:2] == ["push ...", "measure ..."]
    assert re.fullmatch(r"measure: 1 of 4, N so far(, about N left)?", told[2])
    assert not any(line.startswith("push:") for line in told)


def test_a_command_that_is_usually_over_at_once_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with StepLines(Console(stderr=True), only_long=True) as say:
        say("detecting", 1, 2)
        say("detecting", 2, 2)
    assert lines(capsys) == []


def test_a_time_is_told_in_the_unit_that_people_use() -> None:
    times = (0.04, 9.9, 12.4, 119, 150, 7300, 200_000)
    assert [duration(one) for one in times] == ["0.0 s", "9.9 s", "12 s", "119 s", "2.5 min", "2 h", "2.3 days"]
