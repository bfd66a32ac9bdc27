"""Bundles of pairs, and bundles of schema version 1: what reads a bundle reads them, too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import FILE_NAME, OWN, file_sha256, read_bundle, read_manifest
from dyndet_builder.bundle.runner import BundleRunner
from dyndet_builder.cli import dyndet, run
from dyndet_builder.engines.create import EngineOptions, trtexec_lines, write_engines_script
from dyndet_builder.engines.options import profile_of
from dyndet_builder.engines.record import read_engines
from dyndet_builder.quantization.quantize import quantize
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered
from tests.support.toy_bundle import write_toy_bundle
from tests.support.toy_engines import write_toy_engines
from tests.support.toy_pair import (
    FIRST_ONE_BY_ONE,
    SAME_RULE,
    SECOND_ONE_BY_ONE,
    SMALL,
    TWO_RULES,
    Variant,
    pair_image,
    write_toy_pair,
)


@pytest.mark.parametrize("variant", [SAME_RULE, TWO_RULES, FIRST_ONE_BY_ONE, SECOND_ONE_BY_ONE])
def test_the_easy_route_is_detector_1_alone_and_the_hard_one_both(variant: Variant, tmp_path: Path) -> None:
    runner = BundleRunner(write_toy_pair(tmp_path / "pair", variant=variant), own=True)
    reds = (51, 102, 204)
    images = np.stack([pair_image(red, blue=red, fit=runner.bundle.fit, seed=red) for red in reds])
    easy, hard = runner.both(images)
    for answer, alone, objects, kind in ((easy, runner.easy, 1, 0), (hard, runner.hard, 2, 1)):
        assert set(answer.detector) == {"num_detections", "boxes", "scores", "classes"}
        np.testing.assert_allclose(answer.difficulty, np.array(reds) / 255, atol=1e-6)
        assert answer.detector["num_detections"].ravel().tolist() == [objects] * 3
        assert (answer.detector["classes"] == kind).all()
        np.testing.assert_allclose(answer.detector["scores"][:, 0], np.array(reds) / 255, atol=1e-6)
        for name, values in alone(images).detector.items():
            np.testing.assert_array_equal(values, answer.detector[name])
    if OWN in runner.bundle.stages:
        own = runner.run(OWN, {"image": np.stack([pair_image(red, fit=SMALL) for red in reds])})
        np.testing.assert_allclose(own["difficulty"][:, 0], np.array(reds) / 255, atol=1e-6)


def test_engines_are_built_for_each_stage_of_a_pair_in_the_batch_that_it_takes(tmp_path: Path) -> None:
    folder = write_toy_pair(tmp_path / "pair", variant=FIRST_ONE_BY_ONE)
    bundle = read_bundle(folder)
    one, many = (profile_of(bundle.stages[name], EngineOptions())["image"] for name in ("detector1", "detector2"))
    assert (one.max[0], many.min[0], many.max[0]) == (1, 1, 8)
    lines = trtexec_lines(folder, tmp_path / "engines")
    assert ["--maxShapes" in line for line in lines] == [False, True]
    script = write_engines_script(folder, tmp_path / "engines", tmp_path / "build.sh").read_text()
    assert "detector1.plan" in script and "detector2.plan" in script and "head1" not in script
    engines = write_toy_engines(tmp_path / "engines", bundle)
    assert set(read_engines(engines, bundle).stages) == {"detector1", "detector2"}
    other = read_bundle(write_toy_pair(tmp_path / "two", variant=TWO_RULES))
    with pytest.raises(InputError, match="the bundle has detector1, detector2, detector1_own; build the engines"):
        read_engines(engines, other)


def test_info_shows_the_stages_and_the_router_of_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = write_toy_pair(tmp_path / "pair", variant=TWO_RULES)
    assert run(dyndet, ["info", str(pair)]) == 0
    said = capsys.readouterr().out
    assert "small.onnx" in said and "large.onnx" in said and "detector1_own" in said
    assert "Router: the free rule 'count'" in said and "The small detector reads pictures of 16 x 16 pixels" in said
    assert run(dyndet, ["info", str(pair), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "pair"
    assert run(dyndet, ["info", str(write_toy_bundle(tmp_path / "dynamic"))]) == 0
    assert "backbone1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop("router"), "it lacks 'router'"),
        (lambda content: content.update(schema_version=1), "a pair needs schema version 2"),
        (lambda content: content["stages"].pop(OWN), "if, and only if, the two detectors fit pictures by different"),
        (lambda content: content["stages"].pop("detector1"), "it lacks stage 'detector1'"),
        (lambda content: content.update(input_size=64), "input_size is 64, but the longer side"),
        (lambda content: content["picture"].update(resize="letterbox"), "fitted as detector 2 reads them"),
        (lambda content: content["picture"].update(height=16), "fitted as detector 2 reads them"),
        (lambda content: _detector(content, "detector2").update(classes=[0, 1, 3]), "maps a class beyond the 3"),
        (lambda content: _detector(content, "detector2").update(classes=[0, 1]), "does not map each of its classes"),
        (lambda content: _detector(content, OWN).update(classes=[2, 1, 0]), "is not the same detector"),
        (lambda content: _detector(content, OWN).update(calibration=[[0.5, 0.1], [0.4, 0.2]]), "must be in order"),
        (lambda content: content["stages"]["detector2"].update(opset=None), "does not say its opset"),
        (lambda content: content["stages"]["detector1"].update(detector=None), "does not describe its detector"),
        (
            lambda content: [content["stages"][stage]["outputs"].pop() for stage in ("detector1", OWN)],
            "has no output 'difficulty'",
        ),
        (lambda content: content.update(kind="dynamic"), "it lacks|are uint8|multiple of 32|part of a pair"),
    ],
)
def test_lies_about_a_pair_that_fit_the_schema_are_refused(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    file = write_toy_pair(tmp_path / "pair", variant=TWO_RULES) / FILE_NAME
    content = json.loads(file.read_bytes())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=said) as refused:
        read_manifest(file)
    assert str(refused.value).isprintable()


def _detector(content: dict[str, Any], stage: str) -> dict[str, Any]:
    detector: dict[str, Any] = content["stages"][stage]["detector"]
    return detector


@pytest.mark.parametrize(("key", "value"), [("opset", 18), ("batch", "one")])
def test_a_graph_of_another_opset_or_batch_than_described_is_refused(key: str, value: object, tmp_path: Path) -> None:
    folder = write_toy_pair(tmp_path / "pair")
    content = json.loads((folder / FILE_NAME).read_bytes())
    content["stages"]["detector1"][key] = value
    (folder / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"detector1\.onnx is not the graph that the bundle describes"):
        read_bundle(folder)


def test_an_own_stage_that_nobody_needs_is_refused(tmp_path: Path) -> None:
    file = write_toy_pair(tmp_path / "pair") / FILE_NAME
    content = json.loads(file.read_bytes())
    content["stages"][OWN] = content["stages"]["detector1"] | {"file": "own.onnx"}
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="if, and only if, the two detectors fit pictures by different rules"):
        read_manifest(file)


def test_half_precision_of_a_makers_tools_is_not_quantized(tmp_path: Path, demo_images: Path) -> None:
    folder = write_toy_pair(tmp_path / "pair")
    content = json.loads((folder / FILE_NAME).read_bytes())
    content["stages"]["detector2"]["precision"] = "fp16"
    (folder / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"detector2 of .* is fp16 by the tools of its maker; an int8 bundle"):
        quantize(folder, tmp_path / "int8", images=demo_images)
    assert not (tmp_path / "int8").exists()


_STORED = Path(__file__).parent / "bundle_of_version_1.json"


def test_a_bundle_of_version_1_is_still_read_and_rendered(tmp_path: Path) -> None:
    """The description is as the program of that version wrote it; the graphs are those of today's toy bundle."""
    folder = write_toy_bundle(tmp_path / "stored")
    content = json.loads(_STORED.read_bytes())
    for stage in content["stages"].values():
        stage["sha256"] = file_sha256(folder / stage["file"])
    (folder / FILE_NAME).write_text(json.dumps(content))
    bundle = read_bundle(folder)
    assert (bundle.schema_version, bundle.kind, bundle.first, bundle.easy) == (1, "dynamic", "backbone1", "head1")
    assert bundle.fit.is_own and bundle.fit.shape == (32, 32, 3)
    repository = render(folder, tmp_path / "models", RenderOptions(encoded=True))
    assert read_rendered(repository).bundle.schema_version == 1
    answer = BundleRunner(folder).hard(np.zeros((1, 32, 32, 3), np.uint8))
    assert answer.detector["num_detections"].tolist() == [[2]]


_PAIR = ["--small", "a.onnx", "--large", "b.onnx"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "x.pt", *_PAIR], "give either a CHECKPOINT, or two detectors with --small and --large"),
        (["export"], "give either a CHECKPOINT, or two detectors with --small and --large"),
        (["export", "--small", "a.onnx"], "--small needs --large"),
        (["export", "x.pt", "--classes", "shared"], "--classes needs --small and --large"),
        (["export", *_PAIR], "--small and --large need --images"),
        (["export", *_PAIR, "--precision", "fp16"], "--precision is for a checkpoint"),
        (["export", *_PAIR, "--classes", "same", "--class-map", "map.yaml"], "--classes and --class-map exclude"),
        (["build", *_PAIR, "--checkpoint", "x.pt"], "give either --checkpoint, or two detectors"),
        (["build", "--data", "val"], "--data needs --small and --large"),
        (["build", *_PAIR, "--images", "photos"], "the small detector a.onnx does not exist"),
    ],
)
def test_a_checkpoint_and_two_detectors_exclude_each_other(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ["--target-latency", "50%"] if words[0] == "build" else []
    assert run(dyndet, [*words, *target, "-o", str(tmp_path / "out")]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
