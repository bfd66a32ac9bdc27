"""Rounds on disk: what was measured comes back, and nothing else."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamicdet.errors import InputError
from dyndet_bench.measuring.counters import RouteCounts, ServerTimes
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_bench.measuring.measure import PERCENTILES, Run
from dyndet_bench.measuring.round_journal import RoundJournal

_WANTED = ((1.0, False), (0.25, True))


def _run(threshold: float, latencies: list[float] | None) -> Run:
    return Run(
        threshold=threshold,
        requests=3,
        mean_ms=12.5,
        percentiles_ms={percent: 10.0 + percent for percent in PERCENTILES},
        throughput_per_s=80.0,
        counts=RouteCounts(total=4, hard=1),
        times=ServerTimes(requests=4, inside_ms=40.0, queue_ms=1.0, compute_ms=30.0),
        latencies_ms=None if latencies is None else np.array(latencies),
    )


def _open(folder: Path, server: str = "a", **options: Any) -> RoundJournal:
    return RoundJournal(JournalFolder(folder=folder, **{"newest_s": 60, **options}), {"server": server})


def _lines(folder: Path) -> Path:
    (file,) = folder.glob("*.jsonl")
    return file


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with one round on record."""
    _open(tmp_path).add([_run(1.0, None), _run(0.25, [11.0, 12.0, 14.5])])
    return tmp_path


def test_a_round_comes_back_once_and_only_to_the_same_question(kept: Path) -> None:
    journal = _open(kept)
    assert journal.take(((1.0, True), (0.25, True))) is None
    found = journal.take(_WANTED)
    assert found is not None
    first, second = found
    assert first == _run(1.0, None)
    assert second.latencies_ms is not None
    assert second.latencies_ms.tolist() == [11.0, 12.0, 14.5]
    assert journal.take(_WANTED) is None
    assert journal.replayed is not None and journal.replayed.measurements == 1
    assert _open(kept, "b").take(_WANTED) is None
    assert _open(kept, subject={"repository": "other"}).take(_WANTED) is None
    assert _open(kept, newest_s=0).take(_WANTED) is None


def test_what_was_measured_before_a_fresh_start_never_comes_back(kept: Path) -> None:
    fresh = _open(kept, fresh=True)
    assert fresh.take(_WANTED) is None
    fresh.add([_run(1.0, None), _run(0.25, [20.0])])
    later = _open(kept)
    found = later.take(_WANTED)
    assert found is not None and found[1].latencies_ms is not None
    assert found[1].latencies_ms.tolist() == [20.0]
    assert later.take(_WANTED) is None


def test_each_measurement_says_where_with_what_and_when_it_was_made(kept: Path) -> None:
    file = _lines(kept)
    (line,) = [json.loads(text) for text in file.read_text().splitlines() if text]
    assert line["circumstances"].keys() == {"machine", "versions", "command", "date"}
    assert json.loads(file.with_suffix(".json").read_text())["server"] == "a"
    del line["circumstances"]
    file.write_text(json.dumps(line))
    assert _open(kept).take(_WANTED) is None  # a record without them does not count


def test_repeats_are_kept_and_a_round_of_an_earlier_version_has_none(kept: Path) -> None:
    _open(kept).add([replace(_run(0.5, None), repeats=2)])
    file = _lines(kept)
    found = _open(kept).take(((0.5, False),))
    assert found is not None and found[0].repeats == 2
    file.write_text(file.read_text().replace(', "repeats": 0', "").replace(', "repeats": 2', ""))
    assert '"repeats"' not in file.read_text()
    found = _open(kept).take(((0.5, False),))
    assert found is not None and found[0].repeats == 0


@pytest.mark.parametrize(
    "damage",
    [
        {"mean_ms": "fast"}, {"mean_ms": None}, {"mean_ms": float("nan")}, {"mean_ms": -5}, {"mean_ms": 10**400},
        {"latencies_ms": []}, {"latencies_ms": [0.0]}, {"threshold": [1]}, {"threshold": 2}, {"percentiles_ms": {}},
        {"percentiles_ms": [1, 2]}, {"counts": {"total": "4", "hard": 1}}, {"counts": {"total": 0, "hard": 0}},
        {"counts": {"total": 1, "hard": 2}}, {"times": {"hours": 1}}, {"strange": 1},
        {"repeats": -1}, {"repeats": "1"},
    ],
)  # fmt: skip
def test_a_damaged_run_is_left_out(kept: Path, damage: dict[str, Any]) -> None:
    file = _lines(kept)
    content = json.loads(file.read_text())
    content["measured"]["runs"][0] |= damage
    file.write_text(json.dumps(content))
    assert _open(kept).take(_WANTED) is None


@given(line=st.binary(max_size=60))
def test_any_line_beside_it_changes_nothing(line: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("journal")
    _open(folder).add([_run(1.0, None), _run(0.25, [11.0])])
    file = _lines(folder)
    file.write_bytes(file.read_bytes() + line + b"\n" + b"[" * 100_000)
    assert _open(folder).take(_WANTED) is not None


def test_a_round_of_tomorrow_and_a_folder_that_is_a_file_are_refused(kept: Path) -> None:
    file = _lines(kept)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"time": time.time() + 3600}))
    assert _open(kept).take(_WANTED) is None
    with pytest.raises(InputError, match="measurements cannot be stored"):
        _open(file)
