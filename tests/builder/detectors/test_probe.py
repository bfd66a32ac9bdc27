"""A probe finds how a detector takes pictures, says so where pictures cannot tell, and never chooses in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from dynamicdet.errors import InputError
from dyndet_builder.cli import dyndet
from dyndet_builder.detectors.probe import probe
from tests.support.foreign.core import CLASS_NAMES
from tests.support.foreign.recipes import Recipe
from tests.support.foreign.write import write_detector

SMALL = (128, 128)


@pytest.fixture(scope="module")
def wide(demo_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of 320 x 240 pixels."""
    folder = tmp_path_factory.mktemp("wide")
    for file in sorted(demo_images.iterdir()):
        with Image.open(file) as picture:
            if picture.size == (320, 240):
                (folder / file.name).symlink_to(file)
    return folder


def test_labels_show_colours_and_scale(demo_images: Path, tmp_path: Path) -> None:
    recipe = Recipe(size=SMALL, colour="BGR", divide_by=1.0)
    spec = write_detector(tmp_path / "a.onnx", "easy", "rows", recipe)
    found = probe(tmp_path / "a.onnx", spec, data=demo_images.parent, vary=("colour", "scale"), pictures=20)
    assert found.ranking.measure == "AP"
    assert found.spec is not None
    assert (found.spec.input.colour, found.spec.input.divide_by) == ("BGR", 1)
    assert len(found.ranking.rows) == 6
    assert found.ranking.rows[1].behind > 5
    assert found.sentences[0].startswith("Proposed: BGR, 0..255")


def test_scores_show_a_detector_that_was_made_for_stretched_pictures(wide: Path, tmp_path: Path) -> None:
    recipe = Recipe(size=SMALL, resize="stretch", undo=(0.75, 1))
    spec = write_detector(tmp_path / "a.onnx", "hard", "rows", recipe)
    found = probe(tmp_path / "a.onnx", spec, images=wide, vary=("resize",), sheet=tmp_path / "sheet.png")
    assert found.ranking.rows[0].variant.rule == "stretch"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 300


def test_grey_pictures_cannot_tell_the_order_of_the_colours(demo_images: Path, tmp_path: Path) -> None:
    grey = tmp_path / "grey"
    grey.mkdir()
    for file in sorted(demo_images.iterdir())[:12]:
        Image.open(file).convert("L").save(grey / f"{file.stem}.png")
    spec = write_detector(tmp_path / "a.onnx", "easy", "rows", Recipe(size=SMALL))
    found = probe(tmp_path / "a.onnx", spec, images=grey, vary=("colour", "scale"))
    assert found.spec is None
    assert found.ranking.open_fields == ("colour",)
    assert "cannot tell BGR from RGB: say which it is with --colour" in found.sentences[0]


def test_the_command_writes_what_the_probe_made_clear(demo_images: Path, tmp_path: Path) -> None:
    write_detector(tmp_path / "a.onnx", "easy", "yolox-raw", Recipe(size=SMALL, colour="BGR", divide_by=1.0))
    (tmp_path / "classes.txt").write_text("\n".join(CLASS_NAMES))
    common = ["inspect", str(tmp_path / "a.onnx"), "--classes", str(tmp_path / "classes.txt"), "--probe"]
    common += ["--family", "yolox-raw", "--data", str(demo_images.parent), "--pictures", "20"]
    common += ["--sheet", str(tmp_path / "sheet.png"), "-o", str(tmp_path / "a.yaml")]

    known = CliRunner().invoke(dyndet, [*common, "--resize", "letterbox", "--json"], catch_exceptions=False)
    assert known.exit_code == 0, known.output
    assert json.loads(known.stdout)["probe"]["clear"]
    written = yaml.safe_load((tmp_path / "a.yaml").read_text())["input"]
    assert (written["colour"], written["divide_by"], written["resize"]) == ("BGR", 1, "letterbox")


def test_a_probe_needs_pictures(tmp_path: Path) -> None:
    spec = write_detector(tmp_path / "a.onnx", "easy", "rows", Recipe(size=SMALL))
    with pytest.raises(InputError, match="needs pictures"):
        probe(tmp_path / "a.onnx", spec)
