"""`dyndet bench load` on the real server, with the toy bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyndet_bench.load.record import LoadRecord, read_load_record
from dyndet_builder.cli import dyndet, run
from dyndet_builder.repository.render import RenderOptions, render
from tests.support.toy_bundle import write_toy_bundle, write_toy_data


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return render(write_toy_bundle(folder / "bundle"), folder / "models", RenderOptions(topology="fused"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures that one object fills, 20, 40, 60 and 80 % difficult."""
    return write_toy_data(tmp_path_factory.mktemp("data") / "set")


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_systems_get_the_same_requests_and_a_second_run_continues(
    repository: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Routes, AP and counts are those of the answers; the repository is not changed; finished cells are kept."""
    before = _files(repository)
    words = ["bench", "load", repository, "--data", data, "--levels", "0.2", "--seconds", "1", "--system", "plain",
             "--system", "static", "--thresholds", "1", "--promise", "p95:500ms", "--cancel-share", "0.2"]  # fmt: skip
    both = [*words, "--measurements", tmp_path / "measurements", "-o", tmp_path / "out"]
    assert run(dyndet, [str(word) for word in both]) == 0

    record = read_load_record(tmp_path / "out" / "load.json")
    plain, easy = record.of("steady", 0.2)
    assert (plain.kind, plain.threshold, easy.kind, easy.threshold) == ("plain", 0.5, "static", 1)
    assert plain.offered == plain.answered == easy.answered > 5 and plain.cancelled == easy.cancelled > 0
    assert (easy.hard_share, plain.refused, plain.failed) == (0, 0, 0)
    assert plain.hard_share == pytest.approx(0.5, abs=0.3)
    assert plain.ap == pytest.approx(100) == easy.ap and plain.ap_all == plain.ap
    assert record.promise.ms == 500 and record.capacity.easy_per_s > 0
    assert (plain.memory_before_mb or 0) > 10 and len(plain.line.sample_s) > 2
    assert record.hindsight[0].threshold is not None and record.replayed is None
    out = capsys.readouterr()
    assert "This takes about" in out.err and "plain queueing" in out.out and "The server did not crash." in out.out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "under load" in page and "<svg" in page and "http://" not in page.replace("http://127.0.0.1", "")
    assert "| plain queueing |" in (tmp_path / "out" / "summary.md").read_text()
    assert _files(repository) == before

    assert run(dyndet, [str(word) for word in both]) == 0
    again = read_load_record(tmp_path / "out" / "load.json")
    assert again.replayed is not None and again.replayed.measurements >= 1 + sum(cell.valid for cell in record.cells)
    kept = [cell for cell in again.cells if cell in record.cells]
    assert len(kept) >= sum(cell.valid for cell in record.cells)
    assert _capacity(again) == _capacity(record)


def _capacity(record: LoadRecord) -> float:
    return record.capacity.easy_per_s


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --images, a folder of images to send, or --data"),
        (["--images", "photos", "--promise", "12ms"], "a percentile of the latency, such as p95:90ms, not '12ms'"),
        (["--images", "photos", "--promise", "p95:50%"], "a percentile of the latency, such as p95:90ms"),
        (["--images", "photos", "--levels", "1,x"], "--levels takes numbers separated by commas"),
        (["--images", "photos", "--levels", "-1"], "a level must be above 0"),
        (["--images", "photos", "--profile", "burst", "--seconds", "5"], "a burst of 5 s needs a run of at least 15 s"),
        (["--images", "photos", "--trace", "t", "--profile", "step"], "give either --trace or --profile"),
        (["--images", "photos", "--trace", "missing.csv"], "missing.csv"),
        (["--images", "photos", "--thresholds", "2"], "thresholds must be from 0 to 1"),
        (["--images", "photos", "--operating-point", "none"], "none"),
        (["--images", "photos"], "photos"),
    ],
)
def test_wrong_options_are_refused_before_a_server_starts(
    repository: Path, words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(dyndet, ["bench", "load", str(repository), *words]) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err and "start the server" not in err
    assert not (tmp_path / "build").exists()
