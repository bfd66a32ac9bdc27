"""Static detectors: one backbone, neck and head, in the same files and with the same strictness as dynamic ones."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import dynamicdet
from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.networks.architectures import STATIC_ARCHITECTURES
from dynamicdet.networks.info import info
from dyndet_builder.cli import dyndet, run


def test_their_sizes_lie_between_detector_1_alone_and_the_whole() -> None:
    whole = info("dy-yolov7-pico", num_classes=20)
    costs = [info(name, num_classes=20).easy_gflops for name in STATIC_ARCHITECTURES]
    assert costs == sorted(costs)
    assert 0.97 < costs[0] / whole.easy_gflops <= 1, "detector 1 without its router"
    assert 0.97 < costs[-1] / whole.hard_gflops < 1.03
    assert all(later > 1.2 * one for one, later in pairwise(costs))


def test_a_saved_one_comes_back_whole_and_fused(small_static: str, tmp_path: Path) -> None:
    path, x = tmp_path / "own.safetensors", torch.rand(2, 3, 64, 64)
    torch.manual_seed(0)
    made = dynamicdet.create_static(small_static, 2, ("disc", "square"))
    dynamicdet.save(made, path)
    loaded = dynamicdet.load_static(path)
    assert (loaded.spec.name, loaded.class_names, loaded.input_size) == (small_static, ("disc", "square"), 64)
    rows = made.eval()(x)
    assert rows.shape == (2, 3 * (8 * 8 + 4 * 4 + 2 * 2), 7)
    assert torch.equal(loaded(x), rows)
    assert torch.allclose(loaded.deploy()(x), rows, atol=1e-4)


def test_the_small_one_is_detector_1_weight_for_weight() -> None:
    with torch.device("meta"):
        whole, small = dynamicdet.create("dy-yolov7-pico", 3), dynamicdet.create_static("yolov7-pico-s", 3)
    shapes = {name: weight.shape for name, weight in whole.state_dict().items()}
    assert all(shapes[name] == weight.shape for name, weight in small.state_dict().items())


def test_neither_kind_passes_for_the_other(small_static: str, small_network: str, tmp_path: Path) -> None:
    static, dynamic = tmp_path / "static.safetensors", tmp_path / "dynamic.safetensors"
    dynamicdet.save(dynamicdet.create_static(small_static, 2), static)
    dynamicdet.save(dynamicdet.create(small_network, 2), dynamic)
    with pytest.raises(CheckpointError, match=r"static.safetensors holds small-static, a static detector without a r"):
        dynamicdet.load(static)
    with pytest.raises(CheckpointError, match="holds small, a dynamic detector, not a static one"):
        dynamicdet.load_static(dynamic)
    with pytest.raises(InputError, match="small-static is a static detector, without a router; dynamic ones are dy-"):
        dynamicdet.create(small_static)
    with pytest.raises(InputError, match="small is a dynamic detector; static ones are yolov7-pico-s, "):
        dynamicdet.create_static(small_network)


@pytest.mark.parametrize(
    "words",
    [
        "train router STATIC FOLDER",
        "build --checkpoint STATIC --target-latency 50% --images IMAGES -o FOLDER/repository",
        "evaluate STATIC --data FOLDER --hard-share 0.5",
    ],
)
def test_commands_that_need_a_router_refuse_one_in_one_sentence(
    words: str, small_static: str, demo_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.safetensors"
    dynamicdet.save(dynamicdet.create_static(small_static, 2), path)
    named = {"STATIC": path, "FOLDER": tmp_path, "IMAGES": demo_images}
    for name, value in named.items():
        words = words.replace(name, str(value))
    assert run(dyndet, words.split()) == 2
    said = capsys.readouterr().err
    assert "static detector" in said.replace("\n", " ")
    assert "Traceback" not in said
    assert [file.name for file in tmp_path.iterdir()] == ["own.safetensors"]


def test_info_shows_one_cost(small_static: str) -> None:
    result = CliRunner().invoke(dyndet, ["info", small_static, "--json"], catch_exceptions=False)
    printed = json.loads(result.output)
    assert printed["kind"] == "static"
    assert printed["gflops"]["easy"] == printed["gflops"]["hard"] > 0
    assert printed["features"] == []
