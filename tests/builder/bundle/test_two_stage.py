"""A two-stage checkpoint becomes a bundle whose graphs are the network, or nothing."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import dynamicdet
from dynamicdet.errors import InputError, ParityError
from dynamicdet.images import read_image
from dynamicdet.letterbox import letterbox
from dynamicdet.networks.two_stage.detector import TwoStageDetector
from dyndet_builder.bundle import export as export_module
from dyndet_builder.bundle.bars import BARS
from dyndet_builder.bundle.export import export
from dyndet_builder.bundle.graphs import Exporter, StageGraph, export_graphs
from dyndet_builder.bundle.manifest import FILE_NAME, STAGES, Nms, StageName, read_bundle
from dyndet_builder.bundle.parts import Parity
from dyndet_builder.bundle.runner import BundleRunner, StageRunner
from dyndet_builder.bundle.stages import at_precision
from dyndet_builder.bundle.two_stage import for_target, settings_of
from dyndet_builder.engines.create import write_engines_script
from dyndet_builder.quantization.quantize import quantize
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.repository.render import render
from tests.support.two_stage.tiny import RESIDUAL, SWIN, known, save_decided

Graphs = dict[StageName, StageGraph]


@pytest.fixture(autouse=True)
def small_architectures() -> Iterator[None]:
    """Checkpoints of the small detectors can be read."""
    with known():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one of residual blocks, with masks."""
    path = tmp_path_factory.mktemp("two_stage") / "small.safetensors"
    save_decided(RESIDUAL, path)
    return path


@pytest.fixture(scope="module")
def known_graphs() -> list[tuple[Graphs, Exporter]]:
    """What `quick` has exported."""
    return []


