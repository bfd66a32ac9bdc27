"""int8 with explicit Q/DQ: the pairs are in their places, the graphs run, and their cost is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in
from dyndet_builder.bundle.export import letterboxed
from dyndet_builder.bundle.manifest import STAGES, Bundle, read_bundle
from dyndet_builder.bundle.precision import graph_shares
from dyndet_builder.bundle.runner import BundleRunner
from dyndet_builder.cli import dyndet, run
from dyndet_builder.engines.precision import check_bundle_precision
from dyndet_builder.quantization.quantize import quantize


@pytest.fixture(scope="module")
def int8_folder(bundle_folder: Path, demo_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    quantize(bundle_folder, folder, images=demo_images, calibration_images=8, compared_images=6)
    return folder


def test_convolutions_have_pairs_and_the_router_has_none(int8_folder: Path, bundle_folder: Path) -> None:
    described, before = read_bundle(int8_folder), read_bundle(bundle_folder)
    check_bundle_precision(int8_folder, described)
    with_pairs = total = 0
    for stage in STAGES:
        model = onnx.load(int8_folder / described.stages[stage].file)
        assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}, "standard operators alone"
        assert described.stages[stage].inputs == before.stages[stage].inputs
        assert described.stages[stage].outputs == before.stages[stage].outputs
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        total += len(convolutions)
        with_pairs += round(graph_shares(model)["int8"] * len(convolutions))
        if stage == "backbone1":
            kinds = {node.op_type for node in _router(model)}
            assert "Conv" in kinds and "ReduceMean" in kinds
            assert not kinds & {"QuantizeLinear", "DequantizeLinear"}
        for node in model.graph.node:
            if node.op_type == "QuantizeLinear":
                zero = next(each for each in model.graph.initializer if each.name == node.input[2])
                assert zero.data_type == onnx.TensorProto.INT8
                assert not onnx.numpy_helper.to_array(zero).any(), "TensorRT takes symmetric ranges alone"
    assert described.quantization is not None
    assert (with_pairs, total) == (described.quantization.quantized, described.quantization.convolutions)
    assert total > with_pairs > 0.9 * total


def _router(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that the difficulty depends on, back to the means of the feature maps, with which the router begins."""
    made = {name: node for node in model.graph.node for name in node.output}
    found: list[onnx.NodeProto] = []
    left = ["difficulty"]
    while left:
        node = made.pop(left.pop(), None)
        if node is not None:
            found.append(node)
            left += [] if node.op_type in ("ReduceMean", "ReduceMax", "Shape") else node.input
    return found


def test_graphs_run_and_the_account_is_kept(int8_folder: Path, bundle_folder: Path, demo_images: Path) -> None:
    described = read_bundle(int8_folder)
    account = described.quantization
    assert account is not None and described.precision == "int8"
    assert (account.calibration_images, described.parity.images) == (8, 6)
    images = np.stack(list(letterboxed(pictures_in(demo_images)[3:6], described.fit)))
    old, new = BundleRunner(bundle_folder).hard(images), BundleRunner(int8_folder).hard(images)
    assert np.abs(old.difficulty - new.difficulty).max() < 0.3
    assert np.abs(old.detector["scores"][:, 0] - new.detector["scores"][:, 0]).max() < 0.3
    sizes = [sum(path.stat().st_size for path in folder.glob("*.onnx")) for folder in (bundle_folder, int8_folder)]
    assert sizes[1] < 0.4 * sizes[0]


def test_tensorrt_builds_it(int8_folder: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="the extra `tensorrt-rtx` installs it")
    from dyndet_builder.engines.options import EngineOptions
    from dyndet_builder.engines.tensorrt import build_stage

    stage = read_bundle(int8_folder).stages["head1"]
    options = EngineOptions(compute_capabilities=("8.6",))
    assert build_stage(trt, int8_folder / stage.file, stage, options, inspect=False).shares["int8"] > 0.9


def test_command_prints_the_cost_in_average_precision(
    bundle_folder: Path, demo_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a few of the demo's annotated pictures."""
    pytest.importorskip("pycocotools")
    annotations = json.loads((demo_images.parent / "annotations.json").read_text())
    few = {image["id"] for image in annotations["images"][:20]}
    annotations["images"] = [each for each in annotations["images"] if each["id"] in few]
    annotations["annotations"] = [each for each in annotations["annotations"] if each["image_id"] in few]
    data = tmp_path / "val"
    data.mkdir()
    (data / "annotations.json").write_text(json.dumps(annotations))
    (data / "images").symlink_to(demo_images)
    words = ["quantize", str(bundle_folder), str(tmp_path / "int8"), "--images", str(demo_images), "--data", str(data)]
    assert run(dyndet, [*words, "--calibration-images", "4", "--compared-images", "2", "--json"]) == 0
    printed = Bundle.model_validate_json(capsys.readouterr().out)
    assert printed == read_bundle(tmp_path / "int8")
    assert printed.quantization is not None
    before, after = printed.quantization.ap_before, printed.quantization.ap_after
    assert before is not None and after is not None
    assert before.hard > 10 and abs(before.hard - after.hard) < 5


def test_int8_is_made_of_fp32_alone(int8_folder: Path, demo_images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is int8; an int8 bundle is made from an fp32 bundle"):
        quantize(int8_folder, tmp_path / "again", images=demo_images)
    assert not (tmp_path / "again").exists()
