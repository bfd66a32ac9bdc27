"""Deployments: what is refused, and options that change the server's flags."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from dynamicdet.errors import InputError
from dyndet_builder.cli.deploy import render_command
from dyndet_builder.deployment.deploy import MARKER_FILE, DeployOptions, deploy
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.docker import docker_command
from dyndet_builder.server.triton import DEFAULT_PORTS
from tests.support.deployments import pod_of, render_kinds
from tests.support.toy_bundle import write_toy_bundle

_DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return render_kinds(tmp_path_factory.mktemp("repositories"))


@pytest.mark.parametrize(
    ("options", "allows"),
    [
        (DeployOptions(), False),
        (DeployOptions(client_shared_memory=True), True),
        (DeployOptions(client_shared_memory=True, triton_version="24.10", allow_known_holes=True), False),
        (DeployOptions(client_shared_memory=True, base_image="r.example/tritonserver:26.07-py3"), True),
        (DeployOptions(client_shared_memory=True, base_image=f"r.example/own@{_DIGEST}", triton_version="26.08"), True),
    ],
)
def test_shared_memory_of_clients_is_allowed_where_the_release_wants_it(
    options: DeployOptions, allows: bool, repositories: dict[str, Path], tmp_path: Path
) -> None:
    deploy(repositories["cpu"], tmp_path / "out", options)
    arguments = pod_of(tmp_path / "out")["containers"][0]["args"]
    assert ("--allow-client-shm=true" in arguments) == allows
    restricted = next(argument for argument in arguments if argument.startswith("--http-restricted-api"))
    assert ("shared-memory" in restricted) != options.client_shared_memory
    assert "model-repository" in restricted


def test_inference_without_the_key_can_be_closed_over_http_alone(repositories: dict[str, Path], tmp_path: Path) -> None:
    deploy(repositories["cpu"], tmp_path / "out", DeployOptions(http_inference=False))
    arguments = pod_of(tmp_path / "out")["containers"][0]["args"]
    over_http, over_grpc = (next(one for one in arguments if kind in one) for kind in ("http-restr", "grpc-restr"))
    assert ",inference:" in over_http and "inference" not in over_grpc
    command = docker_command(repositories["cpu"], ports=DEFAULT_PORTS, http_inference=False)
    assert "--http-restricted-api=inference:dyndet-inference=$(" in command[-1]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "Street"}, "lower-case"),
        ({"storage": "/models"}, "pvc://CLAIM/PATH"),
        ({"storage": 's3://b"; rm'}, "storage"),
        ({"replicas": 0}, "at least 1"),
        ({"replicas": 4, "max_replicas": 2}, "max_replicas"),
        ({"cpu": "many"}, "quantity"),
        ({"gpu_resource": "gpu"}, "extended resource"),
        ({"promise": "50%"}, "not a latency"),
        ({"promise": "throughput:80/s"}, "not a latency"),
        ({"triton_version": "2.51"}, "24.10"),
        ({"triton_version": "24.10"}, "CVE-2026-24206"),
        ({"base_image": "r.example/tritonserver:24.10-py3"}, "CVE-2026-24206"),
        ({"base_image": "r.example/tritonserver:26.04-py3"}, "26.04"),
        ({"base_image": "r.example/own:latest"}, "--triton-version"),
        ({"queue_target_ms": float("nan")}, "positive"),
        ({"metrics_targets": ("nowhere",)}, "HOST:PORT"),
        ({"base_image": "x y"}, "an image"),
        ({"base_image": "me:SECRET9@r.example/x"}, r"'\*\*\*@r\.example/x'"),
        ({"image": f"me:SECRET9@r.example/x@{_DIGEST}"}, rf"'\*\*\*@r\.example/x@{_DIGEST}'"),
        ({"metrics_targets": ("me:SECRET9@host:8002",)}, r"'\*\*\*@host:8002'"),
    ],
)
def test_impossible_options_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        DeployOptions(**given)
    assert "SECRET9" not in str(caught.value)


def test_what_cannot_work_is_refused_and_nothing_is_written(repositories: dict[str, Path], tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "bundle")
    second = render(bundle, tmp_path / "second", RenderOptions(backend="onnxruntime", gpus=(1,)))
    with pytest.raises(InputError, match="numbers its GPUs from 0"):
        deploy(second, tmp_path / "out")
    with pytest.raises(InputError, match="not a model repository"):
        deploy(tmp_path / "nowhere", tmp_path / "out")
    damaged = render(bundle, tmp_path / "damaged", RenderOptions())
    points = damaged / "toy" / "1" / "operating_points.json"
    points.write_text(json.dumps({**json.loads(points.read_text()), "default": "other"}))
    with pytest.raises(InputError, match="has no point 'other', which it names as its default"):
        deploy(damaged, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(InputError, match=MARKER_FILE):
        deploy(repositories["cpu"], tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_options_are_all_on_the_command_line() -> None:
    others = {"repository", "output", "model", "debug"}
    names = {field.name for field in fields(DeployOptions)}
    assert {parameter.name for parameter in render_command.params} - others == names