@pytest.fixture
def quick(known_graphs: list[tuple[Graphs, Exporter]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs with masks, by the faster exporter, once for all tests of what `export` does with them."""

    def once(network: TwoStageDetector, nms: Nms, **_: object) -> tuple[Graphs, Exporter]:
        if not known_graphs:
            known_graphs.append(export_graphs(network, nms, exporter="torchscript"))
        return known_graphs[0]

    monkeypatch.setattr(export_module, "export_graphs", once)


@pytest.mark.usefixtures("quick")
def test_three_stages_with_masks(checkpoint: Path, demo_images: Path, tmp_path: Path) -> None:
    """Names and static shapes of the contract, the form for ONNX Runtime, and answers that are the network's own."""
    bundle = export(checkpoint, tmp_path / "bundle", images=demo_images, parity_images=4)
    assert bundle == read_bundle(tmp_path / "bundle")
    first, head1, detector2 = (bundle.stages[name] for name in STAGES)
    features = {tensor.name for tensor in first.outputs[1:]}
    assert features == {"features_4", "features_8"}
    assert {t.name for t in head1.inputs} == {t.name for t in detector2.inputs} == features, "no image"
    for stage in (head1, detector2):
        assert [(t.name, t.dtype, t.shape) for t in stage.outputs] == [
            ("num_detections", "int32", (1,)),
            ("boxes", "float32", (12, 4)),
            ("scores", "float32", (12,)),
            ("classes", "int32", (12,)),
            ("masks", "uint8", (12, 28, 28)),
        ]
        kinds = {node.op_type for node in onnx.load(tmp_path / "bundle" / stage.file).graph.node}
        assert "RoiAlign" in kinds and not {"GridSample", "NonMaxSuppression", "NonZero"} & kinds
    assert bundle.two_stage is not None and bundle.two_stage.target == "onnxruntime"
    assert (bundle.nms.iou_threshold, bundle.nms.score_floor, bundle.nms.max_detections) == (0.5, 0.05, 12)
    steps = bundle.parity.two_stage if bundle.parity else None
    assert steps is not None and steps.region_box_px <= 0.05 and steps.mask_steps <= 1

    network = dynamicdet.load(checkpoint)
    runner = BundleRunner(tmp_path / "bundle")
    images = np.stack([letterbox(read_image(path), 64).image for path in sorted(demo_images.iterdir())[:3]])
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    found = 0
    for route, answer in (("easy", runner.easy(images)), ("hard", runner.hard(images))):
        own = network.forward_route(x, route)
        for name in ("num_detections", "classes"):
            np.testing.assert_array_equal(answer.detector[name], getattr(own, name).numpy())
        np.testing.assert_allclose(answer.detector["boxes"], own.boxes.numpy(), atol=0.05)
        np.testing.assert_allclose(answer.detector["scores"], own.scores.numpy(), atol=1e-3)
        assert np.abs(answer.detector["masks"].astype(int) - own.masks.numpy().astype(int)).max() <= 1
        found += int(own.num_detections.sum())
    assert found > 6, "the images show whether boxes and masks are right"


@pytest.mark.usefixtures("quick")
def test_an_image_without_objects(checkpoint: Path, demo_images: Path, tmp_path: Path) -> None:
    """Rows that are not used are zero, in a batch with others; features of any size do no harm."""
    export(checkpoint, tmp_path / "bundle", images=demo_images, parity_images=1)
    runner = BundleRunner(tmp_path / "bundle")
    shapes = {tensor.name: tensor.shape for tensor in runner.bundle.stages["head1"].inputs}
    noise = np.random.default_rng(0)
    features = {name: noise.normal(size=(3, *shape)).astype(np.float32) for name, shape in shapes.items()}
    for name in features:
        features[name][1] = 0
        features[name][2] *= 1e3
    for stage in ("head1", "detector2"):
        answer = runner.run(stage, features)
        for index, count in enumerate(answer["num_detections"][:, 0]):
            assert not any(answer[name][index, count:].any() for name in ("boxes", "scores", "classes", "masks"))
        assert np.isfinite(answer["boxes"]).all() and answer["boxes"].min() >= 0 and answer["boxes"].max() <= 64


def test_both_exporters_write_the_same(tmp_path: Path) -> None:
    """torch's current exporter, which is the default, and its older one; one stage, since the current one is slow."""
    save_decided(SWIN, tmp_path / "swin.safetensors")
    network = dynamicdet.load(tmp_path / "swin.safetensors")
    assert isinstance(network, TwoStageDetector)
    nms, _ = settings_of(network, None, "onnxruntime")
    prepared = for_target(at_precision(network, "fp32"), "onnxruntime")
    answers = []
    for exporter in ("dynamo", "torchscript"):
        graphs, used = export_graphs(prepared, nms, exporter=exporter, stages=["head1"])
        assert used == exporter and {*graphs} == {"head1"}
        onnx.save(graphs["head1"].model, tmp_path / f"{exporter}.onnx")
        runner = StageRunner({"head1": tmp_path / f"{exporter}.onnx"})
        noise = np.random.default_rng(0)
        features = {
            value.name: noise.normal(size=(3, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])))
            for value in graphs["head1"].model.graph.input
        }
        answers.append(runner.run("head1", {name: each.astype(np.float32) for name, each in features.items()}))
    assert answers[0]["num_detections"].sum() > 3
    for name, found in answers[0].items():
        np.testing.assert_allclose(found, answers[1][name], atol=1 if name == "masks" else 1e-3, err_msg=name)


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        ("regions.objectness.bias", "region_score is .*proposal_score is"),
        ("regions.deltas.bias", "region_box_px is .*proposal_box_px is"),
        ("box.logits.bias", r"written: score is"),
        ("box.deltas.bias", r"box_px is [^,]*$"),
        ("mask.logits.bias", "mask_steps is"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_each_step_of_parity_sees_what_it_is_for(
    weight: str, said: str, checkpoint: Path, demo_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that moved on its way into a graph is blamed where it is, and nothing is written."""
    original = export_module.export_graphs

    def damaged(network, nms, **options):  # type: ignore[no-untyped-def]
        graphs, used = original(network, nms, **options)
        values = network.get_parameter(f"heads1.{weight}").numpy()
        models = (_moved(graph, values) for graph in (graphs["detector2"].model, graphs["detector2"].probe))
        return {**graphs, "detector2": StageGraph(*models)}, used

    monkeypatch.setattr(export_module, "export_graphs", damaged)
    with pytest.raises(ParityError, match=said):
        export(checkpoint, tmp_path / "bundle", images=demo_images, parity_images=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output", ["num_detections", "classes", "boxes", "proposal_boxes", "proposal_scores"])
@pytest.mark.usefixtures("quick")
def test_another_suppression_is_seen(
    output: str, checkpoint: Path, demo_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leaves either suppression must be exactly what the plain one leaves of the same rows."""
    original = StageRunner.run

    def other(runner, stage, tensors):  # type: ignore[no-untyped-def]
        found = original(runner, stage, tensors)
        if output in found:
            found[output] = found[output] + found[output].dtype.type(1)
        return found

    monkeypatch.setattr(StageRunner, "run", other)
    with pytest.raises(ParityError, match="suppression_differences is"):
        export(checkpoint, tmp_path / "bundle", images=demo_images, parity_images=1)


def _moved(model: onnx.ModelProto, values: Any) -> onnx.ModelProto:
    """The graph with one of its weights, known by its values, changed."""
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in moved.graph.initializer}
    (name,) = (name for name, array in arrays.items() if np.array_equal(array, values))
    (tensor,) = (each for each in moved.graph.initializer if each.name == name)
    other = values + np.linspace(0.1, 0.3, values.size, dtype=np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(other, name))
    return moved


def test_half_precision_keeps_single_where_it_matters(half_two_stage_folder: Path) -> None:
    """Weights are half; layer norms, softmax, coordinates and sampling are not."""
    bundle = read_bundle(half_two_stage_folder)
    assert bundle.precision == "fp16" and bundle.two_stage is not None and bundle.two_stage.target == "tensorrt"
    assert [t.name for t in bundle.stages["detector2"].inputs] == ["tokens", "features_4"]
    kinds = set()
    for name, stage in bundle.stages.items():
        model = onnx.load(half_two_stage_folder / stage.file)
        onnx.checker.check_model(model, full_check=True)
        types = _types_of(model)
        for node in model.graph.node:
            kinds.add(node.op_type)
            read = {types[tensor] for tensor in node.input if tensor}
            if node.op_type in ("LayerNormalization", "Softmax", "GridSample", "TopK"):
                assert onnx.TensorProto.FLOAT16 not in read, f"{node.op_type} of {name}"
            if node.op_type in ("Conv", "Gemm") and "router" not in node.input[1]:
                assert onnx.TensorProto.FLOAT16 in read, node.input[1]
            if node.op_type == "GridSample":
                given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
                assert given == {"mode": b"bilinear", "padding_mode": b"border", "align_corners": 0}
    assert {"LayerNormalization", "Softmax", "GridSample", "AveragePool"} <= kinds and "RoiAlign" not in kinds


def _types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The type of each tensor outside the bodies of loops."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.usefixtures("quick")
def test_what_a_bundle_was_not_exported_for_is_refused(checkpoint: Path, demo_images: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "onnxruntime", images=demo_images, parity_images=1)
    shutil.copytree(tmp_path / "onnxruntime", tmp_path / "tensorrt")
    described = (tmp_path / "tensorrt" / FILE_NAME).read_text()
    (tmp_path / "tensorrt" / FILE_NAME).write_text(described.replace('"onnxruntime",', '"tensorrt",', 1))
    assert read_bundle(tmp_path / "tensorrt").two_stage != read_bundle(tmp_path / "onnxruntime").two_stage
    with pytest.raises(InputError, match=r"exported for tensorrt, but the backend python .* --target onnxruntime"):
        render(tmp_path / "tensorrt", tmp_path / "models", RenderOptions())
    with pytest.raises(InputError, match=r"exported for onnxruntime, but the backend tensorrt .* --target tensorrt"):
        render(tmp_path / "onnxruntime", tmp_path / "models", RenderOptions(backend="tensorrt", gpus=(0,)))
    with pytest.raises(InputError, match=r"RoiAlign, for which TensorRT needs a plugin.* --target tensorrt"):
        write_engines_script(tmp_path / "onnxruntime", tmp_path / "engines", tmp_path / "build.sh")
    render(tmp_path / "onnxruntime", tmp_path / "models", RenderOptions())
    render(tmp_path / "tensorrt", tmp_path / "gpu_models", RenderOptions(backend="tensorrt", gpus=(0,)))
    with pytest.raises(InputError, match="small-two-stage cannot return 60 detections: at most 40"):
        export(checkpoint, tmp_path / "more", images=demo_images, max_detections=60)


@pytest.mark.usefixtures("quick")
def test_int8_leaves_what_gives_boxes_and_scores(checkpoint: Path, demo_images: Path, tmp_path: Path) -> None:
    """The last convolutions of the regions and of the masks stay in fp32, and so does all that reads features."""
    export(checkpoint, tmp_path / "bundle", images=demo_images, parity_images=1)
    bundle = quantize(
        tmp_path / "bundle", tmp_path / "int8", images=demo_images, calibration_images=4, compared_images=2
    )
    assert bundle.two_stage is not None and bundle.quantization is not None
    model = onnx.load(tmp_path / "int8" / "detector2.onnx")
    whole = {node.input[1] for node in model.graph.node if node.op_type == "Conv" and "Dequant" not in node.input[1]}
    assert {name.split(".", 1)[1].rsplit(".", 1)[0] for name in whole} == {
        "heads1.regions.objectness",
        "heads1.regions.deltas",
        "heads1.mask.logits",
    }


def test_bundles_of_other_detectors_have_no_new_keys() -> None:
    """Files that an older reader knows every key of stay so."""
    parity = Parity(images=1, batch_sizes=(1,), box_px=0, score=0, difficulty=0, route_flip_share=0)
    assert "two_stage" not in parity.model_dump() and "two_stage" not in parity.model_dump_json()
    assert dataclasses.asdict(BARS["fp32"])["mask_steps"] == 1
