"""`dyndet pair` on tiny detectors: its report, its store of answers, and what it says about bad input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dyndet_builder.cli import dyndet, run
from dyndet_builder.detectors.runner import DetectorRunner
from tests.support.foreign.tiny_detectors import write_squares, write_tiny_detector

LATENCIES = "small=1ms,large=10ms"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    write_tiny_detector(folder / "small.onnx", cells=(16,))
    write_tiny_detector(folder / "middle.onnx", cells=(16, 8), gain=0.9)
    write_tiny_detector(folder / "large.onnx", cells=(16, 8))
    write_tiny_detector(folder / "blind.onnx", cells=(16,), gain=0.0)
    write_tiny_detector(folder / "other.onnx", cells=(16,), names=("cat", "dog", "cow"))
    write_tiny_detector(folder / "wrong.onnx", cells=(16,))
    named = (folder / "wrong.yaml").read_text()
    (folder / "wrong.yaml").write_text(named.replace("output0", "nowhere"))
    write_squares(folder / "data", count=60)
    write_squares(folder / "stream", count=20, seed=1)
    return folder


def dyndet_pair(place: Path, output: Path, *options: str, small: str = "small", large: str = "large") -> int:
    words: Sequence[str] = ("pair", f"{place / small}.onnx", f"{place / large}.onnx", "-o", str(output), *options)
    specs = ("--small-spec", f"{place / small}.yaml", "--large-spec", f"{place / large}.yaml")
    return run(dyndet, [*words, *specs, "--cache", str(output.parent / "cache")])


def test_the_report_is_written_whole_before_a_missed_target_is_told(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    also = ("--also", f"{place / 'middle'}.onnx", "--also-spec", f"{place / 'middle'}.yaml")
    options = (
        "--latency",
        "small=1ms,large=10ms,mid=4ms",
        "--target-latency",
        "50%,p95:5ms",
        "--stream",
        f"{place}/stream/images",
    )
    assert dyndet_pair(place, tmp_path / "out", "--data", f"{place / 'data'}", *also, *options) == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "frontier.png",
        "pair.json",
        "report.html",
        "summary.md",
    ]
    report = json.loads((tmp_path / "out" / "pair.json").read_text())
    assert report["measure"] == "AP"
    assert [one["name"] for one in report["detectors"]] == ["small", "large", "middle"]
    assert report["stream"]["pictures"] == 20
    assert [one["met"] for one in report["targets"]] == [True, False]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "small, then large" in page
    assert "Middle has at least the accuracy of large" in page
    assert "http" not in page.replace("http-equiv", "").replace("https://www.w3.org", "")
    said = capfd.readouterr()
    assert report["verdict"]["sentence"][10:] in said.out
    assert "below what any hard picture takes" in said.err


def test_without_labels_nothing_is_called_ap_and_a_second_run_takes_stored_answers(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    real = DetectorRunner.run

    def counted(self: DetectorRunner, images: object) -> object:
        ran.append(len(images))  # type: ignore[arg-type]
        if len(ran) == 9:
            raise KeyboardInterrupt
        return real(self, images)  # type: ignore[arg-type]

    monkeypatch.setattr(DetectorRunner, "run", counted)
    options = ("--images", f"{place}/data/images", "--latency", LATENCIES)
    assert dyndet_pair(place, tmp_path / "out", *options) == 130
    assert not (tmp_path / "out").exists()
    before = sum(ran[:-1])
    assert before > 0
    monkeypatch.setattr(DetectorRunner, "run", lambda self, images: (ran.append(len(images)), real(self, images))[1])
    ran.clear()
    assert dyndet_pair(place, tmp_path / "out", *options) in (0, 9)
    bulk = [one for one in ran if one > 1]  # the router's time is measured on single pictures
    assert sum(bulk) == 2 * 60 - before
    report = json.loads((tmp_path / "out" / "pair.json").read_text())
    assert report["measure"] == "agreement"
    assert " AP" not in report["verdict"]["sentence"]


@pytest.mark.parametrize(
    ("names", "options", "sentence"),
    [
        (("large", "small"), ("--latency", "small=10ms,large=1ms"), "give them in the other order"),
        (("blind", "large"), ("--latency", LATENCIES), "finds nothing in any of the 60 pictures"),
        (("wrong", "large"), ("--latency", LATENCIES), "wrong.yaml names the output 'nowhere'"),
        (("small", "other"), ("--latency", LATENCIES), "no class in common"),
        (("small", "small"), ("--latency", LATENCIES), "given twice"),
        (("small", "large"), ("--latency", "small=1ms"), "lacks large"),
        (("small", "large"), ("--latency", "small=1ms,large=fast"), "--latency takes"),
        (("small", "large"), ("--latency", f"{LATENCIES},huge=3ms"), "names huge"),
        (("small", "large"), ("--latency", LATENCIES, "--seed", "-1"), "-1 is not in the range"),
        (("small", "large"), ("--latency", LATENCIES, "--stream", "/dev/null"), "the image folder /dev/null is a file"),
        (("small", "large"), ("--target-accuracy", "good"), "is not an accuracy"),
        (("small", "large"), ("--target-latency", "throughput:9/s"), "depends on instances"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    place: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    names: tuple[str, str],
    options: tuple[str, ...],
    sentence: str,
) -> None:
    data = ("--data", f"{place / 'data'}")
    assert dyndet_pair(place, tmp_path / "out", *data, *options, small=names[0], large=names[1]) == 2
    assert sentence in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("latency", "sentence"),
    [("small=10ms,large=1ms", "give them in the other order\n"), ("small=1ms", "--latency lacks large")],
)
def test_export_goes_by_the_latencies_of_another_machine(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], latency: str, sentence: str
) -> None:
    words = ["export", "-o", str(tmp_path / "out"), "--images", f"{place / 'data'}/images", "--latency", latency]
    pair = [word for name in ("small", "large") for word in (f"--{name}", f"{place / name}.onnx")]
    specs = [word for name in ("small", "large") for word in (f"--{name}-spec", f"{place / name}.yaml")]
    assert run(dyndet, [*words, *pair, *specs]) == 2
    assert sentence in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pictures_are_asked_for(place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert dyndet_pair(place, tmp_path / "out", "--latency", LATENCIES) == 2
    assert "--images" in capfd.readouterr().err
