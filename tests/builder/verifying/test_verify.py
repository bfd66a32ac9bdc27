"""`dyndet verify` without a GPU: what it compares, times and serves, and what it says it did not look at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from dyndet_builder.bundle.manifest import file_sha256, read_bundle
from dyndet_builder.bundle.runner import StageRunner
from dyndet_builder.cli import dyndet, run
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.verifying.comparing import agreement, checks_of
from dyndet_builder.verifying.record import VerifyRecord
from tests.support.toy_bundle import describe_as, image, write_toy_bundle, write_toy_data


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle and a folder of images."""
    folder = tmp_path_factory.mktemp("verify")
    return write_toy_bundle(folder / "bundle"), write_toy_data(folder / "data")


def test_a_bundle_is_timed_and_nothing_is_claimed_about_a_gpu(
    toy: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, data = toy
    words = ["verify", str(bundle), "--images", str(data / "images"), "--no-serve", "--batches", "1,2"]
    assert run(dyndet, [*words, "--repeats", "2", "-o", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert "GPU: none was named" in printed
    record = VerifyRecord.model_validate_json((tmp_path / "report" / "verify.json").read_bytes())
    (cpu,) = record.ways
    assert cpu.name == "CPU"
    assert set(cpu.stages) == {"backbone1", "head1", "detector2"}
    assert set(cpu.routes) == {"easy", "hard"}
    assert all(set(timing.ms) == {1, 2} for timing in (*cpu.stages.values(), *cpu.routes.values()))
    assert record.features_bytes > 0
    assert record.checks == ()
    assert not next(part for part in record.machine if part.name == "TensorRT").present
    text = (tmp_path / "report" / "verify.md").read_text()
    assert "No check could be made" in text
    assert "batch 2" in text


def test_a_repository_is_served_and_its_answers_are_those_of_its_stages(
    toy: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the real server; without a calibration, there are no targets to measure, and the report says so."""
    bundle, data = toy
    repository = render(bundle, tmp_path / "models", RenderOptions(topology="fused"))
    words = ["verify", str(repository), "--images", str(data / "images"), "--batches", "1", "--repeats", "2"]
    assert run(dyndet, [*words, "--rounds", "1", "--max-images", "4", "--json"]) == 0
    record = VerifyRecord.model_validate(json.loads(capsys.readouterr().out))
    (served,) = record.served
    assert served.topology == "fused"
    assert served.agreement is not None
    assert (served.agreement.box_px, served.agreement.difficulty, served.agreement.unmatched_share) == (0, 0, 0)
    assert served.easy_ms is not None
    assert served.easy_over_bare is not None
    assert {check.name for check in record.checks} == {"boxes, served by fused", "routes, served by fused"}
    assert not record.failed
    assert any(line.startswith("targets: the repository has none yet") for line in record.skipped)


def test_stages_that_answer_otherwise_fail_a_check(toy: tuple[Path, Path], tmp_path: Path) -> None:
    """Detector 2 with boxes moved by three pixels, and a router that says the opposite."""
    bundle, _ = toy
    changed = write_toy_bundle(tmp_path / "changed")
    described = read_bundle(changed)
    _replace_output(changed / described.stages["detector2"].file, "boxes", "Add", 3.0)
    _replace_output(changed / described.stages["backbone1"].file, "difficulty", "Sub", 1.0)
    stages = dict(described.stages)
    for name in ("backbone1", "detector2"):
        digest = file_sha256(changed / stages[name].file)
        stages[name] = stages[name].model_copy(update={"sha256": digest})
    describe_as(changed, described.model_copy(update={"stages": stages}))
    files = {name: bundle / stage.file for name, stage in read_bundle(bundle).stages.items()}
    others = {name: changed / stage.file for name, stage in read_bundle(changed).stages.items()}
    images = [image(red, blue=200) for red in (10, 90, 250)]
    found = agreement(StageRunner(files), StageRunner(others), images, {"half": 0.5})
    assert found.box_px == pytest.approx(3, abs=1e-3)
    assert found.flips["half"] == len(images)
    assert [check.passed for check in checks_of("other", found, "fp32")] == [False, False]
    same = agreement(StageRunner(files), StageRunner(files), images, {"half": 0.5})
    assert [check.passed for check in checks_of("same", same, "fp32")] == [True, True]


def _replace_output(path: Path, name: str, operator: str, number: float) -> None:
    """Make an output of a graph the result of a further operator: `Add` a number to it, or `Sub` it from the number."""
    model = onnx.load(path)
    graph = model.graph
    for node in graph.node:
        for place, output in enumerate(node.output):
            if output == name:
                node.output[place] = f"{name}_before"
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(number, np.float32), f"{name}_number"))
    operands = [f"{name}_before", f"{name}_number"]
    graph.node.append(onnx.helper.make_node(operator, operands if operator == "Add" else operands[::-1], [name]))
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engines", "e"], "--engines needs --gpu"),
        (["--no-serve", "--url", "127.0.0.1:1"], "exclude each other"),
        (["--batches", "1,0"], "a batch size must be a whole number from 1 to 1024, not 0"),
        (["--batches", "1,100000"], "from 1 to 1024, not 100000"),
        (["--url", "127.0.0.1:1"], "needs the repository"),
    ],
)
def test_options_that_do_not_fit_are_named(
    words: list[str], said: str, toy: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, data = toy
    assert run(dyndet, ["verify", str(bundle), "--images", str(data / "images"), *words]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error and "time stages" not in error
