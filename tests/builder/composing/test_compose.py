"""One file that routes itself gives the bits of the bundle's graphs, and runs nothing for a route that nobody takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import FILE_NAME, Tensor, file_sha256, read_bundle
from dyndet_builder.bundle.runner import BundleRunner
from dyndet_builder.bundle.sessions import run_session, session_of
from dyndet_builder.cli import dyndet, run
from dyndet_builder.composing.check import expected
from dyndet_builder.composing.compose import compose
from dyndet_builder.operating_points import OperatingPoint, OperatingPoints, write_operating_points
from tests.support.toy_bundle import FAIL_DETECTOR2, FAIL_HEAD1, NAN, ROWS, image, write_toy_bundle
from tests.support.toy_pair import FIRST_ONE_BY_ONE, TWO_RULES, pair_image, write_toy_pair

Ask = Callable[..., dict[str, Any]]
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "one_file.py"


def _asks(file: Path) -> Ask:
    session = session_of(file)

    def ask(images: list[Any], threshold: Any = None) -> dict[str, Any]:
        tensors = {"image": np.stack(images)}
        if threshold is not None:
            tensors["threshold"] = np.reshape(threshold, (-1, 1)).astype(np.float32)
        return run_session(session, tensors, name="the file")

    return ask


def _same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    assert list(found) == list(wanted)
    return all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="module")
def files(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ask]:
    """A file of each form."""
    folder = tmp_path_factory.mktemp("files")
    found = {}
    for batch in ("one", "any"):
        for routes in ("branches", "rows"):
            path = folder / f"{batch}-{routes}.onnx"
            compose(bundle, path, batch=batch, routes=routes, threshold=0.4)  # type: ignore[arg-type]
            found[batch, routes] = _asks(path)
    return found


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, NAN), st.floats(0, 1, width=32)), min_size=1, max_size=8))
def test_every_form_gives_the_bits_of_the_graphs(
    bundle: Path, files: dict[tuple[str, str], Ask], drawn: list[tuple[int, float]]
) -> None:
    """Any batch, any thresholds, difficulties that are NaN or the threshold itself."""
    runner = BundleRunner(bundle)
    images = [image(red, seed=seed) for seed, (red, _) in enumerate(drawn)]
    thresholds = np.array([[threshold] for _, threshold in drawn], np.float32)
    wanted = expected(runner, np.stack(images), thresholds)
    for routes in ("branches", "rows"):
        assert _same(files["any", routes](images, thresholds), wanted)
        alone = expected(runner, images[0][None], thresholds[:1])
        assert _same(files["one", routes](images[:1], thresholds[:1]), alone)
    hard = [red == NAN or threshold <= 0 or np.float32(red / 255) > threshold for red, threshold in drawn]
    assert [route == 2 for route in wanted["route"].ravel()] == hard, "the rule of a served detector"


def test_nothing_runs_for_a_route_that_nobody_takes(files: dict[tuple[str, str], Ask]) -> None:
    """The toy's detectors fail on command, if they see the image at all."""
    easy, hard = image(100, FAIL_DETECTOR2), image(200, FAIL_HEAD1)
    for (batch, _), ask in files.items():
        assert ask([easy], 0.5)["num_detections"].item() == 1
        assert ask([hard], 0.5)["num_detections"].item() == 2
        for spoilt, threshold in ((easy, 0.0), (hard, 1.0)):
            with pytest.raises(InputError, match="ONNX Runtime cannot run the file"):
                ask([spoilt], threshold)
        if batch == "any":
            assert ask([hard, easy, hard], 0.5)["num_detections"].ravel().tolist() == [2, 1, 2]


