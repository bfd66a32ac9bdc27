"""One decider: the docker command, the deployment and the engine script name the same image and pinned packages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import read_bundle
from dyndet_builder.cli import dyndet, run
from dyndet_builder.deployment.deploy import DeployOptions, deploy
from dyndet_builder.engines.options import EngineOptions
from dyndet_builder.engines.script import engines_script
from dyndet_builder.pins import CURRENT, EMBEDDED_RELEASE, RELEASES, find_release
from dyndet_builder.repository.render import RenderOptions
from dyndet_builder.server.docker import docker_command
from tests.support.deployments import installed_by, render_to_serve
from tests.support.toy_bundle import write_toy_bundle

_ROOT = Path(__file__).parents[2]
_NVIDIA_IMAGE = r"nvcr\.io/[\w./:-]*\w"
_NUMPY, _PICTURES = {"numpy"}, {"pillow", "simplejpeg"}
_ON_CPU, _ON_GPU, _FEATURES = {"numpy", "onnxruntime"}, {"numpy", "onnxruntime-gpu"}, {"cupy-cuda13x"}


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
    assert images == [{CURRENT.image}] * 3
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
    assert named == {CURRENT.image}


def test_the_documentation_shows_the_table_of_releases() -> None:
    page = (_ROOT / "docs" / "deploy.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    shown = {row[0].strip("`* "): row[1:5] for row in rows if re.fullmatch(r"[`*]*\d\d\.\d\d[`*]*", row[0])}
    assert shown == {
        name: [release.server, release.python, release.cuda, release.tensorrt] for name, release in RELEASES.items()
    }


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_decides_image_packages_and_tensorrt_everywhere(name: str, tmp_path: Path) -> None:
    """Also a release with known holes, once it is allowed."""
    release = find_release(name, allow_known_holes=True)
    bundle = write_toy_bundle(tmp_path / "bundle")
    repository = render_to_serve(bundle, tmp_path / "models", _options("bls python gpu encoded"))
    command = docker_command(repository, ports={"grpc": 8001}, release=release)
    options = DeployOptions(triton_version=name, allow_known_holes=True)
    result = deploy(repository, tmp_path / "deployed", options)
    dockerfile = (tmp_path / "deployed" / "Dockerfile").read_text()
    assert installed_by(command[-1]) == installed_by(dockerfile)
    assert f"cupy-cuda{release.cuda.partition('.')[0]}x" in {
        each.partition("==")[0] for each in installed_by(dockerfile)
    }
    for text in (" ".join(command), dockerfile):
        assert set(re.findall(_NVIDIA_IMAGE, text)) == {f"nvcr.io/nvidia/tritonserver:{name}-py3"}
    assert any("known holes" in note for note in result.notes) == (name == EMBEDDED_RELEASE)


@pytest.mark.parametrize("command", ["serve", "deploy", "engines"])
def test_commands_refuse_releases_that_are_unknown_or_have_holes(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_toy_bundle(tmp_path / "bundle")
    repository = render_to_serve(bundle, tmp_path / "models", _options("fused python"))
    words = {
        "serve": ["serve", str(repository), "--docker"],
        "deploy": ["deploy", "render", str(repository), str(tmp_path / "out")],
        "engines": ["engines", str(bundle), "--script", str(tmp_path / "build.sh")],
    }[command]
    assert run(dyndet, [*words, "--triton-version", "25.03"]) == 2
    assert ", ".join(RELEASES) in capsys.readouterr().err
    assert run(dyndet, [*words, "--triton-version", EMBEDDED_RELEASE]) == 2
    refused = capsys.readouterr().err
    assert "CVE-2026-24206" in refused
    assert "--allow-known-holes" in refused
    assert run(dyndet, [*words, "--triton-version", EMBEDDED_RELEASE, "--allow-known-holes"]) == 0
    said = capsys.readouterr()
    assert "CVE-2026-24206" in said.err + said.out
    written = {"deploy": tmp_path / "out" / "Dockerfile", "engines": tmp_path / "build.sh"}.get(command)
    assert f"tritonserver:{EMBEDDED_RELEASE}-py3" in (written.read_text() if written else said.out)


def test_the_warning_names_every_advisory_of_the_documentation() -> None:
    page = (_ROOT / "docs" / "security.md").read_text()
    table = page.partition("## Advisories")[2].partition("## ")[0]
    warning = RELEASES[EMBEDDED_RELEASE].warning or ""
    assert sorted(re.findall(r"CVE-[\d-]+", warning)) == sorted(re.findall(r"CVE-[\d-]+", table))


def test_the_current_release_has_no_known_holes() -> None:
    assert find_release() is CURRENT
    assert CURRENT.warning is None
    with pytest.raises(InputError, match="CVE-2025-23310"):
        find_release(EMBEDDED_RELEASE)
