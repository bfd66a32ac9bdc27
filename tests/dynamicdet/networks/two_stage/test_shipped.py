"""The trained `dy-mask-rcnn-pico` that ships, its annotations, and what its model card says of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from dyndet_builder.cli import dyndet, run

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "benchmarks" / "masks"
CHECKPOINT = FOLDER / "dy-mask-rcnn-pico-cutpaste.safetensors"
VAL = ROOT / "benchmarks" / "demo" / "val"


def test_the_card_is_of_this_file_and_the_file_is_small() -> None:
    content = CHECKPOINT.read_bytes()
    assert len(content) <= 8_000_000
    assert hashlib.sha256(content).hexdigest() in (FOLDER / "MODEL_CARD.md").read_text()


def test_its_annotations_are_those_of_the_demo_and_each_object_has_a_segmentation() -> None:
    with_masks, without = (
        json.loads(path.read_text()) for path in (FOLDER / "annotations.json", VAL / "annotations.json")
    )
    assert with_masks["images"] == without["images"] and with_masks["categories"] == without["categories"]
    for one, other in zip(with_masks["annotations"], without["annotations"], strict=True):
        assert one.pop("segmentation")["counts"]
        assert one == other


def test_detector_2_finds_boxes_and_masks_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the first 30 of the 500 images of its card."""
    content = json.loads((FOLDER / "annotations.json").read_text())
    content["images"] = content["images"][:30]
    chosen = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in chosen]
    (tmp_path / "some.json").write_text(json.dumps(content))
    words = ["evaluate", str(CHECKPOINT), "--data", str(tmp_path / "some.json"), "--images", str(VAL / "images")]
    assert run(dyndet, [*words, "--hard-share", "0.5", "--no-cache", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ap"]["hard"]["ap"] > result["ap"]["easy"]["ap"] > 35
    assert result["mask_ap"]["hard"]["ap"] > result["mask_ap"]["easy"]["ap"] > 35
