"""The published costs come out, and `dyndet info` says them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import dynamicdet
from dynamicdet.errors import InputError
from dynamicdet.networks.info import info
from dyndet_builder.cli.info import command

# GFLOPs at a share of hard images, as in the paper's table of trade-offs.
PAPER = {
    "dy-yolov7": {0.1: 112.4, 0.5: 143.2, 0.9: 174.0, 1.0: 181.7},
    "dy-yolov7-x": {0.1: 201.7, 0.5: 248.9, 0.9: 296.1, 1.0: 307.9},
    "dy-yolov7-w6": {0.1: 384.2, 0.5: 480.8, 0.9: 577.4, 1.0: 601.6},
}


@pytest.mark.parametrize("name", PAPER)
def test_gflops_are_the_papers_within_half_a_percent(name: str) -> None:
    result = info(name)
    found = {share: result.gflops_at(share) for share in PAPER[name]}
    assert found == pytest.approx(PAPER[name], rel=0.005)


def test_pico_keeps_its_budget_and_its_hand_over_is_small() -> None:
    result = info("dy-yolov7-pico", num_classes=12)
    assert result.parameters <= 3_000_000
    assert result.input_size == 320
    assert 1.6 <= result.hard_gflops / result.easy_gflops <= 2.2
    assert result.crossing_bytes("detector2") == result.crossing_bytes("head1") < 1e6


def test_features_that_cross_stages_have_shapes_and_readers() -> None:
    by_name = {feature.name: feature for feature in info("dy-yolov7-w6").features}
    assert by_name["features_2"].read_by == ("router",)  # the stem is seen by this network's router alone
    assert by_name["features_4"].read_by == ("router", "detector2")
    assert by_name["features_64"].shape == (1024, 20, 20)
    assert by_name["features_64"].bytes == 4 * 1024 * 20 * 20
    assert by_name["features_64"].read_by == ("router", "head1", "detector2")


def test_a_checkpoint_says_its_own_classes_and_size(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    dynamicdet.save(dynamicdet.create("dy-yolov7-pico", 3, ("a", "b", "c"), input_size=256), path)
    printed = json.loads(CliRunner().invoke(command, [str(path), "--json"], catch_exceptions=False).output)
    assert (printed["architecture"], printed["num_classes"], printed["input_size"]) == ("dy-yolov7-pico", 3, 256)
    assert printed["parameters"] > 0
    assert printed["gflops"]["hard"] > printed["gflops"]["easy"] > 0


def test_the_table_shows_both_routes_and_every_feature() -> None:
    output = CliRunner().invoke(command, ["dy-yolov7-pico"], catch_exceptions=False).output
    for text in ("easy route", "hard route", "features_32", "192 x 10 x 10", "backbone1 -> detector2"):
        assert text in output


def test_what_is_neither_name_nor_file_lists_the_known_names() -> None:
    with pytest.raises(InputError, match="known networks are dy-yolov7, dy-yolov7-x"):
        info("dy-yolov8")


def test_an_input_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="positive multiple of 32"):
        info("dy-yolov7", input_size=650)
