"""Masks in bundles and repositories: both detectors give them or none does, and a graph apart computes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as pb

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import FILE_NAME, read_bundle, read_manifest
from dyndet_builder.bundle.sessions import session_of
from dyndet_builder.repository.config import BOXES_FILE, MASKS_FILE
from dyndet_builder.repository.graphs.mask_head import apart
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_repository
from tests.support.toy_bundle import FAIL_MASKS, ROWS, image, toy_mask, write_toy_bundle

DETECTIONS = ["num_detections", "boxes", "scores", "classes"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy", masks=True)


def _changed(folder: Path, target: Path, change: Any) -> Path:
    """`bundle.json` of a bundle, changed."""
    content = json.loads((folder / FILE_NAME).read_text())
    change(content["stages"])
    (target / FILE_NAME).write_text(json.dumps(content))
    return target / FILE_NAME


def test_a_bundle_says_whether_it_has_masks(bundle: Path, tmp_path: Path) -> None:
    assert read_bundle(bundle).has_masks
    assert read_bundle(bundle).detection_outputs == (*DETECTIONS, "masks")
    assert not read_bundle(write_toy_bundle(tmp_path / "toy")).has_masks


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stages: stages["head1"]["outputs"].pop(), "only stage detector2 gives 'masks'"),
        (lambda stages: stages["detector2"]["outputs"].pop(), "only stage head1 gives 'masks'"),
        (
            lambda stages: stages["head1"]["outputs"][-1].update(dtype="float32"),
            rf"head1 gives masks float32 \[{ROWS}, 28, 28\] instead of masks uint8",
        ),
        (lambda stages: stages["detector2"]["outputs"][-1].update(shape=[ROWS, 14, 14]), "detector2 gives masks uint8"),
        (
            lambda stages: stages["backbone1"]["outputs"].append(stages["head1"]["outputs"][-1]),
            "stage backbone1 gives 'masks', which only a detector can give",
        ),
    ],
)
def test_masks_that_do_not_fit_are_refused(bundle: Path, tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_manifest(_changed(bundle, tmp_path, change))


@pytest.mark.parametrize(
    ("backend", "gpus"),
    [("python", ()), ("onnxruntime", ()), ("onnxruntime", (0,)), ("tensorrt", (0,)), ("openvino", ())],
)
def test_every_backend_declares_masks(bundle: Path, tmp_path: Path, backend: str, gpus: tuple[int, ...]) -> None:
    """The public model, its variant for image files and both detectors; only that variant says what masks span."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    options = RenderOptions(backend=backend, gpus=gpus, encoded=True, warmup_image=None)
    folder = render(bundle, tmp_path / "models", options)
    found = {
        path.parent.name: {
            tensor.name: (tensor.data_type, [*tensor.dims])
            for tensor in text_format.Parse(path.read_text(), pb.ModelConfig()).output
        }
        for path in folder.glob("*/config.pbtxt")
    }
    dims = [ROWS, 28, 28]
    for name in ("toy", "toy_encoded"):
        assert found[name]["masks"] == (pb.TYPE_UINT8, dims)
    for name in ("toy_head1", "toy_detector2"):
        assert found[name]["masks"] == (pb.TYPE_UINT8, [-1, *dims] if backend == "openvino" else dims)
    assert found["toy_encoded"]["mask_boxes"] == found["toy_encoded"]["boxes"]
    assert "mask_boxes" not in found["toy"] and "masks" not in found["toy_backbone1"]
    is_apart = (folder / "toy_head1" / "1" / MASKS_FILE).exists()
    assert is_apart == (backend == "python")
    assert not (folder / "toy_backbone1" / "1" / MASKS_FILE).exists()


@pytest.mark.parametrize("stage", ["head1", "detector2"])
def test_the_two_graphs_together_are_the_whole_one(bundle: Path, tmp_path: Path, stage: str) -> None:
    """For a batch; and boxes do not fail where only masks fail, so these were not computed."""
    folder = render(bundle, tmp_path / "models", RenderOptions(topology="fused")) / "toy" / "1"
    whole = session_of(folder / f"{stage}.onnx")
    boxes, masks = (session_of(folder / f"{stage}_{name}") for name in (BOXES_FILE, MASKS_FILE))
    features = np.stack([image(red, seed=red) for red in (0, 60, 255)]).transpose(0, 3, 1, 2).astype(np.float32)
    passed = [tensor.name for tensor in masks.get_inputs()]
    names = [tensor.name for tensor in boxes.get_outputs()]
    found = dict(zip(names, boxes.run(None, {"features_8": features}), strict=True)) | {"features_8": features}
    found["masks"] = masks.run(None, {name: found[name] for name in passed})[0]
    expected = dict(
        zip([*DETECTIONS, "masks"], whole.run([*DETECTIONS, "masks"], {"features_8": features}), strict=True)
    )
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    number = 1 if stage == "head1" else 2
    np.testing.assert_array_equal(found["masks"][1, 0], toy_mask(60, detector=number))
    assert "masks" not in names and "green" in passed
    failing = image(60, FAIL_MASKS).transpose(2, 0, 1)[None].astype(np.float32)
    assert boxes.run(["num_detections"], {"features_8": failing})[0].item() == number
    with pytest.raises(Exception, match="indices element out of data bounds"):
        whole.run(["num_detections"], {"features_8": failing})


@pytest.mark.parametrize("topology", ["bls", "fused"])
def test_a_repository_that_lacks_one_of_the_two_graphs_is_refused(bundle: Path, tmp_path: Path, topology: Any) -> None:
    folder = render(bundle, tmp_path / "models", RenderOptions(topology=topology))
    (file,) = [path for path in folder.rglob(f"*{BOXES_FILE}") if "detector2" in str(path.relative_to(folder))]
    file.unlink()
    with pytest.raises(InputError, match=rf"lacks {file.name}; render the repository again"):
        read_repository(folder)


def test_masks_that_boxes_need_as_well_do_not_stand_apart() -> None:
    """And a subgraph that reads a tensor from outside takes it along."""
    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 2])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 2]) for name in ("boxes", "masks")]

    def model(*nodes: onnx.NodeProto) -> onnx.ModelProto:
        graph = helper.make_graph(nodes, "g", [one], outputs)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    assert (
        apart(model(helper.make_node("Relu", ["x"], ["masks"]), helper.make_node("Neg", ["masks"], ["boxes"]))) is None
    )
    branch = helper.make_graph(
        [helper.make_node("Neg", ["inner"], ["out"])], "then", [], [helper.make_empty_tensor_value_info("out")]
    )
    true = helper.make_node("Constant", [], ["true"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    parts = apart(
        model(
            true,
            helper.make_node("Relu", ["x"], ["inner"]),
            helper.make_node("Exp", ["inner"], ["boxes"]),
            helper.make_node("If", ["true"], ["masks"], then_branch=branch, else_branch=branch),
        )
    )
    assert parts is not None
    boxes, masks = (session_of(part.SerializeToString()) for part in parts)
    x = np.array([[1, -2]], np.float32)
    found = dict(zip(["boxes", "inner"], boxes.run(["boxes", "inner"], {"x": x}), strict=True))
    assert [tensor.name for tensor in masks.get_inputs()] == ["inner"]
    np.testing.assert_array_equal(masks.run(None, {"inner": found["inner"]})[0], [[-1, 0]])
