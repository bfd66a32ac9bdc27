"""A checkpoint becomes a bundle that is right, or nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import dynamicdet
from dynamicdet.errors import CheckpointError, InputError, ParityError
from dynamicdet.images import read_image
from dynamicdet.letterbox import letterbox
from dynamicdet.networks.network import DynamicDetector
from dyndet_builder.bundle import export as export_module
from dyndet_builder.bundle import nms
from dyndet_builder.bundle.export import export
from dyndet_builder.bundle.graphs import Exporter, StageGraph, export_graphs
from dyndet_builder.bundle.manifest import STAGES, Bundle, Nms, StageName, read_bundle
from dyndet_builder.bundle.parity import BARS, Bars, route_flip_share
from dyndet_builder.bundle.runner import BundleRunner
from dyndet_builder.cli import export as cli_export


def _pictures(folder: Path, count: int, size: int) -> np.ndarray:
    return np.stack([letterbox(read_image(path), size).image for path in sorted(folder.iterdir())[:count]])


def test_bundle_describes_its_graphs(bundle_folder: Path) -> None:
    """Names, types and static shapes of the contract, read back from the files themselves."""
    bundle = read_bundle(bundle_folder)
    size = bundle.input_size
    detections = [
        ("num_detections", "int32", (1,)),
        ("boxes", "float32", (100, 4)),
        ("scores", "float32", (100,)),
        ("classes", "int32", (100,)),
    ]
    first, head1, detector2 = (bundle.stages[name] for name in STAGES)
    features = {tensor.name: tensor for tensor in first.outputs[1:]}
    assert [(t.name, t.dtype, t.shape) for t in first.inputs] == [("image", "uint8", (size, size, 3))]
    assert (first.outputs[0].name, first.outputs[0].dtype, first.outputs[0].shape) == ("difficulty", "float32", (1,))
    assert detector2.inputs[0] == first.inputs[0]
    assert {t.name: t for t in (*head1.inputs, *detector2.inputs[1:])} == features
    for stage in (head1, detector2):
        assert [(t.name, t.dtype, t.shape) for t in stage.outputs] == detections
    assert bundle.exporter == "dynamo"
    for name, stage in bundle.stages.items():
        model = onnx.load(bundle_folder / stage.file)
        onnx.checker.check_model(model, full_check=True)
        assert [entry.domain for entry in model.opset_import] == [""], name
        assert all(value.type.tensor_type.shape.dim[0].dim_param == "batch" for value in model.graph.output)
        assert str(Path.cwd()).encode() not in model.SerializeToString(), "a path of this machine is in the file"


def test_parity_is_measured_and_far_below_the_bars(bundle_folder: Path) -> None:
    parity = read_bundle(bundle_folder).parity
    bars = BARS["fp32"]
    assert parity.images >= 30 and parity.batch_sizes == (1, 3)
    assert parity.box_px <= bars.box_px and parity.score <= bars.score and parity.difficulty <= bars.difficulty
    assert parity.route_flip_share == 0 and parity.suppression_differences == 0


@pytest.mark.parametrize("route", ["easy", "hard"])
def test_a_batch_gives_what_its_images_give_alone(bundle_folder: Path, demo_images: Path, route: str) -> None:
    runner = BundleRunner(bundle_folder)
    images = _pictures(demo_images, 5, runner.bundle.input_size)
    run = getattr(runner, route)
    together = run(images)
    for index in range(len(images)):
        alone = run(images[index : index + 1])
        assert abs(alone.difficulty[0] - together.difficulty[index]) < 1e-5
        scores = together.detector["scores"][index]
        np.testing.assert_allclose(alone.detector["scores"][0], scores, atol=1e-5)


def test_half_precision_is_in_the_file(bundle_folder: Path, half_bundle_folder: Path) -> None:
    """Every convolution of both detectors is half; only the router stays in fp32."""
    bundle = read_bundle(half_bundle_folder)
    single = sum((bundle_folder / stage.file).stat().st_size for stage in read_bundle(bundle_folder).stages.values())
    half = sum((half_bundle_folder / stage.file).stat().st_size for stage in bundle.stages.values())
    assert half < 0.6 * single
    for name, stage in bundle.stages.items():
        graph = onnx.load(half_bundle_folder / stage.file).graph
        types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        kinds = Counter(types[node.input[1]] for node in graph.node if node.op_type == "Conv")
        assert kinds.pop(onnx.TensorProto.FLOAT, 0) == (2 if name == "backbone1" else 0), "the router's two layers"
        assert set(kinds) == {onnx.TensorProto.FLOAT16}, name
    assert {t.dtype for t in bundle.stages["backbone1"].outputs[1:]} == {"float16"}
    assert bundle.stages["backbone1"].outputs[0].dtype == "float32"


@pytest.mark.slow
def test_older_exporter_steps_in(
    small_network: str, demo_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a translation of our operator the current exporter fails; the bundle is made all the same and says so."""
    monkeypatch.setattr(nms, "TRANSLATIONS", {})
    checkpoint = tmp_path / "network.safetensors"
    dynamicdet.save(dynamicdet.create(small_network, 3, input_size=320), checkpoint)
    bundle = export(checkpoint, tmp_path / "bundle", images=demo_images, parity_images=3, max_detections=300)
    assert bundle.exporter == "torchscript"
    assert bundle.stages["head1"].outputs[1].shape == (300, 4)
    assert bundle.parity.box_px <= BARS["fp32"].box_px


