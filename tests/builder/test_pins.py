"""One decider: the docker command, the deployment and the engine script name the same image and pinned packages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dyndet_builder.bundle.manifest import read_bundle
from dyndet_builder.deployment.deploy import deploy
from dyndet_builder.engines.options import EngineOptions
from dyndet_builder.engines.script import engines_script
from dyndet_builder.pins import IMAGE
from dyndet_builder.repository.render import RenderOptions
from dyndet_builder.server.docker import docker_command
from tests.support.deployments import installed_by, render_to_serve
from tests.support.toy_bundle import write_toy_bundle

_ROOT = Path(__file__).parents[2]
_NVIDIA_IMAGE = r"nvcr\.io/[\w./:-]*\w"
_NUMPY, _PICTURES = {"numpy"}, {"pillow", "simplejpeg"}
_ON_CPU, _ON_GPU, _FEATURES = {"numpy", "onnxruntime"}, {"numpy", "onnxruntime-gpu"}, {"cupy-cuda12x"}


def _options(words: str) -> RenderOptions:
    topology, backend, *rest = words.split()
    gpus = (0,) if "gpu" in rest else ()
    return RenderOptions(topology=topology, backend=backend, gpus=gpus, encoded="encoded" in rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("bls python", _ON_CPU),
        ("bls python encoded", _ON_CPU | _PICTURES),
        ("bls python gpu", _ON_GPU | _FEATURES),
        ("bls python gpu encoded", _ON_GPU | _FEATURES | _PICTURES),
        ("bls onnxruntime", set()),
        ("bls onnxruntime encoded", _NUMPY | _PICTURES),
        ("bls onnxruntime gpu", _NUMPY | _FEATURES),
        ("bls onnxruntime gpu encoded", _NUMPY | _FEATURES | _PICTURES),
        ("bls openvino", set()),
        ("bls openvino encoded", _NUMPY | _PICTURES),
        ("bls tensorrt gpu", _NUMPY | _FEATURES),
        ("bls tensorrt gpu encoded", _NUMPY | _FEATURES | _PICTURES),
        ("fused python", _ON_CPU),
        ("fused python encoded", _ON_CPU | _PICTURES),
        ("fused python gpu", _ON_GPU),
        ("fused python gpu encoded", _ON_GPU | _PICTURES),
    ],
)
def test_what_is_served_with_docker_is_what_is_deployed(words: str, needed: set[str], tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "bundle")
    repository = render_to_serve(bundle, tmp_path / "models", _options(words))
    command = docker_command(repository, ports={"grpc": 8001})
    served = installed_by(command[-1])
    deploy(repository, tmp_path / "deployed")
    dockerfile = (tmp_path / "deployed" / "Dockerfile").read_text()
    assert served == installed_by(dockerfile)
    assert {package.partition("==")[0] for package in served} == needed
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9]+(\.[0-9]+)+", package) for package in served)
    script = engines_script(
        read_bundle(bundle), EngineOptions(), folder=bundle, output=tmp_path / "engines", script=tmp_path / "script"
    )
    images = [set(re.findall(_NVIDIA_IMAGE, text)) for text in (" ".join(command), dockerfile, script)]
    assert images == [{IMAGE}] * 3
    # Pushed to another server, the models lie there without what belongs to the repository as a whole.
    for file in repository.iterdir():
        if file.is_file():
            file.unlink()
    assert docker_command(repository, ports={"grpc": 8001}) == command
    explicit = docker_command(repository, ports={"grpc": 8001}, model_control="explicit", gpus=_options(words).gpus)
    assert served <= installed_by(explicit[-1])


def test_the_documentation_names_no_other_image() -> None:
    pages = [_ROOT / "README.md", *(_ROOT / "docs").glob("*.md")]
    named = {image for page in pages for image in re.findall(_NVIDIA_IMAGE, page.read_text())}
    assert named == {IMAGE}
