"""Rendering: what the configurations say, what is refused, and that the output is whole or untouched."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import model_config_pb2

import dynamicdet
from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import FILE_NAME, Bundle, file_sha256
from dyndet_builder.cli import dyndet, run
from dyndet_builder.operating_points import read_operating_points
from dyndet_builder.repository.encoded import CLIENT_CODE
from dyndet_builder.repository.marker import MARKER_FILE
from dyndet_builder.repository.render import RenderOptions, check_destination, render
from dyndet_builder.repository.rendered import read_rendered, read_repository
from dyndet_builder.server.docker import docker_command
from dyndet_builder.server.triton import DEFAULT_PORTS
from dyndet_client.codec import parse_model
from dyndet_client.errors import NotADetectorError
from tests.support.toy_bundle import SIZE, describe_as, write_toy_bundle

STAGE_MODELS = ("toy_backbone1", "toy_head1", "toy_detector2")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def _config(repository: Path, model: str) -> Any:
    text = (repository / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_public_model_tells_clients_what_they_need(bundle: Path, tmp_path: Path) -> None:
    """Class names with quotes and umlauts, input size and the bundle's hash come back from the parsed configuration."""
    config = _config(render(bundle, tmp_path / "models"), "toy")
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert json.loads(parameters["dyndet_class_names"]) == ["cat", 'quoted "dog"', "Größe"]
    assert parameters["dyndet_input_size"] == str(SIZE)
    assert parameters["dyndet_bundle_sha256"] == file_sha256(bundle / FILE_NAME)
    assert [(each.name, list(each.dims), each.optional) for each in config.input] == [
        ("image", [SIZE, SIZE, 3], False),
        ("threshold", [1], True),
    ]
    assert config.max_batch_size > 0
    assert config.HasField("dynamic_batching")
    assert not config.model_transaction_policy.decoupled


def test_public_models_let_triton_drop_what_was_cancelled_while_it_waited(bundle: Path, tmp_path: Path) -> None:
    """Only with dynamic batching does Triton look. No queue policy: it delays requests (see arrivals.py)."""
    kinds: dict[str, dict[str, Any]] = {
        "bls": {},
        "fused": {"topology": "fused"},
        "merging": {"topology": "fused", "preferred_batches": (4,)},
    }
    preferred = {"bls": [1], "fused": [1], "merging": [4]}
    for kind, options in kinds.items():
        repository = render(bundle, tmp_path / kind, RenderOptions(encoded=True, **options))
        for name in ("toy", "toy_encoded"):
            config = _config(repository, name)
            assert config.HasField("dynamic_batching")
            assert not config.dynamic_batching.HasField("default_queue_policy")
        assert list(_config(repository, "toy").dynamic_batching.preferred_batch_size) == preferred[kind]
        if kind != "bls":
            settings = json.loads((repository / "toy" / "1" / "dyndet.json").read_bytes())
            assert settings["fused"]["merges"] == (kind == "merging")


def test_options_reach_the_stage_configurations(bundle: Path, tmp_path: Path, demo_images: Path) -> None:
    options = RenderOptions(
        name="other",
        backend="onnxruntime",
        instances=2,
        threads=3,
        max_batch=16,
        preferred_batches=(4, 16),
        queue_delay_us=700,
        warmup_image=demo_images,
    )
    repository = render(bundle, tmp_path / "models", options)
    config = _config(repository, "other_detector2")
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 16)
    assert (config.instance_group[0].kind, config.instance_group[0].count) == (2, 2)  # KIND_CPU
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 4, 16]
    for warmup in config.model_warmup:
        pixels = repository / "other_detector2" / "warmup" / warmup.inputs["image"].input_data_file
        assert len(set(pixels.read_bytes())) > 16  # a photograph, not a constant
        assert pixels.stat().st_size == SIZE * SIZE * 3