@pytest.fixture(scope="module")
def known_graphs() -> list[tuple[dict[StageName, StageGraph], Exporter]]:
    """What `quick_graphs` has exported."""
    return []


@pytest.fixture
def quick_graphs(
    known_graphs: list[tuple[dict[StageName, StageGraph], Exporter]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's graphs by the faster exporter, once for all tests of what `export` does with graphs."""

    def once(network: DynamicDetector, nms: Nms, **_: object) -> tuple[dict[StageName, StageGraph], Exporter]:
        if not known_graphs:
            known_graphs.append(export_graphs(network, nms, exporter="torchscript"))
        return known_graphs[0]

    monkeypatch.setattr(export_module, "export_graphs", once)


@pytest.mark.usefixtures("quick_graphs")
def test_over_the_bar_nothing_is_written(demo_checkpoint: Path, demo_images: Path, tmp_path: Path) -> None:
    """The number is named, and the bundle that was there stays."""
    output = tmp_path / "bundle"
    kept = _quick_export(demo_checkpoint, demo_images, output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    strict = Bars(box_px=0.05, score=1e-3, difficulty=-1.0, route_flip_share=0.0, box_from_score=0.001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(export_module.BARS, "fp32", strict)
        with pytest.raises(ParityError, match=r"difficulty is .* \(at most -1\)"):
            _quick_export(demo_checkpoint, demo_images, output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    again = _quick_export(demo_checkpoint, demo_images, output, name="other")
    assert read_bundle(output).name == "other" and again.source == kept.source


@pytest.mark.usefixtures("quick_graphs")
def test_a_graph_of_other_weights_is_refused(
    demo_checkpoint: Path, demo_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parity sees weights of detector 2 that moved on their way into the graph."""
    original = export_module.export_graphs

    def damaged(network, nms, **options):  # type: ignore[no-untyped-def]
        graphs, used = original(network, nms, **options)
        moved = StageGraph(*map(_with_moved_weights, (graphs["detector2"].model, graphs["detector2"].probe)))
        return {**graphs, "detector2": moved}, used

    monkeypatch.setattr(export_module, "export_graphs", damaged)
    with pytest.raises(ParityError, match="score is"):
        # Several images: one with a single large object says nothing about the finest rows.
        _quick_export(demo_checkpoint, demo_images, tmp_path / "bundle", parity_images=6)
    assert not list(tmp_path.iterdir())


def _with_moved_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose finest rows of one anchor are surer that there is an object."""
    moved = onnx.ModelProto()
    moved.CopyFrom(graph)
    (bias,) = (each for each in moved.graph.initializer if each.name.endswith("predict2.predict.0.conv.bias"))
    values = onnx.numpy_helper.to_array(bias).copy()
    values[4] += 0.5
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    return moved


def _quick_export(
    checkpoint: Path, images: Path, output: Path, name: str = "dyndet", *, parity_images: int = 1
) -> Bundle:
    return export(checkpoint, output, images=images, name=name, parity_images=parity_images)


def test_bad_input_gets_one_sentence(demo_checkpoint: Path, demo_images: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(demo_checkpoint.read_bytes()[:1000])
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.jpg").write_bytes(b"")
    output = tmp_path / "bundle"
    with pytest.raises(InputError, match="dyndet did not write it"):
        export(demo_checkpoint, precious, images=demo_images)
    with pytest.raises(InputError, match=r"image folder .*missing does not exist"):
        export(demo_checkpoint, output, images=tmp_path / "missing")
    with pytest.raises(InputError, match="holds no images"):
        export(demo_checkpoint, output, images=precious)
    with pytest.raises(CheckpointError):
        export(damaged, output, images=demo_images)
    with pytest.raises(InputError, match="cannot be the name of a model"):
        export(demo_checkpoint, output, images=demo_images, name="a/b")
    with pytest.raises(InputError, match="detections"):
        export(demo_checkpoint, output, images=demo_images, max_detections=0)
    with pytest.raises(InputError, match=r"a\.jpg"):
        export(demo_checkpoint, output, images=broken, exporter="torchscript")
    assert (precious / "thesis.txt").exists() and not output.exists()


def test_routes_flip_only_where_they_are_defined() -> None:
    expected = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], np.float32)
    assert route_flip_share(expected, expected + 0.04, tie=1e-5) == 0
    swapped = expected.copy()
    swapped[[4, 5]] = swapped[[5, 4]]
    assert route_flip_share(expected, swapped, tie=1e-5) == pytest.approx(2 / 90)  # two images, one of nine thresholds
    assert route_flip_share(np.full(10, 0.5, np.float32), expected, tie=1e-5) == 0  # no threshold can part equals


@pytest.mark.usefixtures("quick_graphs")
def test_command_prints_the_bundle(demo_checkpoint: Path, demo_images: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    words = [str(demo_checkpoint), "-o", str(output), "--images", str(demo_images), "--parity-images", "1", "--json"]
    result = CliRunner().invoke(cli_export.command, words, catch_exceptions=False)
    assert json.loads(result.stdout) == json.loads((output / "bundle.json").read_text())
