"""The plot of AP over latency: it shows the measured cells, and refuses files that do not hold them."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.path import Path as Curve
from PIL import Image

from dyndet_bench.report.frontier import draw_frontier, read_frontier
from dyndet_builder.cli import dyndet, run

DEMO_REPORT = Path(__file__).parents[3] / "docs" / "demo-report"
HEAD = "threshold,concurrency,request_rate,batch,mean_ms,mean_low_ms,mean_high_ms,hard_share,ap\n"
EASY, MIXED, HARD = "1.0,2,,1,8.0,7.5,8.5,0.0,30.0\n", "0.4,2,,1,9.0,,,0.3,34.0\n", "0.0,2,,1,12.0,11.0,13.0,1.0,36.0\n"


def table(folder: Path, *rows: str) -> Path:
    file = folder / "cells.csv"
    file.write_text(HEAD + "".join(rows))
    return file


def test_the_curve_holds_the_cells_of_the_load_and_random_routing_joins_its_ends(tmp_path: Path) -> None:
    other_load = "0.4,1,,1,5.0,4.0,6.0,0.3,34.0\n"
    points = read_frontier(table(tmp_path, HARD, other_load, EASY, MIXED), concurrency=2)
    (axes,) = draw_frontier(points, promise_ms=9.5).axes
    drawn = {str(line.get_label()): line for line in axes.lines}
    (router,) = [container.lines[0] for container in axes.containers]
    assert list(router.get_xdata()) == [8.0, 9.0, 12.0] and list(router.get_ydata()) == [30.0, 34.0, 36.0]
    assert list(drawn["random routing"].get_xdata()) == [8.0, 12.0]
    assert list(drawn["random routing"].get_ydata()) == [30.0, 36.0]
    assert set(drawn["promised mean latency: 9.50 ms"].get_xdata()) == {9.5}
    assert {text.get_text() for text in axes.texts} == {"all easy: 30.0", "30 % hard", "all hard: 36.0"}


@pytest.mark.parametrize("promise_ms", [None, 12.03, 13.0])
def test_no_name_of_a_point_lies_on_the_curve_an_interval_or_another_name(promise_ms: float | None) -> None:
    points = read_frontier(DEMO_REPORT)
    figure = draw_frontier(points, promise_ms=promise_ms)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    (router,) = [container.lines[0] for container in axes.containers]
    curve = Curve(axes.transData.transform(router.get_xydata()))
    bars = [Curve(axes.transData.transform([(one.low_ms, one.ap), (one.high_ms, one.ap)])) for one in points]
    for number, box in enumerate(boxes):
        assert not any(path.intersects_bbox(box, filled=False) for path in (curve, *bars)), axes.texts[number]
        assert not any(box.overlaps(other) for other in boxes[:number]), axes.texts[number]


@pytest.mark.parametrize("name", ["plot.png", "plot.svg"])
def test_the_command_draws_the_report_of_the_demo(name: str, tmp_path: Path) -> None:
    target = tmp_path / name
    assert run(dyndet, ["bench", "plot", str(DEMO_REPORT), "--promise", "9.42ms", "-o", str(target)]) == 0
    if name.endswith("png"):
        with Image.open(target) as picture:
            assert min(picture.size) > 600
            assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # readable on a dark page, too
    else:
        assert "<svg" in target.read_text()


def test_what_cannot_be_drawn_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = str(table(tmp_path, EASY, HARD))
    (tmp_path / "short").mkdir()
    short = str(table(tmp_path / "short", EASY, MIXED))
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    plot = str(tmp_path / "plot.png")
    for words, reason in (
        ([str(tmp_path / "none.csv"), "-o", plot], "none.csv cannot be read"),
        ([str(tmp_path / "notes.csv"), "-o", plot], "notes.csv is not the table of a sweep"),
        ([short, "-o", plot, "--concurrency", "2"], "no AP for thresholds 1 and 0 at concurrency 2"),
        ([whole, "-o", plot], "no AP for thresholds 1 and 0 at concurrency 1"),
        ([whole, "-o", plot, "--concurrency", "2", "--promise", "p95:12ms"], "takes a mean latency such as 12ms"),
        ([whole, "-o", str(tmp_path / "plot.gif"), "--concurrency", "2"], "a plot is a .png or .svg file"),
    ):
        assert run(dyndet, ["bench", "plot", *words]) == 2, words
        error = capsys.readouterr().err.strip()
        assert error.startswith("Error: ") and reason in error and "\n" not in error
    assert not Path(plot).exists()
