"""Reading a repository back: the same as was rendered, read once, and damage is named by the file that has it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import STAGES, file_sha256, read_bundle
from dyndet_builder.repository.marker import MARKER_FILE
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered, read_repository
from tests.support.toy_bundle import write_toy_bundle
from tests.support.toy_engines import write_toy_engines

OPTIONS = {
    "bls": RenderOptions(name="other", instances=2, threads=3, preferred_batches=(4,), encoded=True),
    "fused": RenderOptions(name="other", topology="fused", latency_buckets_ms=(5, 50), threshold=0.25),
    "gpu": RenderOptions(name="other", backend="onnxruntime", accelerator="tensorrt", gpus=(1, 0)),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture
def repository(bundle: Path, tmp_path: Path) -> Path:
    return render(bundle, tmp_path / "models", RenderOptions())


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_was_rendered_is_read_back(kind: str, bundle: Path, tmp_path: Path) -> None:
    options = OPTIONS[kind]
    found = read_rendered(render(bundle, tmp_path / "models", options))
    assert (found.model, found.options, found.bundle) == ("other", options, read_bundle(bundle))
    assert found.gpus == tuple(sorted(options.gpus))
    assert found.threshold == options.threshold
    assert found.encoded == ({"other_encoded": "other"} if options.encoded else {})
    assert (found.engine_cache, found.engines) == ("/engine-cache" if kind == "gpu" else "", None)
    assert {stage: file_sha256(graph) for stage, graph in found.graphs.items()} == {
        stage: described.sha256 for stage, described in found.bundle.stages.items()
    }


@pytest.mark.parametrize("kind", ["bls", "fused"])
def test_the_bundle_can_be_had_back_and_rendered_again(kind: str, bundle: Path, tmp_path: Path) -> None:
    repository = render(bundle, tmp_path / "models", OPTIONS[kind])
    again = render(read_rendered(repository).link_bundle(tmp_path / "bundle"), tmp_path / "again", OPTIONS[kind])
    files = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (repository, again)
    ]
    assert files[0] == files[1]


def test_configurations_are_read_once(bundle: Path, tmp_path: Path) -> None:
    """What follows from them is answered also when their files are gone."""
    options = RenderOptions(backend="onnxruntime", gpus=(0,), encoded=True)
    repository = render(bundle, tmp_path / "models", options)
    expected, found = read_rendered(repository), read_rendered(repository)
    known = (expected.models, expected.gpus, expected.memory, expected.encoded, expected.python_instances)
    for config in repository.glob("*/config.pbtxt"):
        config.unlink()
    assert (found.models, found.gpus, found.memory, found.encoded, found.python_instances) == known
    assert set(found.stage_configs) == set(STAGES)


def test_a_repository_of_somebody_else_has_configurations_and_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.pbtxt").write_text("instance_group { kind: KIND_GPU gpus: [1] }")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.pbtxt").write_text("what only a newer server reads { }")
    found = read_repository(tmp_path)
    assert (found.models, found.gpus, found.encoded, found.engine_arguments) == (("theirs",), (1,), {}, ())
    with pytest.raises(InputError, match="was not rendered by this version of dyndet"):
        read_rendered(tmp_path)


def test_an_empty_folder_is_a_repository_only_where_models_are_loaded_later(tmp_path: Path) -> None:
    assert read_repository(tmp_path, explicit=True).is_empty
    with pytest.raises(InputError, match="not a model repository"):
        read_repository(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="not a model repository"):
        read_repository(tmp_path, explicit=True)


def test_only_what_is_asked_for_has_to_be_whole(bundle: Path, tmp_path: Path) -> None:
    engines = write_toy_engines(tmp_path / "engines", read_bundle(bundle), version_compatible=True)
    options = RenderOptions(backend="tensorrt", gpus=(0,), engines=engines)
    repository = render(bundle, tmp_path / "models", options)
    assert "version-compatible=true" in read_repository(repository).engine_arguments[0]
    for name in ("toy/bundle.json", "toy/engines.json", "toy/1/operating_points.json"):
        (repository / name).write_text("{}")
    found = read_rendered(repository)
    assert found.options.engines == engines
    assert (found.gpus, found.calls_stages, found.all_cores) == ((0,), True, False)
    for name, file in (("bundle", "bundle"), ("engines", "engines"), ("points", "operating_points")):
        with pytest.raises(InputError, match=rf"{file}\.json"):
            getattr(found, name)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_batch": "8"}, r"dyndet\.json: max_batch must be a whole number from 1 to"),
        ({"backend": "mine"}, r"dyndet\.json: backend 'mine' is not known; choose one of python, "),
        ({"gpus": None}, r"dyndet\.json is damaged, or was written by another version\); render it again"),
    ],
)
def test_options_that_are_refused_are_named_and_the_rest_is_known(
    changed: dict[str, Any], said: str, repository: Path
) -> None:
    marker = json.loads((repository / MARKER_FILE).read_text())
    marker["detectors"]["toy"]["options"] |= changed
    (repository / MARKER_FILE).write_text(json.dumps(marker))
    found = read_rendered(repository)
    assert (found.model, found.all_cores) == ("toy", True)
    with pytest.raises(InputError, match=said):
        _ = found.options


def test_another_detector_than_the_one_asked_for_is_named(repository: Path) -> None:
    assert read_rendered(repository, model="toy").model == "toy"
    with pytest.raises(InputError, match="holds no detector 'dyndet'; it holds the detector 'toy'"):
        read_rendered(repository, model="dyndet")


def test_graphs_are_compared_on_the_cpu_alone(bundle: Path, tmp_path: Path) -> None:
    found = read_rendered(render(bundle, tmp_path / "models", OPTIONS["gpu"]))
    with pytest.raises(InputError, match="is served on a GPU"):
        _ = found.cpu_graphs
    fused = read_rendered(render(bundle, tmp_path / "fused", OPTIONS["fused"]))
    with pytest.raises(InputError, match="has no stage model other_backbone1"):
        _ = fused.stage_configs
    shutil.copyfile(fused.graphs["head1"], tmp_path / "models" / "other_detector2" / "1" / "model.onnx")
    with pytest.raises(InputError, match=r"other_detector2/1/model\.onnx has changed since it was rendered"):
        _ = found.graphs
