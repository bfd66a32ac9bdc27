"""The paper's table against the latency model and our own networks."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

import dynamicdet
from dynamicdet.errors import InputError
from dynamicdet.thresholds import easy_share_for_target
from dyndet_bench.sweep.paper import PAPER, PaperModel, check_paper, fit_routes
from dyndet_builder.cli.bench.group import command
from dyndet_builder.paper import compare_with_paper, infer_once, measure_routes


@pytest.mark.parametrize("model", PAPER, ids=lambda model: model.name)
def test_two_rows_predict_the_others_within_three_percent(model: PaperModel) -> None:
    times = fit_routes(model)
    for row in model.rows:
        assert times.fps(row.hard_share) == pytest.approx(row.fps, rel=0.03)
    # The rule of calibration, the other way: the share of easy images that gives the row its latency.
    for row in model.rows[:3]:
        share = easy_share_for_target(times.lat1_ms, times.lat2_ms, row.latency_ms)
        assert 1 - share == pytest.approx(row.hard_share, abs=0.07)


@pytest.mark.parametrize("model", PAPER, ids=lambda model: model.name)
def test_every_pair_of_rows_far_enough_apart_agrees(model: PaperModel) -> None:
    for one, other in itertools.combinations((10, 50, 90, 100), 2):
        times = fit_routes(model, (one, other))
        assert times.fps(one / 100) == pytest.approx(model.row(one).fps)
        assert times.fps(other / 100) == pytest.approx(model.row(other).fps)
        if (one, other) != (90, 100):  # their FPS differ by little more than rounding
            assert [times.fps(row.hard_share) for row in model.rows] == pytest.approx(
                [row.fps for row in model.rows], rel=0.04
            )


def test_the_check_states_its_largest_error() -> None:
    checks = {check.model: check for check in check_paper()}
    assert list(checks) == ["Dy-YOLOv7", "Dy-YOLOv7-X", "Dy-YOLOv7-W6"]
    for check in checks.values():
        assert check.fitted_rows == (10, 100)
        assert 0 < check.lat1_ms < check.lat2_ms
        assert 0 < check.largest_error < 0.03
    assert checks["Dy-YOLOv7"].lat2_ms == pytest.approx(1000 / 83)
    assert checks["Dy-YOLOv7-X"].largest_error == pytest.approx(0.0241, abs=1e-4)  # its row of 90 %


@pytest.mark.parametrize("rows", [(10, 10), (10, 30)])
def test_rows_that_fit_nothing_are_refused(rows: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"10 % twice|has no Dy-YOLOv7 with 30 %"):
        fit_routes(PAPER[0], rows)


def test_the_comparison_holds_the_papers_gflops_and_ours() -> None:
    result = compare_with_paper(gpu=False)
    assert result.gpu is None
    for model in result.models:
        assert model.measured is None
        for row in model.rows:
            assert row.gflops == pytest.approx(row.paper.gflops, rel=0.005)
            assert row.predicted_fps == pytest.approx(row.paper.fps, rel=1e-9 if row.fitted else 0.03)
            assert row.measured_fps is None


def test_the_command_prints_a_table_and_json() -> None:
    printed = CliRunner(env={"COLUMNS": "100"}).invoke(command, ["paper", "--no-gpu"], catch_exceptions=False).stdout
    for text in ("Dy-YOLOv7-W6", "601.6", "+2.4%", "not measured (no GPU)", "one V100"):
        assert text in printed
    assert max(map(len, printed.splitlines())) <= 100
    answer = CliRunner().invoke(command, ["paper", "--no-gpu", "--json"], catch_exceptions=False)
    record = json.loads(answer.stdout)
    assert [model["model"] for model in record["models"]] == ["Dy-YOLOv7", "Dy-YOLOv7-X", "Dy-YOLOv7-W6"]
    assert record["models"][2]["rows"][3]["paper"] == {"gflops": 601.6, "fps": 46, "ap": 56.8}
    assert record["gpu"] is None


@pytest.mark.parametrize("route", ["easy", "hard"])
def test_what_is_timed_runs_in_half_precision(route: dynamicdet.networks.network.Route) -> None:
    model = dynamicdet.create("dy-yolov7-pico", input_size=64).eval().deploy().to(torch.float16)
    with torch.inference_mode():
        rows = infer_once(model, torch.rand(1, 3, 64, 64, dtype=torch.float16), route)
    assert rows.dtype == torch.float16
    assert rows.shape[::2] == (1, 85)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_both_routes_are_timed_on_a_gpu() -> None:
    times = measure_routes("dy-yolov7-pico", torch.device("cuda"))
    assert 0 < times.lat1_ms < times.lat2_ms


def test_the_benchmarks_load_no_torch() -> None:
    code = (
        "import sys, dyndet_bench.measuring.open_loop, dyndet_bench.sweep.paper\n"
        "import dyndet_bench.sweep.compare, dyndet_builder.paper\n"
        "sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