@pytest.mark.parametrize(("backend", "gpus"), [("python", (0, 1)), ("onnxruntime", (1,)), ("tensorrt", (0,))])
def test_gpu_variants_are_complete_configurations(
    backend: Any, gpus: tuple[int, ...], bundle: Path, tmp_path: Path
) -> None:
    """Half-precision features, GPU ids and the place of a TensorRT plan; Triton's own message reads each one back."""
    half = write_toy_bundle(tmp_path / "half")
    described = (half / FILE_NAME).read_text()
    features = '"name": "features_8",\n          "dtype": "float32"'
    assert features in described
    described = described.replace(features, features.replace("float32", "float16"))
    describe_as(half, Bundle.model_validate_json(described))
    repository = render(half, tmp_path / "models", RenderOptions(backend=backend, gpus=gpus))
    for model in STAGE_MODELS:
        config = _config(repository, model)
        assert config.backend == backend
        assert list(config.instance_group[0].gpus) == list(gpus)
        tensors = {each.name: each.data_type for each in (*config.input, *config.output)}
        assert tensors["features_8"] == model_config_pb2.TYPE_FP16
        assert (repository / model / "1" / "model.onnx").is_file()
        if backend == "tensorrt":
            assert config.default_model_filename == "model.plan"
            note = (repository / model / "1" / "PUT_MODEL_PLAN_HERE.txt").read_text()
            assert "dyndet engines BUNDLE -o ENGINES --max-batch 8\n" in note


def test_cuda_graphs_have_the_batch_sizes_that_come_often(bundle: Path, tmp_path: Path) -> None:
    """One image, the preferred batches and a full batch, each with the shape of every input; none unless asked for."""
    graphs = RenderOptions(backend="tensorrt", gpus=(0,), max_batch=6, preferred_batches=(4,), cuda_graphs=True)
    repository = render(bundle, tmp_path / "models", graphs)
    for model in STAGE_MODELS:
        config = _config(repository, model)
        cuda = config.optimization.cuda
        assert cuda.graphs
        assert [spec.batch_size for spec in cuda.graph_spec] == [1, 4, 6]
        shapes = {each.name: list(each.dims) for each in config.input}
        for spec in cuda.graph_spec:
            assert {name: list(shape.dim) for name, shape in spec.input.items()} == shapes
    assert read_rendered(repository).options.cuda_graphs
    usual = render(bundle, tmp_path / "usual", replace(graphs, cuda_graphs=False))
    assert not any(_config(usual, model).HasField("optimization") for model in STAGE_MODELS)


@pytest.mark.parametrize("accelerator", ["cuda", "tensorrt"])
def test_onnx_runtime_is_told_its_provider(accelerator: Any, bundle: Path, tmp_path: Path) -> None:
    """Engines that TensorRT builds for it are kept, in a volume of the container that the printed command starts."""
    options = RenderOptions(backend="onnxruntime", gpus=(0,), accelerator=accelerator)
    repository = render(bundle, tmp_path / "models", options)
    for model in STAGE_MODELS:
        (found,) = _config(repository, model).optimization.execution_accelerators.gpu_execution_accelerator
        assert found.name == accelerator
        if accelerator == "tensorrt":
            assert found.parameters["precision_mode"] == "FP32"
            assert found.parameters["trt_engine_cache_enable"] == "1"
    command = docker_command(repository, ports=DEFAULT_PORTS)
    assert ("dyndet-engine-cache:/engine-cache" in command) == (accelerator == "tensorrt")


def test_openvino_stages_take_any_batch(bundle: Path, tmp_path: Path, demo_images: Path) -> None:
    """Its backend would pad every request of a batching model to the largest batch: the batch is a plain dimension."""
    options = RenderOptions(
        backend="openvino", instances=2, threads=3, preferred_batches=(4,), warmup_image=demo_images
    )
    repository = render(bundle, tmp_path / "models", options)
    config = _config(repository, "toy_detector2")
    assert (config.backend, config.max_batch_size, config.default_model_filename) == ("openvino", 0, "model.xml")
    assert [list(each.dims) for each in config.input] == [[-1, SIZE, SIZE, 3], [-1, 3, SIZE, SIZE]]
    assert not config.HasField("dynamic_batching")
    assert [list(each.inputs["image"].dims) for each in config.model_warmup] == [[1, SIZE, SIZE, 3]]
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert (parameters["NUM_STREAMS"], parameters["INFERENCE_NUM_THREADS"]) == ("2", "6")
    assert {"model.onnx", "model.xml", "model.bin"} <= {
        path.name for path in (repository / "toy_detector2" / "1").iterdir()
    }
    assert _config(repository, "toy").max_batch_size > 0


