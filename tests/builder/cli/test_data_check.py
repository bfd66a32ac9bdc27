"""`dyndet data check`: a table of all faults, one sentence with the most important one, and exit status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from dyndet_builder.cli import dyndet, run
from tests.support.tiny_data import tiny_content, write_tiny_data


def test_all_faults_are_listed_and_the_most_important_one_is_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = tiny_content()
    content["annotations"][0]["bbox"] = None
    content["annotations"][1]["area"] = None
    content["images"][2]["file_name"] = "3\x1b[2J.png"
    folder = write_tiny_data(tmp_path, content)
    Image.new("RGB", (20, 15)).save(folder / "images" / "1.png")
    assert run(dyndet, ["data", "check", str(folder)]) == 2
    printed = capsys.readouterr()
    for words in ("without a field", "cannot be printed", "resized after", "areas that are not"):
        assert words in " ".join(printed.out.split()), words
    assert "\x1b[2J" not in printed.out + printed.err
    assert any(f"{folder / 'images' / '1.png'} has 20 x 15" in line for line in printed.out.splitlines()), "wrapped"
    (error,) = [line for line in printed.err.splitlines() if line.startswith("Error: ")]
    assert "has null as 'bbox'" in error and "`dyndet data check` also lists 2 other kinds of faults" in error

    assert run(dyndet, ["data", "check", str(folder), "--json", "--fast"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert not found["usable"]
    kinds = {finding["kind"]: finding["fatal"] for finding in found["data"][0]["findings"]}
    assert {kind for kind, fatal in kinds.items() if fatal} == {"field", "path", "resized"}


def test_pictures_are_trusted_if_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_data(tmp_path)
    assert run(dyndet, ["data", "check", str(folder)]) == 0
    Image.new("RGB", (20, 15)).save(folder / "images" / "1.png")
    assert run(dyndet, ["data", "check", str(folder)]) == 2
    assert "let --trust-pictures scale the boxes" in capsys.readouterr().err
    assert run(dyndet, ["data", "check", str(folder), "--trust-pictures"]) == 0
    assert "scaled or turned to fit" in " ".join(capsys.readouterr().out.split())
