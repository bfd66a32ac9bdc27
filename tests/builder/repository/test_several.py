"""Several detectors in one repository: each is put there, replaced, read and deployed alone; names never collide."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import read_bundle
from dyndet_builder.cli import dyndet, run
from dyndet_builder.deployment.deploy import DeployOptions, deploy
from dyndet_builder.engines.record import FILE_NAME as ENGINES_FILE
from dyndet_builder.operating_points import points_file
from dyndet_builder.repository.marker import MARKER_FILE, read_marker
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered, read_repository
from tests.support.toy_bundle import write_toy_bundle
from tests.support.toy_engines import write_toy_engines

_WHOLE = RenderOptions(name="whole", topology="fused", threads=1)
_SPLIT = RenderOptions(name="split", backend="onnxruntime", gpus=(0,), max_batch=64, encoded=True)
_SPLIT_MODELS = ("split", "split_backbone1", "split_detector2", "split_encoded", "split_head1")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture
def both(bundle: Path, tmp_path: Path) -> Path:
    """A repository with a fused detector on the CPU and one with stage models on a GPU."""
    render(bundle, tmp_path / "models", _WHOLE)
    return render(bundle, tmp_path / "models", _SPLIT, add=True)


def _state(repository: Path, detector: str) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file and folder of a detector, as a server that polls sees them."""
    folders = [folder for folder in repository.iterdir() if folder.name.partition("_")[0] == detector]
    paths = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return {
        str(path.relative_to(repository)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in paths
    }


def test_a_detector_is_added_and_replaced_and_the_other_stays_byte_for_byte(bundle: Path, tmp_path: Path) -> None:
    repository = render(bundle, tmp_path / "models", _WHOLE)
    points = points_file(repository, "whole")
    points.write_text(points.read_text().replace("0.5", "0.61"))
    before = _state(repository, "whole")
    render(bundle, repository, _SPLIT, add=True)
    render(bundle, repository, replace(_SPLIT, encoded=False))  # it is there already
    render(bundle, repository, replace(_SPLIT, topology="fused", backend="python", encoded=False), add=True)
    assert _state(repository, "whole") == before
    assert read_rendered(repository, model="whole").threshold == 0.61
    assert sorted(path.name for path in repository.iterdir()) == [MARKER_FILE, "split", "whole"]
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_each_detector_is_read_alone_and_a_server_needs_what_all_need(both: Path, bundle: Path) -> None:
    whole, split = (read_rendered(both, model=name) for name in ("whole", "split"))
    assert (whole.options, whole.models, whole.gpus, whole.beside) == (_WHOLE, ("whole",), (), ("split",))
    assert (split.options, split.models, split.gpus, split.beside) == (_SPLIT, _SPLIT_MODELS, (0,), ("whole",))
    assert (whole.runs_onnx_in_python, split.runs_onnx_in_python) == (True, False)
    assert (whole.decodes_pictures, split.decodes_pictures) == (False, True)
    assert (whole.calls_stages, split.calls_stages) == (False, True)
    assert whole.bundle == split.bundle == read_bundle(bundle)
    together = read_repository(both)
    assert set(together.models) == {*whole.models, *split.models}
    assert (together.gpus, together.runs_onnx_in_python, together.decodes_pictures) == ((0,), True, True)
    assert together.memory.python_region == max(whole.memory.python_region, split.memory.python_region)
    assert together.memory.shared_memory > split.memory.shared_memory
    assert together.bytes_on_disk == whole.bytes_on_disk + split.bytes_on_disk


def test_names_that_only_begin_alike_share_no_memory(bundle: Path, tmp_path: Path) -> None:
    """A stage belongs to a detector by its whole name: `split_more` is no stage of `split`."""
    alone = read_repository(render(bundle, tmp_path / "alone", replace(_SPLIT, backend="python"))).memory
    render(bundle, tmp_path / "alone", replace(_SPLIT, backend="python", name="split_more"), add=True)
    assert read_repository(tmp_path / "alone").memory.python_region == alone.python_region


def test_another_name_is_refused_without_add(both: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _state(both, "whole") | _state(both, "split")
    assert run(dyndet, ["render", str(bundle), str(both), "--name", "third", "--topology", "auto"]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert f"{both} holds the detectors 'whole' and 'split', not 'third'; give --add to put 'third' there too" in text
    assert _state(both, "whole") | _state(both, "split") == before
    assert run(dyndet, ["render", str(bundle), str(both), "--name", "third", "--add"]) == 0
    assert list(read_marker(both).detectors) == ["whole", "split", "third"]


def test_a_detector_that_a_repository_lacks_is_refused_before_a_server_is_asked(both: Path, capsys) -> None:
    command = ["calibrate", "--target-latency", "50%", "--images", str(both), "--model", "nope"]
    assert run(dyndet, [*command, "--repository", str(both)]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert f"{both} holds no detector 'nope'; it holds the detectors 'whole' and 'split'" in text


@pytest.mark.parametrize(
    ("name", "use"), [("whole_head1", "a stage"), ("whole_encoded", "the model that takes image files")]
)
def test_names_that_collide_are_refused(name: str, use: str, both: Path, bundle: Path) -> None:
    """Also names of models that the other detector, which is fused, does not have."""
    with pytest.raises(InputError, match=f"the name '{name}' is reserved for {use} of 'whole'; give another --name"):
        render(bundle, both, RenderOptions(name=name), add=True)
    (both / "mine_head1").mkdir()  # a model of somebody else
    with pytest.raises(InputError, match="mine_head1 is not part of a detector that dyndet rendered"):
        render(bundle, both, RenderOptions(name="mine"), add=True)
    render(bundle, both, replace(_SPLIT, name="theirs"), add=True)
    assert (both / "mine_head1").is_dir()


def test_a_folder_whose_marker_is_damaged_is_not_written_to(both: Path, bundle: Path) -> None:
    (both / MARKER_FILE).write_text("{")
    with pytest.raises(InputError, match=r"is damaged.*, so the detectors in .* are not known; give another folder"):
        render(bundle, both, _WHOLE)
    assert (both / "split").is_dir()


def test_a_failed_rendering_leaves_both_detectors(both: Path, bundle: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    before = _state(both, "whole") | _state(both, "split")
    (damaged / "detector2.onnx").unlink()
    with pytest.raises(InputError, match=r"detector2\.onnx"):
        render(damaged, both, _WHOLE)
    assert _state(both, "whole") | _state(both, "split") == before


def _in_first_form(repository: Path, name: str) -> None:
    """The repository as earlier versions wrote it: one detector, described at the top."""
    record = read_marker(repository).detectors[name]
    marker = {"model": name, "bundle_sha256": record.bundle_sha256, "options": record.options}
    (repository / MARKER_FILE).write_text(json.dumps(marker))
    for file in (BUNDLE_FILE, ENGINES_FILE):
        if (repository / name / file).exists():
            (repository / name / file).rename(repository / file)


def test_a_repository_of_an_earlier_version_is_read_and_extended(bundle: Path, tmp_path: Path) -> None:
    engines = write_toy_engines(tmp_path / "engines", read_bundle(bundle), version_compatible=True)
    options = RenderOptions(name="old", backend="tensorrt", gpus=(0,), engines=engines)
    repository = render(bundle, tmp_path / "models", options)
    _in_first_form(repository, "old")
    found = read_rendered(repository)
    assert (found.model, found.options, found.bundle) == ("old", options, read_bundle(bundle))
    assert found.engines is not None and len(found.engine_arguments) == 1
    render(bundle, repository, _WHOLE, add=True)
    assert read_rendered(repository, model="old").bundle == read_bundle(bundle)
    assert read_repository(repository).engine_arguments == found.engine_arguments
    assert read_rendered(repository, model="whole").engine_arguments == ()
    render(bundle, repository, options)
    assert sorted(path.name for path in repository.iterdir() if path.is_file()) == [MARKER_FILE]
    assert (repository / "old" / BUNDLE_FILE).is_file() and (repository / "old" / ENGINES_FILE).is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["tune", "REPOSITORY", "--images", "IMAGES"],
        ["calibrate", "--repository", "REPOSITORY", "--images", "IMAGES", "--target-latency", "50%"],
        ["deploy", "render", "REPOSITORY", "deployment"],
        ["deploy", "plan", "REPOSITORY", "--request-rate", "1", "--promise", "12ms"],
        ["bench", "overhead", "REPOSITORY", "--images", "IMAGES"],
        ["bench", "sweep", "REPOSITORY", "--images", "IMAGES"],
        ["bench", "client", "REPOSITORY", "--images", "IMAGES"],
        ["engines", "bundle", "--repository", "REPOSITORY"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_command_that_needs_one_detector_asks_for_its_name(
    words: list[str], both: Path, demo_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"REPOSITORY": str(both), "IMAGES": str(demo_images)}
    assert run(dyndet, [named.get(word, word) for word in words]) == 2
    text = " ".join(capsys.readouterr().err.split())
    assert f"{both} holds the detectors 'whole' and 'split'; name one of them with --model" in text


@pytest.mark.parametrize("storage", ["image", "s3://models/street"])
def test_a_deployment_has_the_named_detector_alone(storage: str, both: Path, tmp_path: Path) -> None:
    output = tmp_path / "deployment"
    deploy(both, output, DeployOptions(storage=storage, memory="8Gi"), model="split")
    dockerfile = (output / "Dockerfile").read_text()
    pod = (output / "kubernetes" / "deployment.yaml").read_text()
    copied = [json.loads(line.partition("1000:1000 ")[2]) for line in dockerfile.splitlines() if "COPY --chown" in line]
    loaded = [line.partition("--load-model=")[2].strip('"') for line in pod.splitlines() if "--load-model=" in line]
    if storage == "image":
        assert copied == [[name, f"/models/{name}"] for name in _SPLIT_MODELS] and not loaded
    else:
        assert loaded == list(_SPLIT_MODELS) and "--model-control-mode=explicit" in pod and not copied
    assert "onnxruntime" not in dockerfile.partition("pip install")[2]  # only `whole` runs it in Python
    assert '"nvidia.com/gpu": 1' in pod
    deploy(both, output, DeployOptions(storage=storage, memory="8Gi"), model="whole")
    assert "nvidia.com/gpu" not in (output / "kubernetes" / "deployment.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "status"), [(["--topology", "fused"], 2), (["--topology", "fused", "--encoded"], 0), ([], 0)]
)
def test_instances_that_a_fused_detector_does_not_have_are_refused(
    words: list[str], status: int, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command: list[Any] = ["render", str(bundle), str(tmp_path / "models"), "--bls-instances", "3", *words]
    assert run(dyndet, command) == status
    assert ("--bls-instances needs the topology bls or --encoded" in capsys.readouterr().err) == (status == 2)
