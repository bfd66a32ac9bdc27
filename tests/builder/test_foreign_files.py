"""Files of others: each reader accepts what fits its schema, or says in one sentence why not, and nothing else happens.

Each property is tried with at least a thousand changed files. The seed of a change is all that hypothesis draws.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import onnx
import pytest
from google.protobuf import text_format
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from pydantic import BaseModel

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import FILE_NAME, Bundle, check_stage, file_sha256, read_bundle, read_manifest
from dyndet_builder.cli import dyndet, run
from dyndet_builder.engines.record import read_engines_record
from dyndet_builder.operating_points import content_of_points, read_operating_points
from dyndet_builder.repository.config_files import read_config
from dyndet_builder.repository.marker import MARKER_FILE, own_names, read_marker
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered, read_repository
from dyndet_builder.repository.whole import settings_of
from dyndet_builder.server.remote import RemoteServer
from dyndet_builder.server.remote.lock import object_lock
from dyndet_builder.steps import Step, run_steps
from tests.support.deployments import calibrate, points
from tests.support.hostility.damaged_files import DAMAGE, changed_bytes, changed_json
from tests.support.rendered.model_code import model_code
from tests.support.toy_bundle import write_toy_bundle
from tests.support.toy_engines import write_toy_engines
from tests.support.toy_pair import TWO_RULES, write_toy_pair

_SEEDS, _CASES = 100, 1000
_MANY = settings(max_examples=_SEEDS, deadline=None, database=None, phases=[Phase.generate])
"""a smaller seed is no simpler case, so there is nothing to shrink"""


def _seeds(first: int) -> range:
    """Several cases for each seed that is drawn, because drawing takes longer than most cases."""
    return range(first, first + _CASES // _SEEDS)


@dataclass(frozen=True)
class _Files:
    """One valid file of each kind, and a folder for changed ones."""

    bundle: Path
    pair: Path
    repository: Path
    engines: Path
    work: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> _Files:
    folder = tmp_path_factory.mktemp("files")
    bundle = write_toy_bundle(folder / "bundle")
    repository = render(bundle, folder / "models", RenderOptions(encoded=True))
    calibrate(repository, "toy", points())
    engines = write_toy_engines(folder / "engines", read_bundle(bundle))
    (folder / "work").mkdir()
    pair = write_toy_pair(folder / "pair", variant=TWO_RULES)
    return _Files(bundle, pair, repository, engines, folder / "work")


def _at(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def _served(path: Path) -> dict[str, float]:
    try:
        served = model_code("operating_points").OperatingPoints(path, warn=pytest.fail)
    except ValueError as error:
        raise InputError(str(error)) from error
    os.close(served._folder)
    content = served._content
    return {**content.thresholds, "the default": content.thresholds[content.default]}


def _first_form(marker: bytes) -> bytes:
    content = json.loads(marker)["detectors"]["toy"]
    return json.dumps({"model": "toy", **{key: content[key] for key in ("bundle_sha256", "options")}}).encode()


def _lock(content: bytes) -> str:
    """Try to take a lock that another push holds, with this content."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/lock", content)
    with object_lock(memory, "/lock", wait_s=0, busy="another push is running"):
        return "taken"


_READERS: dict[str, tuple[Callable[[_Files], bytes], Callable[[_Files, bytes], Any]]] = {
    "bundle.json": (
        lambda files: (files.bundle / FILE_NAME).read_bytes(),
        lambda files, content: read_manifest(_at(files.work / FILE_NAME, content)),
    ),
    "bundle.json of a pair": (
        lambda files: (files.pair / FILE_NAME).read_bytes(),
        lambda files, content: read_manifest(_at(files.work / FILE_NAME, content)),
    ),
    "dyndet.json": (
        lambda files: (files.repository / MARKER_FILE).read_bytes(),
        lambda files, content: read_marker(_at(files.work / MARKER_FILE, content).parent),
    ),
    "dyndet.json in its first form": (
        lambda files: _first_form((files.repository / MARKER_FILE).read_bytes()),
        lambda files, content: read_marker(_at(files.work / MARKER_FILE, content).parent),
    ),
    "operating_points.json": (
        lambda files: (files.repository / "toy" / "1" / "operating_points.json").read_bytes(),
        lambda files, content: read_operating_points(_at(files.work / "points.json", content)),
    ),
    "operating_points.json in the server": (
        lambda files: (files.repository / "toy" / "1" / "operating_points.json").read_bytes(),
        lambda files, content: _served(_at(files.work / "served.json", content)),
    ),
    "engines.json": (
        lambda files: (files.engines / "engines.json").read_bytes(),
        lambda files, content: read_engines_record(_at(files.work / "engines.json", content).parent),
    ),
    "the public model's settings": (
        lambda files: (files.repository / "toy" / "1" / "dyndet.json").read_bytes(),
        lambda files, content: settings_of(content, "settings.json"),
    ),
    "a lock in an object store": (
        lambda files: json.dumps({"token": "0" * 16, "owner": "somebody", "time": time.time()}).encode(),
        lambda files, content: _lock(content),
    ),
}