def test_rendering_again_replaces_and_starts_uncalibrated(bundle: Path, tmp_path: Path) -> None:
    output = render(bundle, tmp_path / "models", RenderOptions(threshold=0.25))
    points = output / "toy" / "1" / "operating_points.json"
    assert read_operating_points(points).points["uncalibrated"].threshold == 0.25
    (output / "toy" / "stale").write_text("")
    assert render(bundle, output, RenderOptions(topology="fused")) == output
    assert sorted(path.name for path in output.iterdir()) == [MARKER_FILE, "toy"]
    assert not (output / "toy" / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["models"]  # nothing temporary is left


@pytest.mark.parametrize("check", [render, check_destination])
def test_a_damaged_file_of_operating_points_is_not_rendered_away(check: Any, bundle: Path, tmp_path: Path) -> None:
    output = render(bundle, tmp_path / "models")
    points = output / "toy" / "1" / "operating_points.json"
    points.write_text(points.read_text().replace("0.5", "7"))
    before = _files(output)
    with pytest.raises(InputError, match="correct it, or delete the file"):
        check(bundle, output, RenderOptions())
    assert _files(output) == before
    points.unlink()
    check(bundle, output, RenderOptions())


def test_a_folder_of_somebody_else_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="dyndet did not write it"):
        render(bundle, tmp_path)
    assert _files(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_failed_rendering_leaves_the_old_repository_whole(bundle: Path, tmp_path: Path) -> None:
    """A file system that refuses to write, a damaged bundle, a file that is not an image."""
    output = render(bundle, tmp_path / "models")
    before = _files(output)
    with _files_of_at_most(700), pytest.raises(InputError, match="models cannot be written: File too large"):
        render(bundle, output)
    damaged = write_toy_bundle(tmp_path / "damaged")
    (damaged / "head1.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="has changed since it was exported"):
        render(damaged, output)
    with pytest.raises(InputError):
        render(bundle, output, RenderOptions(warmup_image=bundle / FILE_NAME))
    assert _files(output) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "models"]


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_stages_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    folder = write_toy_bundle(tmp_path / "toy")
    described = json.loads((folder / FILE_NAME).read_text())
    described["stages"]["head1"]["inputs"][0]["name"] = "features_99"
    (folder / FILE_NAME).write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"stage head1 reads features_99 float32 .*, which backbone1 does not produce"):
        render(folder, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "../etc"}, "model name"),
        ({"backend": "tensorflow"}, "choose one of python, onnxruntime, tensorrt, openvino"),
        ({"backend": "openvino", "gpus": (0,)}, "runs only on CPUs"),
        ({"accelerator": "tensorrt"}, "belongs to the backend onnxruntime on a GPU"),
        ({"backend": "onnxruntime", "gpus": (0,), "accelerator": "coral"}, "choose one of cuda, tensorrt"),
        ({"engines": Path("engines")}, "only the backend tensorrt runs engines"),
        ({"cuda_graphs": True}, "only the backend tensorrt captures CUDA graphs, not the backend python"),
        ({"backend": "tensorrt", "gpus": (0,), "cuda_graphs": 1}, "cuda_graphs must be true or false, not 1"),
        ({"instances": 0}, "instances must be a whole number from 1 to 1000, not 0"),
        ({"bls_instances": 10**5}, "bls_instances must be a whole number from 1 to 1000, not 100000"),
        ({"threads": 10**5}, "threads must be a whole number from 0 to 1024, not 100000"),
        ({"max_batch": 10**6}, "max_batch must be a whole number from 1 to 1024, not 1000000"),
        ({"queue_delay_us": 10**20}, "queue_delay_us must be a whole number from 0 to 60000000"),
        ({"threads": "2"}, "threads must be a whole number"),
        ({"preferred_batches": (9,)}, "a preferred batch must be a whole number from 1 to 8, not 9"),
        ({"gpus": (2**31,)}, "a GPU's id must be a whole number from 0 to 2147483647"),
        ({"backend": "tensorrt"}, "needs a GPU"),
        ({"gpus": (0, 0)}, "GPU ids"),
        ({"latency_buckets_ms": (5, 2)}, "ascend"),
        ({"threshold": float("nan")}, "threshold"),
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(RenderOptions(), **wrong)


