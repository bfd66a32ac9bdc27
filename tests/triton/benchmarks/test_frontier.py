"""`dyndet bench frontier`: a dynamic and two static detectors on one real server, measured in turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyndet_bench.frontier.record import read_frontier_record
from dyndet_builder.cli import dyndet, run
from tests.support.toy_bundle import CLASSES, SIZE, write_toy_bundle, write_toy_data
from tests.support.toy_static import write_toy_static


def test_a_dynamic_detector_is_measured_beside_static_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """AP is that of the server's answers, time that of every way, and what follows is in the three files."""
    bundle = write_toy_bundle(tmp_path / "bundle")
    whole = write_toy_static(tmp_path / "whole", CLASSES, (0, 0, SIZE, SIZE))
    corner = write_toy_static(tmp_path / "corner", CLASSES, (0, 0, 4, 4))
    data = write_toy_data(tmp_path / "data")
    words = ["bench", "frontier", bundle, "--static", whole, "--static", corner, "--data", data]
    output = tmp_path / "out"
    assert run(dyndet, [*map(str, words), "--hard-share", "0.5", "--rounds", "2", "-o", str(output)]) == 0

    record = read_frontier_record(output / "frontier.json")
    assert [point.hard_share for point in record.dynamic] == [0, 0.5, 1]
    assert [point.ap.value for point in record.dynamic] == pytest.approx([100, 100, 100])
    assert {one.name: one.ap.value for one in record.static} == {"whole": pytest.approx(100), "corner": 0}
    assert (record.images, record.timed_images, record.rounds) == (4, 4, 2)
    for point in (*record.dynamic, *record.static):
        assert point.latency_ms.mean.low <= point.latency_ms.mean.value <= point.latency_ms.p99
    (equal,) = (one.latency_ms.mean.value for one in record.static if one.name == "whole")
    for point in record.dynamic:
        assert point.beside.faster is not None
        assert point.beside.faster.value == pytest.approx(1 - point.latency_ms.mean.value / equal)
    assert "at equal latency" in (output / "frontier.md").read_text()
    assert (output / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert "At 100.0 AP the dynamic detector is" in capsys.readouterr().out
