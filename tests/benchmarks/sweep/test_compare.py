"""Two sweeps compared: real changes are found, noise is not, and the exit status says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit
from dyndet_bench.measuring.machine import Circumstances
from dyndet_bench.sweep.compare import compare, compare_sweeps
from dyndet_bench.sweep.record import Accuracy, Cell, InputRule, Latency, RouteLatencies, Sweep, read_sweep
from dyndet_builder.cli import dyndet, run


def _latency(mean_ms: float, p99_ms: float | None = None) -> Latency:
    p99_ms = 2 * mean_ms if p99_ms is None else p99_ms
    return Latency(mean_ms=mean_ms, p50_ms=mean_ms, p90_ms=p99_ms, p95_ms=p99_ms, p99_ms=p99_ms)


def _cell(
    mean_ms: float = 10.0, *, half_width: float | None = 0.02, p99_ms: float | None = None, **changed: Any
) -> Cell:
    """A cell whose throughput follows its mean latency; `half_width` of both intervals is relative."""
    per_s = 1e3 / mean_ms
    ends = {} if half_width is None else {"low": 1 - half_width, "high": 1 + half_width}
    values: dict[str, Any] = {
        "threshold": 0.5,
        "concurrency": 1,
        "request_rate": None,
        "batch": 1,
        "requests": 200,
        "throughput_per_s": per_s,
        "latency": _latency(mean_ms, p99_ms),
        **{f"mean_{end}_ms": factor * mean_ms for end, factor in ends.items()},
        **{f"throughput_{end}_per_s": factor * per_s for end, factor in ends.items()},
        "hard_share": 0.4,
    }
    return Cell(**(values | changed))


def _failed(**changed: Any) -> Cell:
    return _cell(**changed).model_copy(
        update=dict.fromkeys(("latency", "throughput_per_s", "mean_low_ms", "mean_high_ms"))
        | {"error": "the server stopped answering"}
    )


def _sweep(*cells: Cell, **changed: Any) -> Sweep:
    routes = RouteLatencies(quantiles_ms=tuple(8 + level / 100 for level in range(101)), mean_ms=8.5, requests=20)
    values: dict[str, Any] = {
        "model": "dyndet",
        "url": "127.0.0.1:8001",
        "bundle_sha256": "0" * 64,
        "class_names": ("cat",),
        "input_size": 320,
        "images": "photos",
        "image_count": 40,
        "repetitions": 5,
        "cells": cells,
        "routes": {"easy": routes, "hard": routes},
        "difficulties": (0.1, 0.9),
        "circumstances": Circumstances(
            machine={"cpu": "A", "cores": "2"}, versions={"triton": "2.51.0"}, command="dyndet", date="2026-01-01"
        ),
    }
    return Sweep(**(values | changed))


def _write(folder: Path, sweep: Sweep) -> Path:
    folder.mkdir()
    (folder / "sweep.json").write_text(sweep.model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("new", "half_width", "verdict"),
    [
        (11.0, 0.02, "slower"),
        (9.0, 0.02, "faster"),
        (10.3, 0.001, "within noise"),  # real, but too small to matter
        (11.0, 0.08, "within noise"),  # large, but the intervals overlap
        (10.0, 0.0, "within noise"),
    ],
)
def test_a_change_counts_beyond_the_threshold_and_the_intervals(new: float, half_width: float, verdict: str) -> None:
    result = compare_sweeps(_sweep(_cell(half_width=half_width)), _sweep(_cell(new, half_width=half_width)))
    (cell,) = result.cells
    assert {change.metric: change.verdict for change in cell.changes} == {
        "mean latency": verdict,
        "p99 latency": "within noise",
        "throughput": verdict,
    }
    assert cell.verdict == verdict
    assert result.slower == (verdict == "slower")


def test_a_sweep_of_a_detector_that_stretches_says_so_and_older_files_stay_readable(tmp_path: Path) -> None:
    fit = Fit(height=192, width=320, resize="stretch", filter="linear")
    old, new = _sweep(_cell()), _sweep(_cell(), fit=InputRule.of(fit))
    assert InputRule.of(Fit.square(320)) is None
    found = [read_sweep(_write(tmp_path / str(number), one)) for number, one in enumerate((old, new))]
    assert [one.input for one in found] == ["320 x 320", "320 x 192 pixels, stretched, linear filter"]
    differences = compare_sweeps(*found).differences
    assert "input: 320 x 320 -> 320 x 192 pixels, stretched, linear filter" in differences
    older = json.loads((tmp_path / "0" / "sweep.json").read_text())
    del older["fit"]
    (tmp_path / "0" / "sweep.json").write_text(json.dumps(older))
    assert read_sweep(tmp_path / "0") == old


def test_p99_has_a_threshold_of_its_own() -> None:
    def verdict(p99_ms: float, **thresholds: float) -> str:
        result = compare_sweeps(_sweep(_cell(p99_ms=20.0)), _sweep(_cell(p99_ms=p99_ms)), **thresholds)
        return result.cells[0].verdict

    assert verdict(23.0) == "within noise"
    assert verdict(25.0) == "slower"
    assert verdict(15.0) == "faster"
    assert verdict(23.0, threshold_p99=0.1) == "slower"


def test_without_repetitions_only_large_changes_count() -> None:
    old = _sweep(_cell(half_width=None))
    assert compare_sweeps(old, _sweep(_cell(11.0))).cells[0].verdict == "within noise"
    assert compare_sweeps(old, _sweep(_cell(13.0))).cells[0].verdict == "slower"


def test_at_a_request_rate_latencies_count_from_when_requests_were_due() -> None:
    load: dict[str, Any] = {"concurrency": None, "request_rate": 50.0}
    old = _cell(open_loop=_latency(12.0, 30.0), open_loop_low_ms=11.0, open_loop_high_ms=13.0, **load)
    new = _cell(open_loop=_latency(20.0, 60.0), open_loop_low_ms=19.0, open_loop_high_ms=21.0, **load)
    (cell,) = compare_sweeps(_sweep(old), _sweep(new)).cells
    found = {change.metric: (change.old, change.new, change.has_intervals) for change in cell.changes}
    assert found["p99 latency"] == (30.0, 60.0, False)
    assert found["mean latency"] == (12.0, 20.0, True)
    (cell,) = compare_sweeps(_sweep(old), _sweep(_cell(**load))).cells
    assert cell.verdict == "within noise"


def test_cells_are_matched_by_threshold_load_and_batch_and_the_worst_comes_first() -> None:
    old = _sweep(_cell(), _cell(threshold=0.3), _cell(concurrency=4), _cell(batch=2), _cell(threshold=0.9))
    new = _sweep(
        _cell(8.0, threshold=0.9),
        _cell(15.0, concurrency=4),
        _cell(11.0, threshold=0.3 + 1e-9),
        _cell(),
        _cell(batch=8),
    )
    result = compare_sweeps(old, new)
    found = [(cell.threshold, cell.load.concurrency, cell.verdict) for cell in result.cells]
    assert found == [(0.5, 4, "slower"), (0.3, 1, "slower"), (0.9, 1, "faster"), (0.5, 1, "within noise")]
    assert result.only_old == ("concurrency 1, batches of 2, threshold 0.5",)
    assert result.only_new == ("concurrency 1, batches of 8, threshold 0.5",)


def test_failed_cells_are_named() -> None:
    old = _sweep(_cell(), _failed(threshold=0.1), _failed(threshold=0.2), _cell(threshold=0.3))
    new = _sweep(_cell(), _cell(threshold=0.1), _failed(threshold=0.2), _failed(threshold=0.3))
    result = compare_sweeps(old, new)
    assert [cell.threshold for cell in result.cells] == [0.5]
    assert result.newly_failed == ("concurrency 1, threshold 0.3: the server stopped answering",)
    assert [text.partition(":")[0].partition(", ")[2] for text in result.failed] == ["threshold 0.1", "threshold 0.2"]
    assert result.slower  # a cell that could be measured before


def test_accuracy_is_compared_where_the_data_is_the_same() -> None:
    def sweep(ap: float, data: str = "val") -> Sweep:
        points = (Accuracy(threshold=0.5, hard_share=0.4, ap=ap, ap50=60.0),)
        return _sweep(_cell(), accuracy=points, accuracy_data=data)

    (change,) = compare_sweeps(sweep(40.0), sweep(38.5)).accuracy
    assert (change.old, change.new) == (40.0, 38.5)
    assert compare_sweeps(sweep(40.0), sweep(38.5, "other")).accuracy == ()
    assert compare_sweeps(sweep(40.0), _sweep(_cell())).accuracy == ()


def test_another_machine_or_version_is_named() -> None:
    seen = Circumstances(machine={"cpu": "B", "cores": "2", "gpu": "T4"}, versions={}, command="", date="2026-01-02")
    result = compare_sweeps(_sweep(_cell()), _sweep(_cell(), circumstances=seen, image_count=20))
    assert result.differences == (
        "machine cpu: A -> B",
        "machine gpu: none -> T4",
        "version triton: 2.51.0 -> none",
        "images: 40 of photos -> 20 of photos",
    )
    assert compare_sweeps(_sweep(_cell()), _sweep(_cell())).differences == ()


def test_sweeps_without_a_common_cell_are_refused() -> None:
    with pytest.raises(InputError, match="no cell in common"):
        compare_sweeps(_sweep(_cell()), _sweep(_cell(batch=2)))
    with pytest.raises(InputError, match="relative change"):
        compare_sweeps(_sweep(_cell()), _sweep(_cell()), threshold=float("nan"))


def test_the_commands_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = _write(tmp_path / "old", _sweep(_cell(), _cell(concurrency=4, batch=2), _failed(batch=3)))
    same = _write(tmp_path / "same", _sweep(_cell(10.1), _failed(batch=3)))
    slow = _write(tmp_path / "slow", _sweep(_cell(12.0), _cell(concurrency=4, batch=2)))

    assert run(dyndet, ["bench", "compare", str(old), str(same)]) == 0
    printed = capsys.readouterr().out
    assert "only in the old sweep: concurrency 4, batches of 2, threshold 0.5" in printed
    assert "not measured: concurrency 1, batches of 3, threshold 0.5: the server stopped answering" in printed
    assert "Warning" not in printed

    assert run(dyndet, ["bench", "compare", str(old), str(slow / "sweep.json")]) == 1
    printed = capsys.readouterr().out
    assert "mean slower" in printed
    assert "(+20.0%)" in printed
    assert "2 cells in both: 1 slower, 0 faster, 1 within noise" in printed
    assert run(dyndet, ["bench", "compare", str(old), str(slow), "--threshold", "30%", "--threshold-p99", "0.3"]) == 0
    capsys.readouterr()

    assert run(dyndet, ["bench", "compare", str(old), str(slow), "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["slower"] is True
    assert record["cells"][0]["changes"][0] == {
        "metric": "mean latency",
        "unit": "ms",
        "old": 10.0,
        "new": 12.0,
        "relative": pytest.approx(0.2),
        "has_intervals": True,
        "verdict": "slower",
    }
    assert record["cells"] == compare(old, slow).as_json()["cells"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{old}", "{missing}"], "cannot be read"),
        (["{old}", "{damaged}"], "not a sweep of schema version 1"),
        (["{old}", "{old}", "--threshold", "five"], "5% or 0.05"),
    ],
)
def test_bad_input_exits_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    damaged = tmp_path / "damaged.json"
    damaged.write_text('{"schema_version": 1}')
    paths = {"old": _write(tmp_path / "old", _sweep(_cell())), "missing": tmp_path / "none", "damaged": damaged}
    assert run(dyndet, ["bench", "compare", *(argument.format(**paths) for argument in arguments)]) == 2
    assert said in capsys.readouterr().err


def test_a_wide_table_has_one_line_for_each_cell_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loads: list[dict[str, Any]] = [{"concurrency": 64, "batch": 8}, {"concurrency": None, "request_rate": 1234.5}]
    old = _write(tmp_path / "old", _sweep(*(_cell(1234.5, threshold=0.123456, **load) for load in loads)))
    new = _write(tmp_path / "new", _sweep(*(_cell(2345.6, threshold=0.123456, hard_share=1, **load) for load in loads)))
    assert run(dyndet, ["bench", "compare", str(old), str(new)]) == 1
    printed = capsys.readouterr().out
    (row,) = (line for line in printed.splitlines() if line.startswith("1234"))
    for text in ("40% -> 100%", "(+90.0%)", "1234 -> 2346", "slower"):
        assert text in row