@pytest.mark.parametrize("name", _READERS)
def test_a_changed_json_file_fits_its_schema_or_is_refused_in_one_sentence(name: str, files: _Files) -> None:
    valid, read = _READERS[name]
    whole = valid(files)
    seen = {True: 0, False: 0}

    @_MANY
    @given(seed=st.integers(0, 2**48))
    def check(seed: int) -> None:
        for each in _seeds(seed):
            seen[_accepted(lambda each=each: read(files, changed_json(whole, each)))] += 1

    check()
    assert seen[False] > _CASES / 4, seen
    if not name.startswith("a lock"):
        assert _accepted(lambda: read(files, whole)) and seen[True], seen


@pytest.mark.parametrize("name", _READERS)
def test_a_key_that_occurs_twice_is_refused(name: str, files: _Files) -> None:
    """Two readers could take different ones of them."""
    valid, read = _READERS[name]
    whole = valid(files)
    key, value = next(iter(json.loads(whole).items()))
    twice = f"{{{json.dumps(key)}: {json.dumps(value)}, ".encode() + whole.strip()[1:]
    with pytest.raises(InputError, match=r"key .*occurs twice"):
        read(files, twice)


def test_a_changed_configuration_is_read_or_refused_in_one_sentence(files: _Files) -> None:
    whole = (files.repository / "toy_detector2" / "config.pbtxt").read_bytes()

    @_MANY
    @given(seed=st.integers(0, 2**48))
    def check(seed: int) -> None:
        for each in _seeds(seed):
            path = _at(files.work / "toy_detector2" / "config.pbtxt", changed_bytes(whole, each))
            _accepted(lambda path=path: text_format.MessageToString(read_config(path.parent)))

    check()
    assert _accepted(lambda: read_config(files.repository / "toy_detector2"))


def test_a_changed_graph_is_that_of_the_bundle_or_refused_in_one_sentence(files: _Files) -> None:
    described = read_manifest(files.bundle / FILE_NAME)
    stage = described.stages["detector2"]
    whole = (files.bundle / stage.file).read_bytes()

    @_MANY
    @given(seed=st.integers(0, 2**48))
    def check(seed: int) -> None:
        for each in _seeds(seed):
            path = _at(files.work / "graph.onnx", changed_bytes(whole, each))
            _accepted(lambda path=path: check_stage(path, stage, opset=described.opset))

    check()


def test_finished_steps_are_known_or_done_again_whatever_the_file_holds(files: _Files, tmp_path: Path) -> None:
    done: list[str] = []
    step = Step(name="export", depends_on=dict, act=lambda: done.append("again"), is_whole=lambda: True)
    assert (run_steps([step], tmp_path), run_steps([step], tmp_path)) == ((), ("export",))
    whole = (tmp_path / "build.json").read_bytes()

    @_MANY
    @given(seed=st.integers(0, 2**48))
    def check(seed: int) -> None:
        for each in _seeds(seed):
            (tmp_path / "build.json").write_bytes(changed_json(whole, each))
            assert run_steps((), tmp_path) == ()

    check()
    for put in DAMAGE.values():
        _replace(path := tmp_path / "build.json", put)
        done.clear()
        if path.exists() and not path.is_file():  # it could not be written either
            with pytest.raises(InputError, match=r"build\.json is a (folder|device or a pipe)"):
                run_steps([step], tmp_path)
            assert not done
        else:
            assert (run_steps([step], tmp_path), done) == ((), ["again"])


def _accepted(read: Callable[[], Any]) -> bool:
    """Whether a reader accepts its file. Its answer must be clean, its refusal one printable sentence."""
    try:
        found = read()
    except InputError as error:
        said = str(error)
        assert said and said == printable(said) and len(said) < 2000, said
        return False
    if isinstance(found, BaseModel):
        assert type(found).model_validate_json(found.model_dump_json(), strict=True) == found
        assert all(_is_clean(leaf) for leaf in _leaves(found.model_dump(mode="json")))
    return True


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield key
            yield from _leaves(child)
    elif isinstance(value, list):
        for child in value:
            yield from _leaves(child)
    else:
        yield value


