"""`dyndet evaluate` on bundles of pairs: boxes in the original pictures by every rule of fitting, and what is noted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dynamicdet.datasets.dataset import read_dataset
from dynamicdet.errors import InputError
from dynamicdet.routing.routes import check_contract
from dyndet_builder.evaluation.evaluate import evaluate
from dyndet_builder.evaluation.sources import BundleSource
from tests.support.small_data import write_small_data
from tests.support.toy_pair import CLASSES, NOT_SQUARE, STRETCH, TWO_RULES, Variant, pair_box, write_toy_pair


@pytest.fixture(scope="module")
def data(demo_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of the demo; the classes of their objects do not matter here."""
    folder = write_small_data(tmp_path_factory.mktemp("data") / "small", demo_images, CLASSES, count=3)
    content = json.loads((folder / "annotations.json").read_text())
    for one in content["annotations"]:
        one["category_id"] = 1 + one["category_id"] % len(CLASSES)
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("variant", [STRETCH, NOT_SQUARE], ids=["stretched", "not square"])
def test_boxes_of_a_pair_are_in_the_original_pictures(variant: Variant, data: Path, tmp_path: Path) -> None:
    folder = write_toy_pair(tmp_path / "pair", variant=variant)
    source = BundleSource(folder)
    assert (source.fit, source.class_names, source.notes) == (variant.second, CLASSES, ())
    truth = read_dataset(data, source.fit)
    found = source.run(truth)
    for answers, second in ((found.easy, False), (found.hard, True)):
        for image, placement, answer in zip(truth.images, truth.placements, answers, strict=True):
            expected = placement.to_original([pair_box(float(image.mean()), source.fit, second=second)])
            np.testing.assert_allclose(answer.boxes[:1], expected, atol=0.1)
            assert len(answer.scores) == (2 if second else 1)


def test_a_pair_of_two_rules_is_evaluated_by_that_of_detector_2_and_says_so(data: Path, tmp_path: Path) -> None:
    folder = write_toy_pair(tmp_path / "pair", variant=TWO_RULES)
    report = evaluate(folder, data=data, hard_shares=(0.5,), cache=tmp_path, random_draws=1)
    assert BundleSource(folder).fit == TWO_RULES.second
    assert "images fitted for detector 2 (32 x 32 pixels, stretched, linear filter)" in report.notes[0]
    assert len(report.evaluation.curve) == 21 and report.evaluation.images == 3
    assert evaluate(folder, data=data, hard_shares=(0.5,), cache=tmp_path, random_draws=1).from_cache


def test_data_that_were_read_by_another_rule_are_refused(data: Path) -> None:
    read = read_dataset(data, NOT_SQUARE.first)
    with pytest.raises(InputError, match="of 32 x 32 pixels, stretched, linear filter, but the data set was read"):
        check_contract("the bundle", read.class_names, STRETCH.first, read)
    with pytest.raises(InputError, match="networks that are trained here take letterboxed squares"):
        _ = read.size
