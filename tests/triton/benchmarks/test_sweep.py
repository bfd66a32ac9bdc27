"""Sweeps on the real server: what is measured, what survives, and that it can be read."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from dynamicdet.errors import InputError, ServerError
from dyndet_bench.measuring.load import Load
from dyndet_bench.sweep.gallery import chosen_pictures
from dyndet_bench.sweep.plan import SweepPlan
from dyndet_bench.sweep.record import Cell, read_sweep
from dyndet_bench.sweep.sweep import sweep
from dyndet_builder.cli import dyndet, run
from dyndet_builder.server.triton import TritonServer
from tests.support.sweeps import PLAN, Swept


@pytest.mark.timing
def test_cells_carry_what_the_server_counted_and_are_not_measured_twice(
    swept: Swept, server: TritonServer, demo_images: Path
) -> None:
    record = swept.record
    assert read_sweep(swept.folder) == record
    assert (record.image_count, len(record.difficulties), record.repetitions) == (16, 16, 2)
    assert len(record.cells) == 2 * len(PLAN.loads)
    for easy, hard in (record.cells[index : index + 2] for index in (0, 2, 4)):
        assert (easy.threshold, hard.threshold) == (1, 0)
        assert (easy.hard_share, hard.hard_share) == (0, 1)
        assert _mean(easy) < _mean(hard) * 1.5
        for cell in (easy, hard):
            assert cell.split is not None
            parts = cell.split.queue_ms + cell.split.compute_ms + cell.split.routing_ms + cell.split.network_ms
            assert parts == pytest.approx(_mean(cell), rel=0.05)
            assert cell.mean_low_ms is not None and cell.mean_high_ms is not None
            assert cell.mean_low_ms <= _mean(cell) <= cell.mean_high_ms
            assert all((swept.folder / name).stat().st_size > 0 for name in cell.raw)
            assert (cell.open_loop is not None) == (cell.request_rate is not None)
    assert record.routes["easy"].requests == record.routes["hard"].requests == 32
    assert len(record.paper) == 3  # of a dynamic detector
    assert {picture.role for picture in record.gallery} == {"easiest", "borderline", "hardest"}
    assert all(picture.verdict and (swept.folder / str(picture.truth_file)).is_file() for picture in record.gallery)

    again = sweep(server.grpc_url, swept.folder, images=demo_images, plan=PLAN)
    assert [cell.latency for cell in again.cells] == [cell.latency for cell in record.cells]


def test_a_server_that_dies_leaves_what_was_measured(
    repository_folder: Path, demo_images: Path, tmp_path: Path
) -> None:
    plan = SweepPlan(hard_shares=(0, 0.5, 1), loads=(Load(),), repetitions=1, max_images=4)
    with TritonServer(repository_folder) as own:

        def kill(step: str, done: int, _of: int) -> None:
            if (step, done) == ("measure cells", 1):
                os.kill(own.pid, signal.SIGKILL)

        with pytest.raises(ServerError, match=r"^[^\n]*stopped answering[^\n]*the runs so far are in[^\n]*$"):
            sweep(own.grpc_url, tmp_path / "out", images=demo_images, plan=plan, progress=kill)
    cells = read_sweep(tmp_path / "out").cells
    assert [cell.latency is not None for cell in cells] == [True, False, False]
    assert all(cell.error for cell in cells[1:])


def test_the_command_writes_reports_that_hold_the_figures(
    server: TritonServer, demo_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "sweep", "--url", server.grpc_url, "--json", "--images", str(demo_images), "--max-images", "8"]
    command += ["--repetitions", "1", "--hard-shares", "0,1", "--concurrency", "2", "-o", str(tmp_path / "out")]
    assert run(dyndet, [*command, "--batch", "1,64"]) == 6
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [(cell["concurrency"], cell["batch"]) for cell in cells] == [(2, 1), (2, 1), (2, 64), (2, 64)]
    # 64 images in a request are more than the model takes.
    assert [cell["latency"] is None and "batch-size" in cell["error"] for cell in cells[2:]] == [True, True]
    assert all(cell["latency"] and cell["error"] is None for cell in cells[:2])
    with (tmp_path / "out" / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["threshold"]) for row in rows] == 2 * [1.0, 0.0]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/jpeg" in page and "<svg" in page
    assert "concurrency 2" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "either a model repository"),
        (["--url", "127.0.0.1:9", "--hard-shares", "0,2"], "must be from 0 to 1, got 2"),
        (
            ["--url", "127.0.0.1:9", "--concurrency", "1.5"],
            "--concurrency takes whole numbers separated by commas",
        ),
        (["--url", "127.0.0.1:9", "--concurrency", "one"], "numbers separated by commas"),
        (["--url", "127.0.0.1:9", "--request-rate", "0"], "positive number of requests"),
        (["--url", "127.0.0.1:9", "--repetitions", "0"], "repetitions must be at least 1"),
    ],
)
def test_what_cannot_be_swept_is_one_sentence(
    options: list[str], said: str, demo_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "sweep", "--images", str(demo_images), "-o", str(tmp_path / "out")]
    assert run(dyndet, [*command, *options]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_files_is_left_alone(server: TritonServer, demo_images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="do not belong to a sweep"):
        sweep(server.grpc_url, tmp_path, images=demo_images)


def test_no_picture_is_shown_twice() -> None:
    for count in (1, 2, 3, 5, 12, 40):
        difficulties = np.linspace(0, 1, count)
        chosen = chosen_pictures(difficulties, 0.5)
        assert len({index for _, index in chosen}) == len(chosen) <= 12
        assert chosen[0] == ("easiest", 0)


def _mean(cell: Cell) -> float:
    assert cell.latency is not None
    return cell.latency.mean_ms
