"""The command line as a whole: every command answers, errors are one sentence with the right exit status."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dyndet_builder.cli import _COMMANDS, dyndet, run
from dyndet_builder.doctor import _CHECKS
from tests.support.toy_bundle import write_toy_bundle


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(dyndet, [name, "--help"]) == 0
    text = capsys.readouterr().out
    subcommands = "COMMAND" in text
    assert subcommands or "Example" in text
    assert "--debug" in text


def test_a_page_names_the_extra_that_brings_its_toolkit_before_anything_starts(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['nicegui'] = None\n"
        "from dyndet_builder.cli import dyndet, run; sys.exit(run(dyndet, ['try', '--url', '127.0.0.1:1']))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (answer.returncode, answer.stderr.count("\n")) == (4, 1)
    assert "[ui]" in answer.stderr


@pytest.mark.parametrize("text", ["abc", "", "12", "-3ms", "nanms", "infms", "101%", "0ms", "p95:", "12ms,12ms"])
def test_a_target_that_is_none_ends_in_one_sentence(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(dyndet, ["build", "--target-latency", text]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("Error: ")
    assert "\n" not in error
    assert text.partition(",")[0] in error


def test_missing_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.pt"
    assert (
        run(dyndet, ["build", "--target-latency", "50%", "--checkpoint", str(missing), "-o", str(tmp_path / "out")])
        == 2
    )
    assert f"{missing} does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, demo_checkpoint: Path, demo_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    checkpoint, data = str(demo_checkpoint), str(demo_images.parent)
    build = ["build", "--target-latency", "50%", "-o"]
    for words, reason in (
        (["export", checkpoint, "--images", str(demo_images), "-o", str(file / "bundle")], "is a file"),
        ([*build, str(file / "out")], "is a file"),
        ([*build, str(folder)], "holds files that dyndet-build did not write"),
        (["train", "detectors", data, "-o", str(folder)], "is a folder"),
        (["train", "detectors", data, "-o", str(file / "new.safetensors")], "is a file"),
        (["train", "router", checkpoint, data, "-o", str(folder)], "is a folder"),
    ):
        assert run(dyndet, words) == 2, words
        told = capsys.readouterr()
        error = told.err.strip()  # behind the line of a progress bar that never began
        assert error.startswith("Error: ") and reason in error and "\n" not in error
        assert told.out == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "notes.txt"]


def test_a_build_that_fails_at_once_leaves_no_folder(tmp_path: Path, demo_checkpoint: Path) -> None:
    (tmp_path / "empty").mkdir()
    words = ["--checkpoint", str(demo_checkpoint), "--images", str(tmp_path / "empty"), "-o", str(tmp_path / "out")]
    assert run(dyndet, ["build", "--target-latency", "50%", *words]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_numbers_that_cannot_train_are_refused(
    value: str, tmp_path: Path, demo_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--learning-rate", "--class-gain"):
        words = ["train", "detectors", str(demo_images.parent), "-o", str(tmp_path / "new"), option, value]
        assert run(dyndet, words) == 2
        assert "must be a finite number" in capsys.readouterr().err


def test_debug_shows_where_an_error_came_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(dyndet, ["info", str(tmp_path / "none.pt"), "--debug"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last)") and told.splitlines()[-1].startswith("Error: ")


def test_doctor_finds_what_the_tests_run_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(dyndet, ["doctor", "--json"]) == 0
    found = {part["name"]: part for part in json.loads(capsys.readouterr().out)}
    assert found["tritonserver"]["present"] and "2.51" in found["tritonserver"]["detail"]
    assert found["perf_analyzer"]["present"]
    lacking = [part for part in found.values() if not part["present"]]
    assert all(part["remedy"] and not part["needed"] for part in lacking)
    assert re.fullmatch(r"\d+ used of \d+: affinity \d+, (no quota|quota [\d.]+)", found["cores"]["detail"])


def test_doctor_shows_the_other_parts_where_one_cannot_be_looked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> object:
        raise OSError("the driver is gone\x1b[2J")

    monkeypatch.setitem(_CHECKS, "GPU", broken)
    assert run(dyndet, ["doctor", "--json", "--check", "GPU", "--check", "libpython"]) == 4
    gpu, other = json.loads(capsys.readouterr().out)
    assert not gpu["present"] and gpu["detail"].startswith("cannot be checked: the driver is gone") and other["present"]
    assert run(dyndet, ["doctor"]) == 0


def test_doctor_shows_the_whole_command_that_installs_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    from dyndet_builder.cli.doctor import _show
    from dyndet_builder.doctor import Finding

    remedy = f"pip install -c {'folder/' * 20}constraints.txt -e '.[train]'"
    _show([Finding(name=name, present=False, detail="not installed", remedy=remedy) for name in ("train", "all")])
    assert f"\n  train, all  {remedy}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["detect", "PICTURE", "--min-score", "-1"], "--min-score must be"),
        (["detect", "PICTURE", "--operating-point", ""], "--operating-point must be"),
        (["detect", "PICTURE", "--threshold", "7"], "--threshold must be"),
        (["detect", "PICTURE", "--ca-file", "FOLDER"], "--ca-file"),
        (["deploy", "render", "x", "y", "--replicas", "5", "--max-replicas", "3"], "--max-replicas must be at least 5"),
        (["render", "x", "y", "--latency-buckets-ms", "5,2"], "latency buckets must ascend"),
        (["serve", "PICTURE"], "is not a model repository: it is a file"),
        (["info", ""], "NAME, FILE or BUNDLE is empty"),
        (["bench", "sweep", "FOLDER", "--images", "nope"], "the image folder nope does not exist"),
        (["bench", "client", "FOLDER", "--images", "nope", "--model", "m"], "the image folder nope does not exist"),
    ],
)
def test_an_error_names_options_and_what_was_found_before_anything_starts(
    words: list[str],
    said: str,
    demo_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("dyndet_builder.server.triton.TritonServer.start", lambda _self: pytest.fail("it starts"))
    named = {"PICTURE": str(demo_images / "000000.jpg"), "FOLDER": str(tmp_path)}
    assert run(dyndet, [named.get(word, word) for word in words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "next_words"),
    [
        ([], ["serve"]),
        (["--backend", "onnxruntime"], ["serve", "--docker"]),
        (["--backend", "openvino"], ["serve", "--docker"]),
        (["--backend", "tensorrt", "--gpu", "0"], ["engines", "--repository"]),
    ],
)
def test_render_says_a_next_command_that_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], next_words: list[str]
) -> None:
    """The embedded server lacks most backends, and no server loads a repository before it has its engines."""
    bundle, models = write_toy_bundle(tmp_path / "bundle"), tmp_path / "own models"
    assert run(dyndet, ["render", str(bundle), str(models), *options]) == 0
    program, *words = shlex.split(capsys.readouterr().out.rpartition("; next: ")[2])
    assert program == "dyndet" and [word for word in words if "/" not in word] == next_words
    if words != ["serve", str(models)]:  # which would serve until Ctrl-C
        assert run(dyndet, words) == 0
