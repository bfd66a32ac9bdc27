"""A server that is not ours to start: models are pushed to its folder, loaded by model control and calibrated."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamicdet import create, save
from dynamicdet.errors import InputError, MissingExtraError, ServerError
from dyndet_bench.measuring.served import Served
from dyndet_builder.build import BuildOptions, build
from dyndet_builder.bundle.manifest import read_bundle
from dyndet_builder.calibration.effort import Effort
from dyndet_builder.cli import dyndet, run
from dyndet_builder.operating_points import read_operating_points
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.server.admin import KEY_REFERENCE, RESTRICTED, SHARED_MEMORY, restricting_arguments
from dyndet_builder.server.options import ServerOptions
from dyndet_builder.server.remote import ADMIN_HEADER, ADMIN_VARIABLE, RemoteServer
from dyndet_builder.server.triton import TritonServer
from dyndet_builder.targets import parse_targets
from tests.support.toy_bundle import write_toy_bundle
from tests.support.toy_engines import write_toy_engines

_KEY = "k3y/of=there+0123456789=="


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonServer, Path]]:
    """A server in explicit mode, in a process of its own, on a folder that holds another model which is not loaded.

    It restricts what a server of `dyndet deploy` restricts.
    """
    folder = tmp_path_factory.mktemp("there") / "models"
    render(write_toy_bundle(folder.parent / "bundle"), folder, RenderOptions(name="stranger", topology="fused"))
    _, over_grpc = restricting_arguments((*RESTRICTED, SHARED_MEMORY))
    arguments = (over_grpc.replace(KEY_REFERENCE, _KEY),)
    options = ServerOptions(model_control="explicit", warm_up=False, extra_arguments=arguments)
    with TritonServer(folder, options) as server:
        yield server, folder


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of somebody who may load models there."""
    monkeypatch.setenv(ADMIN_VARIABLE, _KEY)


@pytest.fixture
def remote(there: tuple[TritonServer, Path]) -> RemoteServer:
    """That server, with short waits."""
    server, folder = there
    return RemoteServer(
        url=server.grpc_url, models=str(folder), metrics_url=server.metrics_url, wait_s=0.3, settle_s=0.5
    )


