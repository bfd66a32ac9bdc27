"""Engines without a GPU: the script that builds them, what an engine's own layers tell, and what they are bound to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynamicdet.errors import InputError, MissingExtraError
from dyndet_builder.bundle.manifest import STAGES, read_bundle
from dyndet_builder.cli import dyndet, run
from dyndet_builder.engines.create import EngineOptions, engines, trtexec_lines, write_engines_script
from dyndet_builder.engines.options import profile_of
from dyndet_builder.engines.record import FILE_NAME, Engines, Gpu, Target, check_engines, gpus_here
from dyndet_builder.pins import RELEASES
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.docker import docker_command
from dyndet_builder.server.triton import DEFAULT_PORTS, TritonServer
from dyndet_templates.engines.layers import precision_error, precision_shares, record, version_in
from tests.support.toy_bundle import write_toy_bundle
from tests.support.toy_engines import A10, write_toy_engines


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def test_script_is_sound_and_says_what_is_missing(bundle: Path, tmp_path: Path) -> None:
    options = EngineOptions(
        preferred_batches=(2, 4), workspace_mib=2048, hardware_compatibility="ampere+", version_compatible=True
    )
    script = write_engines_script(bundle, tmp_path / "the engines", tmp_path / "build it.sh", options)
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    command = [checker] if checker else ["bash", "-n"]
    checked = subprocess.run([*command, str(script)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")
    text = script.read_text()
    assert "docker run --rm --gpus all" in text
    assert f"'{tmp_path / 'the engines'}'" in text
    for words in (
        "--optShapes=image:4x32x32x3",
        "--maxShapes=features_8:8x3x32x32",
        "--memPoolSize=workspace:2048",
        "--hardwareCompatibilityLevel=ampere+",
        "--versionCompatible",
    ):
        assert words in text
    answer = subprocess.run(
        ["bash", str(script), str(bundle), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRTEXEC": str(tmp_path / "none")},
    )
    assert (answer.returncode, answer.stderr.count("\n")) == (1, 1)
    assert "no trtexec here" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_command_writes_a_script_where_nothing_can_be_built(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The batches are those of a rendered repository."""
    repository = render(bundle, tmp_path / "models", RenderOptions(max_batch=16, preferred_batches=(12,)))
    output = tmp_path / "engines"
    words = ["engines", str(bundle), "-o", str(output), "--repository", str(repository)]
    assert run(dyndet, [*words, "--script", str(tmp_path / "b.sh")]) == 0
    out = capsys.readouterr().out
    assert out.count("trtexec --stronglyTyped --onnx=") == 3
    assert "--optShapes=image:12x32x32x3 --maxShapes=image:16x32x32x3" in (tmp_path / "b.sh").read_text().replace(
        " \\\n ", ""
    )
    assert trtexec_lines(bundle, output, EngineOptions(max_batch=16, preferred_batches=(12,)))[0] in out
    if not gpus_here():
        assert run(dyndet, words) == 0
        assert output.with_name("engines.sh").is_file()
        with pytest.raises(MissingExtraError, match=r"tensorrt|GPU"):
            engines(bundle, output)


def _layers(kind: str) -> dict[str, Any]:
    """Layer information as TensorRT 10 and 11 write it, of a convolution, a cast and a fused activation."""
    ten = {"half": "Row major linear FP16 format", "int8": "Thirty-two wide channel vectorized row major Int8 format."}
    text = ten.get(kind, "Row major linear FP32")
    tensor = {"Name": "x", "Dimensions": [1, 8, 4, 4], "Format/Datatype": text}
    return {
        "Layers": [
            {
                "Name": "conv",
                "LayerType": "CaskConvolution",
                "ParameterType": "Convolution",
                "Inputs": [tensor],
                "Outputs": [tensor],
                "Weights": {"Type": {"half": "Half", "int8": "Int8"}.get(kind, "Float"), "Count": 64},
                "Bias": {"Type": "Float", "Count": 8},
            },
            {"Name": "cast", "LayerType": "Reformat", "Inputs": [tensor], "Outputs": [{"Format/Datatype": "Half"}]},
            {
                "Name": "fused",
                "LayerType": "gemm",
                "Inputs": [
                    {"Format": "Row major linear", "DataType": {"half": "Half", "int8": "Int8"}.get(kind, "Float")}
                ],
                "Outputs": [{"Format": "Row major linear", "DataType": "Half" if kind == "half" else "Float"}],
            },
        ]
    }


@pytest.mark.parametrize(("kind", "precision"), [("float", "fp32"), ("half", "fp16"), ("int8", "int8")])
def test_layers_tell_the_precision(kind: str, precision: str) -> None:
    shares = precision_shares(_layers(kind))
    assert shares == {"half": float(kind == "half"), "int8": float(kind == "int8")}
    for claimed in ("fp32", "fp16", "int8"):
        assert bool(precision_error(claimed, shares)) == (claimed != precision)
    assert precision_shares({"Layers": ["conv", "cast"]}) is None


