"""NVIDIA's own parser and builder take every stage, without a GPU (TensorRT-RTX builds for GPUs that are named)."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from dynamicdet.errors import DyndetError, InputError, MissingExtraError, ParityError
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import STAGES, Stage, Tensor, file_sha256, read_bundle
from dyndet_builder.bundle.precision import graph_shares
from dyndet_builder.cli import dyndet, run
from dyndet_builder.engines.create import EngineOptions, engines
from dyndet_builder.engines.record import FILE_NAME, Engines, read_engines
from dyndet_builder.engines.tensorrt import build_stage
from dyndet_builder.repository.render import RenderOptions, render

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="the extra `tensorrt-rtx` installs it")

GPUS = ("8.6", "8.9", "12.0")
RTX = "tensorrt_rtx_bindings"


@pytest.fixture(scope="module")
def half_engines(half_bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines of the half-precision bundle for three GPUs."""
    folder = tmp_path_factory.mktemp("engines") / "half"
    options = EngineOptions(compute_capabilities=GPUS, max_batch=6, preferred_batches=(2, 4), workspace_mib=512)
    steps: list[tuple[str, int, int]] = []
    engines(half_bundle_folder, folder, options, builder=RTX, progress=lambda *step: steps.append(step))
    assert {name for name, _, _ in steps} == {f"build {stage}" for stage in STAGES}
    assert max(done for _, done, _ in steps) > 50, "TensorRT tells its progress"
    assert all(done <= of for _, done, of in steps)
    return folder


def test_engines_have_the_graphs_precision_and_are_recorded(half_engines: Path, half_bundle_folder: Path) -> None:
    bundle = read_bundle(half_bundle_folder)
    record = read_engines(half_engines, bundle)
    assert (record.gpu, record.compute_capabilities) == (None, GPUS)
    assert record.tensorrt_version == trt.__version__
    for stage in STAGES:
        engine = record.stages[stage]
        assert engine.half_share > 0.9, "all but the router and the suppression"
        assert engine.evidence == "typed network"
        weights = sum(
            len(tensor.raw_data)
            for tensor in onnx.load(half_bundle_folder / bundle.stages[stage].file).graph.initializer
        )
        assert engine.size_bytes > weights
        for tensor in bundle.stages[stage].inputs:
            shapes = engine.profile[tensor.name]
            assert [each[0] for each in (shapes.min, shapes.opt, shapes.max)] == [1, 4, 6]
            assert shapes.max[1:] == tensor.shape


def test_fp32_engines_are_larger_and_cannot_pass_for_half(
    bundle_folder: Path, half_engines: Path, tmp_path: Path
) -> None:
    """The same path with the fp32 bundle; then the same graphs with a description that says fp16."""
    record = engines(bundle_folder, tmp_path / "full", EngineOptions(compute_capabilities=("8.6",)), builder=RTX)
    half = read_engines(half_engines)
    for stage in STAGES:
        assert record.stages[stage].half_share == 0
        assert half.stages[stage].size_bytes < 0.9 * record.stages[stage].size_bytes
    liar = tmp_path / "liar"
    liar.mkdir()
    for path in bundle_folder.iterdir():
        (liar / path.name).write_bytes(path.read_bytes())
    described = json.loads((liar / BUNDLE_FILE).read_text())
    described["precision"] = "fp16"
    (liar / BUNDLE_FILE).write_text(json.dumps(described))
    with pytest.raises(ParityError, match=r"the graph of backbone1 .* says fp16, but .*0% in half"):
        engines(liar, tmp_path / "none", EngineOptions(compute_capabilities=("8.6",)), builder=RTX)
    assert not (tmp_path / "none").exists()


def test_engines_of_tensorrt_rtx_are_not_served(half_engines: Path, half_bundle_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="TensorRT-RTX, which Triton cannot run"):
        options = RenderOptions(backend="tensorrt", gpus=(0,), max_batch=4, engines=half_engines)
        render(half_bundle_folder, tmp_path / "models", options)


def test_a_changed_plan_and_a_foreign_bundle_are_noticed(
    half_engines: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="was built from another bundle's backbone1"):
        read_engines(half_engines, read_bundle(bundle_folder))
    (tmp_path / FILE_NAME).write_bytes((half_engines / FILE_NAME).read_bytes())
    (tmp_path / "backbone1.plan").write_bytes(b"no engine")
    with pytest.raises(InputError, match=r"backbone1\.plan is missing or not the engine"):
        read_engines(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (EngineOptions(compute_capabilities=("9.9",)), InputError, "no compute capability SM99; it has .*SM86"),
        (EngineOptions(), MissingExtraError, "needs an NVIDIA GPU"),
    ],
)
def test_what_this_tensorrt_cannot_do_is_said(
    options: EngineOptions, error: type[Exception], said: str, bundle_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        engines(bundle_folder, tmp_path / "engines", options, builder=RTX)
    assert not list(tmp_path.iterdir())


def test_stages_of_a_two_stage_detector_are_built_without_a_plugin(half_two_stage_folder: Path, tmp_path: Path) -> None:
    """Layer norms, both suppressions, TopK, and sampling in fp32 between layers in half precision."""
    record = engines(half_two_stage_folder, tmp_path / "rtx", EngineOptions(compute_capabilities=("8.6",)), builder=RTX)
    assert {*record.stages} == {*STAGES}
    assert all(engine.half_share > 0.5 for engine in record.stages.values())


def test_a_graph_it_cannot_build_is_noticed(tmp_path: Path) -> None:
    """uint8 arithmetic, which our graphs avoid by casting first, is refused; so is junk, which parses."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 8, 8, 3])
    turned = helper.make_tensor_value_info("turned", TensorProto.UINT8, ["batch", 3, 8, 8])
    node = helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2])
    model = helper.make_model(
        helper.make_graph([node], "g", [image], [turned]), opset_imports=[helper.make_opsetid("", 18)]
    )
    path = tmp_path / "transpose.onnx"
    onnx.save(model, path)
    stage = Stage(
        file=path.name,
        sha256=file_sha256(path),
        inputs=(Tensor(name="image", dtype="uint8", shape=(8, 8, 3)),),
        outputs=(Tensor(name="turned", dtype="uint8", shape=(3, 8, 8)),),
    )
    for content in (path.read_bytes(), b"", b"junk"):
        path.write_bytes(content)
        with pytest.raises(DyndetError, match=r"TensorRT.* transpose\.onnx"):
            build_stage(trt, path, stage, EngineOptions(compute_capabilities=("8.6",)), inspect=False)


def test_command_prints_what_was_built(bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["engines", str(bundle_folder), "-o", str(tmp_path / "rtx"), "--builder", "tensorrt-rtx", "--json"]
    assert run(dyndet, [*words, "--compute-capability", "8.9"]) == 0
    record = Engines.model_validate_json(capsys.readouterr().out)
    assert (record.precision, record.builder, record.max_batch) == ("fp32", RTX, 8)
    assert graph_shares(onnx.load(bundle_folder / "head1.onnx")) == {"half": 0, "int8": 0}
