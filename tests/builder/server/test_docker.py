"""The docker command of a server that waits for its models: what it has, for which GPUs, and what is refused."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

import dynamicdet
from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import Stage, StageName, Tensor, read_bundle
from dyndet_builder.bundle.stages import Backbone1Stage
from dyndet_builder.cli import dyndet, run
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_repository
from dyndet_builder.server.docker import docker_command
from dyndet_builder.server.triton import DEFAULT_PORTS
from tests.support.deployments import installed_by
from tests.support.toy_bundle import describe_as, write_toy_bundle

_ROOT = Path(__file__).parents[3]
_CPU = {"numpy", "onnxruntime", "pillow", "simplejpeg"}
_GPU = {"numpy", "onnxruntime-gpu", "cupy-cuda13x", "pillow", "simplejpeg"}


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of programs: this machine has a GPU if a test puts an nvidia-smi there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder that waits for models."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def _explicit(folder: Path, *gpus: int) -> list[str]:
    return docker_command(folder, ports=DEFAULT_PORTS, model_control="explicit", gpus=gpus)


def _names(command: list[str]) -> set[str]:
    return {package.partition("==")[0] for package in installed_by(command[-1])}


def _sizes(command: list[str]) -> dict[str, int]:
    """MiB of shared memory and pools, by flag and GPU."""
    found = dict(re.findall(r"(--shm-size|--cuda-memory-pool-byte-size=\d+|--pinned\S+?)[=:](\d+)", " ".join(command)))
    return {flag: int(size) if flag == "--shm-size" else int(size) >> 20 for flag, size in found.items()}


def test_an_empty_server_is_for_the_cpu_where_no_gpu_is_named_or_found(empty: Path) -> None:
    command = _explicit(empty)
    assert _names(command) == _CPU
    assert "--gpus" not in command
    assert set(_sizes(command)) == {"--shm-size"}


def test_an_empty_server_is_for_the_gpus_that_are_named(empty: Path) -> None:
    command = _explicit(empty, 1, 0, 1)
    assert _names(command) == _GPU
    assert command[command.index("--gpus") + 1] == "all"
    pools = {f"--cuda-memory-pool-byte-size={gpu}" for gpu in (0, 1)}
    assert set(_sizes(command)) == {"--shm-size", "--pinned-memory-pool-byte-size", *pools}
    assert "dyndet-engine-cache:/engine-cache" in command
    assert "--backend-config=tensorrt,version-compatible=true" in command[-1]


def test_without_a_name_an_empty_server_is_for_all_gpus_of_this_machine(empty: Path, programs: Path) -> None:
    (programs / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA A10, 8.6'\necho 'NVIDIA A10, 8.6'\n")
    (programs / "nvidia-smi").chmod(0o755)
    assert _explicit(empty) == _explicit(empty, 0, 1)


def test_a_server_that_is_started_again_on_its_models_lacks_nothing_that_it_had(tmp_path: Path, empty: Path) -> None:
    """And it gains what models beyond the usual sizes ask for."""
    before = _explicit(empty, 0)
    bundle = write_toy_bundle(tmp_path / "bundle")
    for max_batch, instances in ((8, 1), (1024, 50)):
        options = RenderOptions(backend="onnxruntime", gpus=(0,), max_batch=max_batch, instances=instances)
        repository = render(bundle, tmp_path / "models", options)
        after = _explicit(repository, 0)
        assert _names(after) == _names(before)
        assert all(_sizes(after)[flag] >= size for flag, size in _sizes(before).items())
        assert (_sizes(after) == _sizes(before)) == (max_batch == 8)
    assert _sizes(after)["--cuda-memory-pool-byte-size=0"] == read_repository(repository).memory.cuda_pool >> 20


@pytest.mark.parametrize("architecture", ["dy-yolov7", "dy-yolov7-x", "dy-yolov7-w6"])
@pytest.mark.parametrize("backend", ["python", "onnxruntime"])
def test_an_empty_server_has_room_for_every_published_network(
    backend: str, architecture: str, tmp_path: Path, empty: Path
) -> None:
    """With the defaults of rendering; for its pools in half precision."""
    gpus = () if backend == "python" else (0,)
    has = _sizes(_explicit(empty, *gpus))
    for dtype in ("float32", "float16"):
        bundle = _bundle_of(architecture, dtype, tmp_path / dtype)
        options = RenderOptions(backend=backend, gpus=gpus)
        needs = read_repository(render(bundle, tmp_path / "models", options)).memory
        assert needs.shared_memory >> 20 <= has["--shm-size"]
    if gpus:
        assert needs.cuda_pool >> 20 <= has["--cuda-memory-pool-byte-size=0"]
        assert needs.pinned_pool >> 20 <= has["--pinned-memory-pool-byte-size"]


def _bundle_of(architecture: str, dtype: str, folder: Path) -> Path:
    """A bundle with the tensors of a published network; its graphs compute what the toy's do, and cannot run."""
    with torch.device("meta"):
        network = dynamicdet.create(architecture, num_classes=80).eval()
        stage, side = Backbone1Stage(network), network.input_size
        _, *features = stage(torch.zeros(1, side, side, 3, dtype=torch.uint8))
    image = Tensor(name="image", dtype="uint8", shape=(side, side, 3))
    named = {
        name: Tensor(name=name, dtype=dtype, shape=tuple(feature.shape[1:]))  # type: ignore[arg-type]
        for name, feature in zip(stage.outputs, features, strict=True)
    }
    bundle = read_bundle(write_toy_bundle(folder))
    difficulty = bundle.stages["backbone1"].outputs[0]
    tensors: dict[StageName, dict[str, tuple[Tensor, ...]]] = {
        "backbone1": {"inputs": (image,), "outputs": (difficulty, *named.values())},
        "head1": {"inputs": tuple(named[name] for name in network.head1_reads)},
        "detector2": {"inputs": (image, *(named[name] for name in network.detector2_reads))},
    }
    stages: dict[StageName, Stage] = {
        name: bundle.stages[name].model_copy(update=update) for name, update in tensors.items()
    }
    return describe_as(folder, bundle.model_copy(update={"stages": stages, "input_size": side}))