def test_script_records_its_engines_and_refuses_fp32_for_half(bundle: Path, tmp_path: Path) -> None:
    """The Python that ends the script, on what trtexec leaves."""
    described = read_bundle(bundle)
    told = {
        "schema_version": 1,
        "bundle": "toy",
        "precision": "fp16",
        "builder": "tensorrt",
        "hardware_compatibility": "none",
        "version_compatible": False,
        "max_batch": 8,
        "opt_batch": 8,
        "stages": {
            name: {
                "file": f"{name}.plan",
                "graph_sha256": stage.sha256,
                "profile": {key: each.model_dump() for key, each in profile_of(stage, EngineOptions()).items()},
            }
            for name, stage in described.stages.items()
        },
    }
    for stage in STAGES:
        (tmp_path / f"{stage}.plan").write_bytes(b"plan")
        (tmp_path / f"{stage}.plan.layers.json").write_text(json.dumps(_layers("half")))
        (tmp_path / f"{stage}.plan.log").write_text("&&&& RUNNING TensorRT.trtexec [TensorRT v101303] [b9] # trtexec")
    record(tmp_path, told, "NVIDIA H100, 80GB, 9.0", [1.0, 2.0, 3.0])
    written = Engines.model_validate_json((tmp_path / FILE_NAME).read_bytes())
    assert written.gpu == Gpu(name="NVIDIA H100, 80GB", compute_capability="9.0")
    assert (written.tensorrt_version, written.stages["detector2"].build_seconds) == ("10.13.3", 3.0)
    (tmp_path / "head1.plan.layers.json").write_text(json.dumps(_layers("float")))
    with pytest.raises(ValueError, match=r"head1\.plan .* says fp16, but .*0% in half"):
        record(tmp_path, told, "NVIDIA H100, 9.0", [1.0, 2.0, 3.0])
    assert version_in("TensorRT v110400") == "11.4.0"
    assert version_in("TensorRT v8601") == ""


def test_rendered_engines_are_checked_before_a_server_starts(bundle: Path, tmp_path: Path) -> None:
    described = read_bundle(bundle)
    built = write_toy_engines(tmp_path / "engines", described, tensorrt_version="11.2.1")
    options = RenderOptions(backend="tensorrt", gpus=(0,), engines=built)
    repository = render(bundle, tmp_path / "models", options)
    assert (repository / "toy_head1" / "1" / "model.plan").read_bytes() == b"plan of head1"
    assert not list(repository.glob("*/1/PUT_MODEL_PLAN_HERE.txt"))
    with pytest.raises(InputError, match="take at most 8 images, but max_batch is 16"):
        render(bundle, repository, replace(options, max_batch=16))
    if not gpus_here():
        with pytest.raises(InputError, match=r"run only on NVIDIA A10 \(compute capability 8\.6\), but .* has no GPU"):
            TritonServer(repository).start()
        assert "tritonserver" in docker_command(repository, ports=DEFAULT_PORTS)[-1]
    with pytest.raises(InputError, match=r"TensorRT 11\.2\.1 and run only with this version, but .* has 11\.1\.0"):
        docker_command(repository, ports=DEFAULT_PORTS, release=RELEASES["26.07"])
    older = render(bundle, tmp_path / "older", replace(options, engines=write_toy_engines(tmp_path / "e10", described)))
    with pytest.raises(InputError, match=r"TensorRT 10\.5\.0\.18 and run only with this version, but .* has 11"):
        docker_command(older, ports=DEFAULT_PORTS)
    bare = render(bundle, tmp_path / "bare", replace(options, engines=None))
    with pytest.raises(InputError, match=r"has no engine model\.plan; build engines with `dyndet engines`"):
        docker_command(bare, ports=DEFAULT_PORTS)


@pytest.mark.parametrize(
    ("changed", "gpu", "tensorrt", "said"),
    [
        ({}, A10, "10.5.0", ""),
        ({}, Gpu(name="NVIDIA L4", compute_capability="8.9"), None, "has NVIDIA L4"),
        ({}, Gpu(name="NVIDIA A40", compute_capability="8.6"), None, "has NVIDIA A40"),
        ({"hardware_compatibility": "same-compute-capability"}, Gpu(name="A40", compute_capability="8.6"), None, ""),
        ({"hardware_compatibility": "ampere+"}, Gpu(name="L4", compute_capability="8.9"), None, ""),
        ({"hardware_compatibility": "ampere+"}, Gpu(name="T4", compute_capability="7.5"), None, "8.0 and later"),
        ({}, A10, "10.6.0", "only with this version"),
        ({"version_compatible": True}, A10, "10.6.0", ""),
        ({"version_compatible": True}, A10, "11.0.0", "only with this major version"),
    ],
)
def test_what_engines_are_bound_to(
    changed: dict[str, Any], gpu: Gpu, tensorrt: str | None, said: str, bundle: Path, tmp_path: Path
) -> None:
    folder = write_toy_engines(tmp_path / "engines", read_bundle(bundle), **changed)
    target = Target(gpus=(gpu,), tensorrt=tensorrt, name="this machine")
    if said:
        with pytest.raises(InputError, match=said):
            check_engines(folder, target)
    else:
        check_engines(folder, target)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_batch": 0}, "max_batch must be from 1 to 1024, not 0"),
        ({"preferred_batches": (9,)}, "preferred batch 9"),
        ({"workspace_mib": 0}, "at least 1 MiB"),
        ({"optimization_level": 6}, "from 0 to 5"),
        ({"hardware_compatibility": "any"}, "choose one of none, ampere"),
        ({"compute_capabilities": ("sm86",)}, "written like 8.6"),
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        EngineOptions(**wrong)