def _is_clean(leaf: Any) -> bool:
    return leaf.isprintable() if isinstance(leaf, str) else leaf is None or math.isfinite(leaf)


def _replace(path: Path, put: Callable[[Path], object]) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    put(path)


def _refused(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must refuse its input: exit status 2, one printable sentence, and nothing is written."""
    before = sorted(folder.rglob("*"))
    assert run(dyndet, words) == 2, words
    said = capsys.readouterr()
    error = said.err.strip()
    assert error.startswith("Error: ") and error == printable(error), error
    assert said.out == "" and sorted(folder.rglob("*")) == before, words
    return error


def test_a_damaged_bundle_is_refused_and_nothing_is_rendered(
    files: _Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(files.bundle, tmp_path / "bundle")
    for name in (FILE_NAME, "head1.onnx"):
        whole = (bundle / name).read_bytes()
        for put in DAMAGE.values():
            _replace(bundle / name, put)
            error = _refused(["render", str(bundle), str(tmp_path / "models")], tmp_path, capsys)
            assert name in error
        _replace(bundle / name, lambda path, whole=whole: path.write_bytes(whole))
    assert run(dyndet, ["render", str(bundle), str(tmp_path / "models")]) == 0


_LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a name that leaves the folder": lambda found: found.update(name="../../escaped"),
    "a name longer than files can have": lambda found: found.update(name="x" * 250),
    "a key with an escape sequence": lambda found: found.update({"\x1b[31mEVIL\x07": 1}),
    "a tensor for a shell": lambda found: found["stages"]["backbone1"]["inputs"][0].update(name="image$(touch PWNED)"),
    "a file that leaves the folder": lambda found: found["stages"]["head1"].update(file="../bundle/head1.onnx"),
    "a file that is a path": lambda found: found["stages"]["head1"].update(file="/etc/passwd"),
    "one file for two stages": lambda found: found["stages"]["head1"].update(file="backbone1.onnx"),
    "no hash": lambda found: found["stages"]["head1"].update(sha256="0" * 63 + "G"),
    "a size that no memory holds": lambda found: found.update(input_size=10**9),
    "a size that is no multiple": lambda found: found.update(input_size=100),
    "a shape that no memory holds": lambda found: found["stages"]["head1"]["inputs"][0].update(shape=[2**20] * 4),
    "more detections than rows": lambda found: found["nms"].update(max_detections=5),
    "a class twice": lambda found: found.update(class_names=["cat", "cat"]),
    "no classes": lambda found: found.update(class_names=[]),
    "a stage too few": lambda found: found["stages"].pop("head1"),
    "an opset to come": lambda found: found.update(opset=31),
    "features that nothing gives": lambda found: found["stages"]["head1"]["inputs"][0].update(name="features_99"),
    "an image of another size": lambda found: found["stages"]["backbone1"]["inputs"][0].update(shape=[64, 64, 3]),
}


@pytest.mark.parametrize("lie", _LIES)
def test_a_description_that_nothing_can_be_rendered_from_is_refused(
    lie: str, files: _Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(files.bundle, tmp_path / "bundle")
    content = json.loads((bundle / FILE_NAME).read_bytes())
    _LIES[lie](content)
    (bundle / FILE_NAME).write_text(json.dumps(content))
    error = _refused(["render", str(bundle), str(tmp_path / "models")], tmp_path, capsys)
    assert f"{FILE_NAME} is not a bundle of schema version 1 or 2: " in error and len(error) < 600


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def _external_inside(model: onnx.ModelProto) -> None:
    """The same, in a constant of a graph inside a node."""
    value = helper.make_tensor("inner", TensorProto.FLOAT, [1], [1.0])
    value.external_data.add(key="location", value="weights.bin")
    inner = helper.make_graph([helper.make_node("Constant", [], ["out"], value=value)], "inner", [], [])
    model.graph.node.add(op_type="If", input=["x"], output=["y"]).attribute.append(
        helper.make_attribute("then_branch", inner)
    )


_GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "weights elsewhere": (_external, "a part of its weights is in another file"),
    "weights elsewhere, deep inside": (_external_inside, "a part of its weights is in another file"),
    "an operator of others": (
        lambda model: model.graph.node.add(op_type="Shell", domain="evil.ops", output=["z"]),
        "the operator 'Shell' of the domain 'evil.ops'",
    ),
    "a function": (lambda model: model.functions.add(name="Own", domain="own"), "a function of its own, 'Own'"),
    "another input": (
        lambda model: setattr(model.graph.input[0], "name", "other\x1b[2J"),
        r"its inputs are other\x1b[2J float32 [3, 32, 32] instead of features_8 float32 [3, 32, 32]",
    ),
    "another output": (lambda model: model.graph.output.pop(), "its outputs are num_detections"),
    "another opset": (lambda model: setattr(model.opset_import[0], "version", 19), "the opset 19 instead of 17"),
    "one image only": (
        lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1),
        "in a batch of 1",
    ),
}


@pytest.mark.parametrize("lie", _GRAPHS)
def test_a_graph_that_is_not_what_its_bundle_says_is_refused_with_a_right_hash(
    lie: str, files: _Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(files.bundle, tmp_path / "bundle")
    change, said = _GRAPHS[lie]
    model = onnx.load(bundle / "head1.onnx")
    change(model)
    (bundle / "head1.onnx").write_bytes(model.SerializeToString())
    described = read_manifest(bundle / FILE_NAME)
    stage = described.stages["head1"].model_copy(update={"sha256": file_sha256(bundle / "head1.onnx")})
    changed: Bundle = described.model_copy(update={"stages": {**described.stages, "head1": stage}})
    (bundle / FILE_NAME).write_text(changed.model_dump_json())
    assert said in _refused(["render", str(bundle), str(tmp_path / "models")], tmp_path, capsys)


def test_a_stage_that_is_a_link_out_of_the_bundle_is_refused(
    files: _Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(files.bundle, tmp_path / "bundle")
    (bundle / "head1.onnx").rename(tmp_path / "elsewhere.onnx")
    (bundle / "head1.onnx").symlink_to("../elsewhere.onnx")
    error = _refused(["render", str(bundle), str(tmp_path / "models")], tmp_path, capsys)
    assert "head1.onnx is a link that leaves its folder" in error


_TRIED_EVERYWHERE = ("not there", "a pipe", "nothing", "another type")
_PARTS = (
    MARKER_FILE,
    "toy/bundle.json",
    "toy/config.pbtxt",
    "toy/1/dyndet.json",
    "toy/1/operating_points.json",
    "toy_head1/config.pbtxt",
    "toy_head1/1/model.onnx",
    "toy_encoded/config.pbtxt",
)


@pytest.mark.parametrize("part", _PARTS)
def test_a_repository_that_no_server_could_load_is_neither_deployed_nor_served_nor_pushed(
    part: str, files: _Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository, store = shutil.copytree(files.repository, tmp_path / "models"), tmp_path / "store"
    store.mkdir()
    path = repository / part
    remote = RemoteServer(url="127.0.0.1:9", models=str(store))
    content = {name: put for name, put in DAMAGE.items() if not part.endswith(".onnx") or "JSON" not in name}
    if part.endswith(".onnx"):  # content is compared with a hash as it is measured, and the server reads it anyway
        content = {name: put for name, put in content.items() if name.startswith(("a ", "nothing"))}
        content = {name: put for name, put in content.items() if name not in ("a lone surrogate", "a huge number")}
    for name, put in {**content, "not there": lambda path: None}.items():
        _replace(path, put)
        if name in _TRIED_EVERYWHERE and not (part == MARKER_FILE and name == "not there"):
            error = _refused(["serve", str(repository), "--docker"], tmp_path, capsys)
            assert part.split("/")[-1] in error or "toy" in error
        _refused(["deploy", "render", str(repository), str(tmp_path / "out")], tmp_path, capsys)
        if name in _TRIED_EVERYWHERE and part not in (MARKER_FILE, "toy/bundle.json", "toy_encoded/config.pbtxt"):
            with pytest.raises(InputError) as refused:
                remote.deploy(repository, "toy")
            assert str(refused.value) == printable(refused.value)
    assert list(store.iterdir()) == []


def test_nothing_but_its_own_files_goes_with_a_detector(
    files: _Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link that leads out would copy what only the one who pushes may read to where the models are."""
    repository, store = shutil.copytree(files.repository, tmp_path / "models"), tmp_path / "store"
    store.mkdir()
    (tmp_path / "secret").write_text("of the one who pushes")
    extra = repository / "toy" / "1" / "extra"
    for put in (
        lambda: extra.symlink_to(tmp_path / "secret"),
        lambda: extra.symlink_to("/etc"),
        lambda: os.mkfifo(extra),
    ):
        put()
        assert "extra" in _refused(["deploy", "render", str(repository), str(tmp_path / "out")], tmp_path, capsys)
        with pytest.raises(InputError, match="extra"):
            RemoteServer(url="127.0.0.1:9", models=str(store)).deploy(repository, "toy")
        extra.unlink()
    assert list(store.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda detector: detector["options"].update(gpus="all"),
        lambda detector: detector["options"].update(backend=["python"]),
        lambda detector: detector["options"].update(threads=10**400),
        lambda detector: detector["options"].update(warmup_image="\x1b[31m"),
        lambda detector: detector["options"].update(latency_buckets_ms=[1, "2"]),
        lambda detector: detector.update(models=["toy", "../../x"]),
        lambda detector: detector.update(models=["toy", "stranger"]),
        lambda detector: detector.update(models=["toy\0"]),
        lambda detector: detector.update(described_in="../elsewhere"),
        lambda detector: detector.update(described_in="toy_head1"),
        lambda detector: detector.update(bundle_sha256="no hash"),
        lambda detector: detector.update(unknown=1),
    ],
)
def test_a_marker_with_paths_and_options_that_dyndet_does_not_write_is_refused(
    change: Callable[[dict[str, Any]], object],
    files: _Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository = shutil.copytree(files.repository, tmp_path / "models")
    marker = json.loads((repository / MARKER_FILE).read_bytes())
    change(marker["detectors"]["toy"])
    (repository / MARKER_FILE).write_text(json.dumps(marker))
    for words in (["deploy", "render", str(repository), str(tmp_path / "out")], ["serve", str(repository), "--docker"]):
        assert MARKER_FILE in _refused(words, tmp_path, capsys)


def test_models_of_others_are_served_and_those_that_cannot_be_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {
        "theirs": "backend: 'x'",
        "odd": "what only a newer server reads { }",
        "other": "name: 'me'",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(text)
    assert set(read_repository(tmp_path).unread) == {"odd", "other"}
    assert run(dyndet, ["serve", str(tmp_path), "--docker"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("docker run ") and said.err.count("Note: ") == 2
    assert "odd/config.pbtxt is not a model configuration: " in said.err
    assert "other/config.pbtxt names the model 'me', but its folder is 'other'" in said.err


def test_what_is_pushed_is_the_detectors_own(files: _Files, tmp_path: Path) -> None:
    """Stage models of another name, no settings, and links out of the repository."""
    repository, store = shutil.copytree(files.repository, tmp_path / "models"), tmp_path / "store"
    store.mkdir()
    remote = RemoteServer(url="127.0.0.1:9", models=str(store))
    path = repository / "toy" / "1" / "dyndet.json"
    settings_text = path.read_text()
    for model, said in (
        ("../../etc", r'model is "../../etc"; a text of the form'),
        ("stranger", "not a stage model of 'toy'"),
    ):
        path.write_text(settings_text.replace('"toy_head1"', json.dumps(model)))
        with pytest.raises(InputError, match=said):
            remote.deploy(repository, "toy")
    path.unlink()
    with pytest.raises(InputError, match=r"1/dyndet\.json cannot be read: No such file"):
        remote.deploy(repository, "toy")
    path.write_text(settings_text)
    with pytest.raises(InputError, match=r"operating_points\.json is not a file of operating points"):
        remote.update_points(_with(repository, "toy/1/operating_points.json", '{"default": "a"}'), "toy")
    assert list(store.iterdir()) == []


def _with(repository: Path, name: str, text: str) -> Path:
    (repository / name).write_text(text)
    return repository


def test_thresholds_at_both_ends_are_accepted_and_nothing_beyond(files: _Files, tmp_path: Path) -> None:
    """Threshold 1 sends every image to detector 1, threshold 0 sends every image to detector 2."""
    file = tmp_path / "operating_points.json"
    for threshold, accepted in (("0", True), ("1", True), ("1.0", True), ("1.0000001", False), ("-1e-9", False)):
        file.write_text(f'{{"schema_version": 2, "default": "a", "points": {{"a": {{"threshold": {threshold}}}}}}}')
        assert _accepted(lambda: content_of_points(file)) == accepted == _accepted(lambda: _served(file)), threshold


def test_the_bundle_of_a_rendered_detector_leads_nowhere_else(files: _Files, tmp_path: Path) -> None:
    repository = shutil.copytree(files.repository, tmp_path / "models")
    folder = read_rendered(repository).link_bundle(tmp_path / "bundle")
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert read_bundle(folder) == read_bundle(files.bundle)
    graph = repository / "toy_head1" / "1" / "model.onnx"
    graph.rename(tmp_path / "elsewhere.onnx")
    graph.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(InputError, match="is a link that leaves its folder"):
        read_rendered(repository).link_bundle(tmp_path / "again")
    assert own_names("toy")[0] == "toy" and not (tmp_path / "again").exists()