@pytest.mark.parametrize(
    ("rendered", "asked", "control", "said"),
    [
        ((), (0,), "none", "run on the CPU, but --gpu names GPU 0; leave --gpu out, or render them with --gpu 0"),
        ((0,), (1,), "none", "run on GPU 0, but --gpu names GPU 1;"),
        ((0,), (0, 1), "none", "run on GPU 0, but --gpu names GPU 0 and 1;"),
        ((0, 1), (1,), "explicit", "run on GPU 0 and 1, but --gpu names GPU 1;"),
        ((0,), (0,), "none", None),
        ((0,), (0, 1), "explicit", None),
        ((), (0,), "explicit", None),
    ],
)
def test_gpus_that_the_models_do_not_run_on_are_refused(
    rendered: tuple[int, ...], asked: tuple[int, ...], control: str, said: str | None, tmp_path: Path
) -> None:
    """A server in explicit mode may have more of them, for models that are loaded later."""
    bundle = write_toy_bundle(tmp_path / "bundle")
    repository = render(bundle, tmp_path / "models", RenderOptions(backend="onnxruntime", gpus=rendered))
    if said is None:
        assert "--gpus" in docker_command(repository, ports=DEFAULT_PORTS, model_control=control, gpus=asked)
        return
    with pytest.raises(InputError, match=said):
        docker_command(repository, ports=DEFAULT_PORTS, model_control=control, gpus=asked)


def test_gpus_are_for_docker_alone(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(dyndet, ["serve", str(empty), "--model-control", "explicit", "--gpu", "0"]) == 2
    assert "--gpu belongs to --docker" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--http-port", "9001", "--grpc-port", "9001"),
            "three different ports, got http 9001, grpc 9001, metrics 8002",
        ),
        (("--host", "gpu-box"), "docker cannot publish ports on host 'gpu-box'; give an IP address"),
        (("--log-file", "server.log"), "--log-file belongs to the embedded server; `docker logs`"),
    ],
)
def test_what_docker_cannot_do_is_refused(
    words: tuple[str, ...], said: str, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dyndet, ["serve", str(empty), "--docker", "--model-control", "explicit", *words]) == 2
    assert said in capsys.readouterr().err


def test_docker_publishes_on_the_given_host_and_logs_as_asked(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["serve", str(empty), "--docker", "--model-control", "explicit", "--host", "::", "--log-verbose", "1"]
    assert run(dyndet, words) == 0
    printed = capsys.readouterr().out
    assert "-p '[::]:8001:8001'" in printed and "--log-verbose=1" in printed


def test_the_documentation_shows_what_the_command_prints(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (_ROOT / "docs" / "production.md").read_text()
    lines = re.sub(r" \\\n +", " ", page).splitlines()  # one command, broken into lines of the page
    (asked,) = (number for number, line in enumerate(lines) if line.startswith("$ dyndet serve") and "--docker" in line)
    words = shlex.split(lines[asked].removeprefix("$ dyndet "))
    assert run(dyndet, [word.replace("/mnt/models", str(empty)) for word in words]) == 0
    assert capsys.readouterr().out.replace(str(empty.resolve()), "/mnt/models").splitlines() == [lines[asked + 1]]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (None, "Set DYNDET_ADMIN_KEY to a secret key"),
        ("abc", "Warning: the admin key in DYNDET_ADMIN_KEY has 3 characters; use 16 to 500"),
        ("good-key-0123456789", ""),
    ],
)
def test_the_note_about_the_key_says_what_the_environment_lacks(
    key: str | None, said: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DYNDET_ADMIN_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("DYNDET_ADMIN_KEY", key)
    words = ["serve", str(empty), "--docker", "--host", "0.0.0.0", "--model-control", "explicit"]
    assert run(dyndet, words) == 0
    noted = capsys.readouterr().err
    assert noted.startswith(said) and ("Set " in noted) == (key is None)
    assert key != "good-key-0123456789" or "key" not in noted


@pytest.mark.parametrize(
    ("host", "open_admin", "restricts"),
    [("127.0.0.1", False, False), ("0.0.0.0", False, True), ("0.0.0.0", True, False)],
)
def test_a_host_that_others_reach_needs_a_key_that_the_command_does_not_hold(
    empty: Path, host: str, open_admin: bool, restricts: bool
) -> None:
    command = docker_command(empty, ports=DEFAULT_PORTS, host=host, model_control="explicit", open_admin=open_admin)
    assert ("DYNDET_ADMIN_KEY" in command) == restricts
    flags = command[-1].partition("exec tritonserver ")[2]
    show = ["/bin/bash", "-c", f"printf '%s\\n' {flags}"]
    given = subprocess.run(show, env={"DYNDET_ADMIN_KEY": "a key"}, capture_output=True, text=True, check=True).stdout
    required = "=model-repository,logging,trace,shared-memory:dyndet-admin=a key"
    expected = {f"--{flag}{required}" for flag in ("http-restricted-api", "grpc-restricted-protocol")}
    assert {line for line in given.splitlines() if "restricted" in line} == (expected if restricts else set())
    without = subprocess.run(show, env={}, capture_output=True, text=True, check=False)
    assert (without.returncode != 0 and "is not set" in without.stderr) == restricts