def test_a_threshold_is_in_the_file_and_can_be_overridden(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of an operating point, by name or the default one; the file also says what a program needs to know."""
    points = tmp_path / "operating_points.json"
    named = {"fast": OperatingPoint(threshold=0.9), "exact": OperatingPoint(threshold=0.1)}
    write_operating_points(points, OperatingPoints(default="fast", points=named))
    for words, threshold in (([], 0.9), (["--operating-point", "exact"], 0.1)):
        file = tmp_path / "file.onnx"
        given = ["compose", str(bundle), "-o", str(file), "--operating-points", str(points), "--json", *words]
        assert run(dyndet, given) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["threshold"], told["batch"], told["routes"]) == (threshold, "one", "branches")
        ask = _asks(file)
        assert ask([image(128)])["route"].item() == (1 if threshold == 0.9 else 2)
        assert ask([image(128)], 1 - threshold)["route"].item() == (2 if threshold == 0.9 else 1)
    facts = {each.key: each.value for each in onnx.load(file).metadata_props}
    assert json.loads(facts["dyndet_class_names"]) == list(read_bundle(bundle).class_names)
    assert json.loads(facts["dyndet_fit"])["height"] == 32
    assert run(dyndet, ["compose", str(bundle), "-o", str(file), "--operating-points", str(points), "--threshold", "1"])
    assert "exclude each other" in capsys.readouterr().err


def test_more_outputs_of_both_detectors_pass_through(tmp_path: Path) -> None:
    """Such as masks: whatever the easy and the hard route both give is an output of the file."""
    folder = write_toy_bundle(tmp_path / "toy")
    described = json.loads((folder / FILE_NAME).read_text())
    masks = Tensor(name="shapes", dtype="uint8", shape=(ROWS, 4))
    for stage in ("head1", "detector2"):
        path = folder / f"{stage}.onnx"
        model = onnx.load(path)
        model.graph.node.append(helper.make_node("Cast", ["boxes"], ["shapes"], to=onnx.TensorProto.UINT8))
        model.graph.output.append(helper.make_tensor_value_info("shapes", onnx.TensorProto.UINT8, ["batch", ROWS, 4]))
        onnx.save(model, path)
        described["stages"][stage]["outputs"].append(masks.model_dump())
        described["stages"][stage]["sha256"] = file_sha256(path)
    (folder / FILE_NAME).write_text(json.dumps(described))
    for batch in ("one", "any"):
        result = compose(folder, tmp_path / f"{batch}.onnx", batch=batch, compared_images=2)  # type: ignore[arg-type]
        found = _asks(result.path)([image(9)], 0.5)
        assert found["shapes"].shape == (1, ROWS, 4) and found["shapes"].any()


def test_a_pair_is_one_file_too(tmp_path: Path) -> None:
    """Also of two opsets and two rules of fitting. A detector that takes one image at a time allows one form."""
    folder = write_toy_pair(tmp_path / "two", variant=TWO_RULES)
    runner = BundleRunner(folder)
    assert {runner.bundle.opset_of(stage) for stage in runner.bundle.served} == {16, 17}
    fit = runner.bundle.fit
    images = [pair_image(red, fit=fit, seed=red) for red in (40, NAN, 220)]
    for routes in ("branches", "rows"):
        file = compose(folder, tmp_path / "two.onnx", batch="any", routes=routes, compared_images=2)  # type: ignore[arg-type]
        assert _same(_asks(file.path)(images, 0.5), expected(runner, np.stack(images), 0.5))
    alone = write_toy_pair(tmp_path / "alone", variant=FIRST_ONE_BY_ONE)
    assert compose(alone, tmp_path / "alone.onnx", compared_images=2).compared_images == 2
    with pytest.raises(InputError, match=r"detector1 of .* takes one image at a time"):
        compose(alone, tmp_path / "none.onnx", batch="any")
    assert not (tmp_path / "none.onnx").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "file.txt"], "must be the name of an ONNX file"),
        (["-o", "file.onnx", "--operating-point", "fast"], "needs the file with the operating points"),
        (["-o", "file.onnx", "--threshold", "1.5"], "from 0 to 1, not 1.5"),
    ],
)
def test_what_cannot_be_is_said(
    words: list[str], said: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(dyndet, ["compose", str(bundle), *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_file_of_the_bundle_is_replaced(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    before = (copy / "head1.onnx").read_bytes()
    assert run(dyndet, ["compose", str(copy), "-o", str(copy / "head1.onnx")]) == 2
    assert "is a file of the bundle itself; name another file" in capsys.readouterr().err
    assert (copy / "head1.onnx").read_bytes() == before
    words = ["export", str(tmp_path / "any.safetensors"), "-o", str(copy), "--single-file", str(copy / "new.onnx")]
    assert run(dyndet, words) == 2  # before the checkpoint is read
    assert "must be outside the bundle, whose folder is written anew" in capsys.readouterr().err


def test_the_example_needs_onnxruntime_and_numpy_alone(bundle: Path, tmp_path: Path) -> None:
    """It prints what the graphs give, in pixels of the picture, for a picture larger than the input."""
    file = compose(bundle, tmp_path / "detector.onnx", compared_images=1).path
    picture = np.repeat(np.repeat(image(100, blue=255), 2, axis=0), 2, axis=1)  # (64, 64, 3)
    picture[:2, :2] = 100, 0, 255
    ppm = tmp_path / "picture.ppm"
    ppm.write_bytes(b"P6\n64 64\n255\n" + picture.tobytes())
    np.save(tmp_path / "picture.npy", picture)
    code = (
        "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__');"
        "print({name.partition('.')[0] for name in sys.modules} & {'dynamicdet', 'dyndet_builder', 'PIL', 'onnx'})"
    )

    def said(*words: object) -> list[str]:
        command = [sys.executable, "-c", code, *map(str, (EXAMPLE, file, *words))]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    runner = BundleRunner(bundle)
    wanted = expected(runner, image(100, blue=255)[None], 1.0)
    easy = said(ppm)
    assert easy[-1] == "set()" and easy[-2] == f"easy, difficulty {100 / 255:.3f}"
    name, score, *_corners = easy[0].split()
    assert (name, score) == (runner.bundle.class_names[wanted["classes"][0, 0]], "1.00")
    assert said(tmp_path / "picture.npy", "--threshold", "0.2")[-2].startswith("hard")

    ppm.write_bytes(b"P6\n64 64\n255\n" + picture.tobytes()[:100])
    for pair, reason in (((file, ppm), "cannot be read"), ((bundle / "head1.onnx", ppm), "is not a file that `dyndet")):
        answer = subprocess.run([sys.executable, EXAMPLE, *pair], capture_output=True, text=True, check=False)
        assert answer.returncode == 1 and reason in answer.stderr and "Traceback" not in answer.stderr


@pytest.mark.parametrize("form", ["one", "any"])
def test_the_demo_model_gives_the_same_bits(form: str, bundle_folder: Path, demo_images: Path, tmp_path: Path) -> None:
    """Its graphs have loops and layouts that the toy's have not; each image goes both ways, and batches are mixed."""
    output = tmp_path / "demo.onnx"
    result = compose(bundle_folder, output, batch=form, images=demo_images, compared_images=6)  # type: ignore[arg-type]
    stages = sum((bundle_folder / stage.file).stat().st_size for stage in read_bundle(bundle_folder).stages.values())
    assert result.size_bytes < 1.05 * stages


def test_half_precision_gives_the_same_bits(half_bundle_folder: Path, demo_images: Path, tmp_path: Path) -> None:
    """With rows, and without optimisations of the layout also with branches."""
    for routes in (None, "branches"):
        output = tmp_path / "half.onnx"
        result = compose(half_bundle_folder, output, routes=routes, images=demo_images, compared_images=2)  # type: ignore[arg-type]
        assert result.routes == (routes or "rows")
