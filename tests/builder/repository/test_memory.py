"""Server flags that follow from the models: sizes of shared memory and of CUDA's pool, and one pool of threads."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from dyndet_builder.deployment.deploy import deploy
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_repository
from dyndet_builder.server.docker import docker_command
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.triton import DEFAULT_PORTS, TritonServer
from tests.support.toy_bundle import SIZE, write_toy_bundle

_MIB = 1 << 20
_FREE = "--grpc-infer-allocation-pool-size=0"
_POOL = "--backend-config=onnxruntime,enable-global-threadpool=1"
MANIFESTS = ("kubernetes/deployment.yaml", "kserve/inference-service.yaml")
_IMAGE, _FEATURES = 3 * SIZE**2, 4 * 3 * SIZE**2


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def test_small_tensors_need_no_flags(bundle: Path, tmp_path: Path) -> None:
    repository = read_repository(render(bundle, tmp_path / "models"))
    needs = repository.memory
    assert needs.arguments(repository.gpus) == [_FREE]
    assert (needs.python_region, needs.cuda_pool) == (_MIB, 0)


@pytest.mark.parametrize("topology", ["bls", "fused"])
def test_a_region_holds_a_full_batch(bundle: Path, tmp_path: Path, topology: str) -> None:
    batch = 512
    options = RenderOptions(topology=topology, max_batch=batch)  # type: ignore[arg-type]
    needs = read_repository(render(bundle, tmp_path / "models", options)).memory
    holds = _IMAGE + (_FEATURES if topology == "bls" else 0)  # a fused detector's features never enter Triton's memory
    assert batch * holds <= needs.python_region < batch * (holds + 1024) + _MIB
    assert needs.arguments() == [_FREE, f"--backend-config=python,shm-default-byte-size={needs.python_region}"]


def test_gpus_get_a_pool_for_what_stages_hand_over(bundle: Path, tmp_path: Path) -> None:
    options = RenderOptions(backend="onnxruntime", gpus=(0, 1), max_batch=512, instances=4)
    repository = render(bundle, tmp_path / "models", options)
    needs = read_repository(repository).memory
    assert read_repository(repository).gpus == (0, 1)
    assert needs.cuda_pool >= 2 * 4 * 512 * 3 * _FEATURES  # made by backbone1, read by both others, two batches each
    flags = needs.arguments((0, 1))
    assert [flag for flag in flags if "cuda" in flag] == [
        f"--cuda-memory-pool-byte-size={gpu}:{needs.cuda_pool}" for gpu in (0, 1)
    ]
    command = docker_command(repository, ports={"grpc": 8001})
    assert all(flag in command[-1] for flag in flags)
    assert f"--shm-size={needs.shared_memory // _MIB}m" in command
    assert command[command.index("--gpus") + 1] == "all"
    fused = render(bundle, tmp_path / "fused", RenderOptions(topology="fused", gpus=(0,)))
    assert "onnxruntime-gpu==" in docker_command(fused, ports={"grpc": 8001})[-1]


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        (RenderOptions(backend="onnxruntime"), True),
        (RenderOptions(backend="onnxruntime", preferred_batches=(4,)), True),
        (RenderOptions(backend="onnxruntime", threads=2), False),
        (RenderOptions(backend="onnxruntime", instances=2), False),
        (RenderOptions(backend="onnxruntime", gpus=(0,)), False),
        (RenderOptions(backend="onnxruntime", accelerator="tensorrt", gpus=(0,)), False),
        (RenderOptions(backend="openvino"), False),
        (RenderOptions(backend="python"), False),
    ],
)
def test_graphs_share_their_threads_in_every_launch_of_one_instance_with_all_cores(
    bundle: Path, tmp_path: Path, options: RenderOptions, shared: bool
) -> None:
    """The flag overrides each graph's own threads, so any other setting must do without it."""
    repository = render(bundle, tmp_path / "models", options)
    deploy(repository, tmp_path / "deployed")
    starts = [
        docker_command(repository, ports=DEFAULT_PORTS)[-1],
        *((tmp_path / "deployed" / name).read_text() for name in (*MANIFESTS, "Dockerfile")),
    ]
    assert [_POOL in start for start in starts] == [shared] * len(starts)


def test_one_model_with_threads_of_its_own_keeps_all_others_from_sharing(bundle: Path, tmp_path: Path) -> None:
    """A server has one pool or none, whatever the repositories from which it takes its models."""
    options = RenderOptions(backend="onnxruntime")
    repository = render(bundle, tmp_path / "models", options)
    render(bundle, repository, RenderOptions(name="python", threads=1), add=True)
    assert read_repository(repository).pool_arguments == (_POOL,)  # other backends have nothing to do with it
    other = render(bundle, tmp_path / "other", RenderOptions(name="other", backend="onnxruntime", threads=1))
    for beside, shared in ((), True), ((f"--model-repository={other}",), False):
        # The embedded server lacks this backend, and in this mode it starts without its models.
        given = ServerOptions(model_control="explicit", warm_up=False, extra_arguments=beside)
        with TritonServer(repository, given) as server:
            assert (_POOL in psutil.Process(server.pid).cmdline()) == shared
    render(bundle, repository, RenderOptions(name="other", backend="onnxruntime", threads=1), add=True)
    assert read_repository(repository).pool_arguments == ()