def test_command_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "models"
    words = ["render", str(bundle), str(output), "--preferred-batches", "2,4", "--latency-buckets-ms", "1,2.5"]
    assert run(dyndet, [*words, "--encoded"]) == 0
    assert (output / "toy_encoded" / "1" / "model.py").is_file()
    assert f"dyndet serve {output}" in capsys.readouterr().out
    assert list(_config(output, "toy_head1").dynamic_batching.preferred_batch_size) == [2, 4]
    assert run(dyndet, ["render", str(bundle), str(output), "--preferred-batches", "two"]) == 2
    assert run(dyndet, ["render", str(tmp_path / "nothing"), str(output)]) == 2
    assert "is not a bundle" in capsys.readouterr().err
    assert run(dyndet, ["render", str(output), str(tmp_path / "again")]) == 2
    assert "it is a model repository" in capsys.readouterr().err


@pytest.mark.parametrize("topology", ["bls", "fused"])
def test_variant_for_picture_files_is_whole_in_itself(topology: Any, bundle: Path, tmp_path: Path) -> None:
    """Its contract is the public model's but for the input; the code that decodes and letterboxes is the client's."""
    repository = render(bundle, tmp_path / "models", RenderOptions(topology=topology, encoded=True, bls_instances=3))
    detector, config = _config(repository, "toy"), _config(repository, "toy_encoded")
    assert [(each.name, each.data_type, list(each.dims), each.optional) for each in config.input] == [
        ("image_bytes", model_config_pb2.TYPE_STRING, [1], False),
        ("threshold", model_config_pb2.TYPE_FP32, [1], True),
    ]
    assert list(config.output)[:-1] == list(detector.output)
    assert (config.output[-1].name, list(config.output[-1].dims)) == ("image_size", [2])
    assert (config.max_batch_size, config.instance_group[0].count) == (detector.max_batch_size, 3)
    assert config.parameters["dyndet_class_names"] == detector.parameters["dyndet_class_names"]
    copied = _files(repository / "toy_encoded" / "1" / "dynamicdet")
    for folder in ("", "picture_formats/"):
        assert copied.pop(f"{folder}__pycache__") == b""  # so that Python creates no folder there
    assert sorted(copied) == sorted(CLIENT_CODE)
    for name, content in copied.items():
        assert content == (Path(dynamicdet.__file__).parent / name).read_bytes()
    with pytest.raises(NotADetectorError, match="it has no input image"):
        parse_model(MessageToDict(config, preserving_proto_field_name=True))
    assert not (render(bundle, tmp_path / "models", RenderOptions()) / "toy_encoded").exists()


def test_variant_for_picture_files_needs_memory_of_its_own(bundle: Path, tmp_path: Path) -> None:
    """For files and what it hands to the detector; the detector's own share stays what it was."""
    without = read_repository(render(bundle, tmp_path / "without", RenderOptions())).memory
    needs = read_repository(render(bundle, tmp_path / "with", RenderOptions(encoded=True))).memory
    mib = 1 << 20
    assert without.python_region == mib  # 8 pictures of 32 x 32
    assert needs.python_region == 9 * mib  # 8 files of 1 MiB, and those
    waiting = 4 * 64 * mib  # in the queues of two instances of each public model
    assert needs.shared_memory == 2 * (_instances(tmp_path / "without") + 2) * needs.python_region + waiting


def _instances(repository: Path) -> int:
    return sum(_config(repository, path.name).instance_group[0].count for path in repository.glob("toy*"))
