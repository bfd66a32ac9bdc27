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
from dyndet_bench.measuring.journal import Journal
from dyndet_bench.measuring.measure import PERCENTILES, Run

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


def _open(folder: Path, **options: Any) -> Journal:
    return Journal(folder, {"server": "a"}, newest_s=60, **options)


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
    assert (journal.take(_WANTED), journal.replayed) == (None, 1)
    assert Journal(kept, {"server": "b"}, newest_s=60).take(_WANTED) is None
    assert _open(kept, fresh=True).take(_WANTED) is None
    assert Journal(kept, {"server": "a"}, newest_s=0).take(_WANTED) is None


def test_repeats_are_kept_and_a_round_of_an_earlier_version_has_none(kept: Path) -> None:
    _open(kept).add([replace(_run(0.5, None), repeats=2)])
    (file,) = kept.iterdir()
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
    (file,) = kept.iterdir()
    content = json.loads(file.read_text())
    content["runs"][0] |= damage
    file.write_text(json.dumps(content))
    assert _open(kept).take(_WANTED) is None


@given(line=st.binary(max_size=60))
def test_any_line_beside_it_changes_nothing(line: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("journal")
    _open(folder).add([_run(1.0, None), _run(0.25, [11.0])])
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes() + line + b"\n" + b"[" * 100_000)
    assert _open(folder).take(_WANTED) is not None


def test_a_round_of_tomorrow_and_a_folder_that_is_a_file_are_refused(kept: Path) -> None:
    (file,) = kept.iterdir()
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"time": time.time() + 3600}))
    assert _open(kept).take(_WANTED) is None
    with pytest.raises(InputError, match="measurements cannot be stored"):
        _open(file)