def test_a_build_calibrates_there_and_writes_back(
    there: tuple[TritonServer, Path],
    tmp_path: Path,
    demo_checkpoint: Path,
    demo_images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The key is in none of the files and messages of the build.

    Its target is a median: other tests make an answer late, and one of a dozen moves a mean by more than a route does.
    """
    server, folder = there
    monkeypatch.setattr(sys, "argv", ["dyndet-build", "--admin-header", f"{ADMIN_HEADER}: {_KEY}", "--url", "there"])
    options = BuildOptions(
        name="demo",
        exporter="torchscript",
        parity_images=4,
        topology="fused",
        effort=Effort(
            max_images=24,
            range_rounds=1,
            trial_rounds=1,
            verification_rounds=1,
            tolerance=0.9,
            accept_ill_conditioned=True,
        ),
        remote=RemoteServer(url=server.grpc_url, models=str(folder), metrics_url=server.metrics_url),
    )
    result = build(
        demo_checkpoint, tmp_path / "build", images=demo_images, targets=parse_targets("p50:50%"), options=options
    )
    assert (result.topology, result.chosen_by) == ("fused", None)
    written = folder / "demo" / "1" / "operating_points.json"
    assert read_operating_points(written) == read_operating_points(result.repository / "demo" / "1" / written.name)
    point = result.points["p50:50%"]
    with Served(server.grpc_url, "demo", metrics_url=server.metrics_url) as served:
        served.warm_up(1)  # its requests are counted
        served.counts()  # all is counted
        time.sleep(0.1)
        assert served.metrics.read("dyndet_threshold") == {"": pytest.approx(point.threshold)}
    assert "dyndet-build --admin-header 'dyndet-admin: ***' --url there" in written.read_text()
    files = [path for at in (tmp_path, folder) for path in at.rglob("*") if path.is_file()]
    for text in (*capfd.readouterr(), *(path.read_bytes().decode(errors="replace") for path in files)):
        assert _KEY not in text


def test_a_server_that_loads_nothing_is_told_before_anything_is_written(
    server: TritonServer, repository_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "models"
    target.mkdir()
    with pytest.raises(ServerError, match="--model-control explicit`, or Triton with --model-control-mode=explicit"):
        RemoteServer(url=server.grpc_url, models=str(target)).deploy(repository_folder, "dyndet")
    assert not list(target.iterdir())


def test_a_folder_that_is_not_here_is_named(there: tuple[TritonServer, Path], tmp_path: Path) -> None:
    server, _ = there
    models = render(write_toy_bundle(tmp_path / "bundle"), tmp_path / "models", RenderOptions(name="nowhere"))
    with pytest.raises(InputError, match="does not exist on this machine"):
        RemoteServer(url=server.grpc_url, models=str(tmp_path / "nowhere")).deploy(models, "nowhere")


def test_without_the_key_nothing_is_written_and_with_the_header_it_is(
    there: tuple[TritonServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder = there
    monkeypatch.delenv(ADMIN_VARIABLE)
    options = RenderOptions(name="guarded", bls_instances=1)
    models = render(write_toy_bundle(tmp_path / "bundle"), tmp_path / "models", options)
    with pytest.raises(ServerError, match=r"restricts who can load models .*DYNDET_ADMIN_KEY.*--admin-header"):
        RemoteServer(url=server.grpc_url, models=str(folder)).deploy(models, "guarded")
    assert not (folder / "guarded").exists()
    header = {f"triton-grpc-protocol-{ADMIN_HEADER}": _KEY}
    RemoteServer(url=server.grpc_url, models=str(folder), admin_headers=header).deploy(models, "guarded")
    assert (folder / "guarded").is_dir()


@pytest.mark.parametrize("form", [f"{ADMIN_HEADER}: {{key}}", f"triton-grpc-protocol-{ADMIN_HEADER}:{{key}}", "{key}"])
@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_the_header_is_taken_as_documented_and_from_a_file(
    there: tuple[TritonServer, Path],
    form: str,
    right: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With it, a rollback goes on until it finds no earlier build."""
    server, folder = there
    monkeypatch.delenv(ADMIN_VARIABLE)
    key = _KEY if right else "another key-0123456789"
    (tmp_path / "header").write_text(form.format(key=key) + "\n")
    for given in (f"@{tmp_path / 'header'}", form.format(key=key))[: 2 if ":" in form else 1]:
        words = ["deploy", "rollback", "--model", "never", "--url", server.grpc_url, "--models", str(folder)]
        assert run(dyndet, [*words, "--admin-header", given]) == (2 if right else 6)
        said = capsys.readouterr().err
        assert ("no earlier build" in said or "restricts" in said) and key not in said
        assert ("restricts" in said) != right


def test_a_wrong_key_ends_a_build_before_its_first_step(
    there: tuple[TritonServer, Path],
    demo_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server, folder = there
    monkeypatch.setenv(ADMIN_VARIABLE, "another key-0123456789")
    (tmp_path / "checkpoint").touch()  # nobody gets to read it
    words = ["build", "--target-latency", "50%", "--url", server.grpc_url, "--models", str(folder)]
    inputs = ["--checkpoint", str(tmp_path / "checkpoint"), "--images", str(demo_images)]
    assert run(dyndet, [*words, *inputs, "--output", str(tmp_path / "new")]) == 6
    assert "restricts who can load models" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_engines_are_pushed_where_they_can_run(there: tuple[TritonServer, Path], tmp_path: Path) -> None:
    server, folder = there
    bundle = write_toy_bundle(tmp_path / "bundle")
    remote = RemoteServer(url=server.grpc_url, models=str(folder))
    for version, refusal in (("10.9.0", "run only with this version, but the server at"), ("10.5.0", "tensorrt")):
        plans = write_toy_engines(tmp_path / version, read_bundle(bundle), tensorrt_version=version)
        options = RenderOptions(name="planned", backend="tensorrt", gpus=(0,), engines=plans)
        models = render(bundle, tmp_path / f"models {version}", options)
        with pytest.raises((InputError, ServerError), match=refusal):  # the embedded server has no such backend
            remote.deploy(models, "planned")
        assert not list(folder.glob("planned*"))


def test_a_build_with_engines_goes_on_when_the_script_has_run_elsewhere(
    there: tuple[TritonServer, Path], tmp_path: Path, small_network: str, demo_images: Path
) -> None:
    """There is no GPU here: the first build leaves a script, the second one takes what the script would leave."""
    server, folder = there
    checkpoint = tmp_path / "small.safetensors"
    save(create(small_network, 3, input_size=320), checkpoint)
    options = BuildOptions(
        name="engined",
        exporter="torchscript",
        parity_images=4,
        rendering=RenderOptions(backend="tensorrt", gpus=(0,), max_batch=4),
        remote=RemoteServer(url=server.grpc_url, models=str(folder)),
    )

    def attempt() -> None:
        build(checkpoint, tmp_path / "build", images=demo_images, targets=parse_targets("50%"), options=options)

    with pytest.raises(MissingExtraError, match=r"build/engines\.sh does this inside NVIDIA's image"):
        attempt()
    assert "--maxShapes=image:4x320x320x3" in (tmp_path / "build" / "engines.sh").read_text()
    write_toy_engines(tmp_path / "build" / "engines", read_bundle(tmp_path / "build" / "bundle"))
    with pytest.raises(ServerError, match=r"refused: .*engined_backbone1"):
        attempt()
    plan = tmp_path / "build" / "model_repository" / "engined_backbone1" / "1" / "model.plan"
    assert plan.read_bytes() == b"plan of backbone1"
    assert not list(folder.glob("engined*"))


def test_a_header_without_a_server_is_refused() -> None:
    arguments = ["--target-latency", "50%", "--admin-header", "a: b"]
    assert run(dyndet, ["build", *arguments]) == 2
