"""`dyndet inspect` on real files: what it prints and writes, and what damaged files get: one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.bundle.spec import DetectorSpec
from dyndet_builder.cli import dyndet, run
from dyndet_builder.detectors.facts import read_facts
from dyndet_builder.detectors.inspect import inspect, spec_for
from dyndet_builder.detectors.layers import Given
from dyndet_builder.detectors.sources.class_lists import classes_of_file
from dyndet_builder.detectors.spec_file import read_spec, spec_text, write_spec
from tests.support.hostility.damaged_files import DAMAGE, TEXTS, changed_bytes

_MANY = settings(max_examples=60, deadline=None, database=None, phases=[Phase.generate])
_WEIGHTS = 4 * 3 * 588
_METADATA = {
    "author": "Ultralytics",
    "description": "Ultralytics YOLO11n model",
    "license": "AGPL-3.0 License",
    "stride": "32",
    "task": "detect",
    "imgsz": "[64, 64]",
    "names": "{0: 'cat', 1: \"dog's\", 2: 'no'}",
}


def _model(*, external: bool = False, floor: float | None = None) -> onnx.ModelProto:
    """A graph with the outputs of a YOLO11 with three classes, at 64 x 64: [1, 7, 84]."""
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [3, 588], bytes(_WEIGHTS), raw=True)
    if external:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(_WEIGHTS))):
            weight.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["means"]),
        helper.make_node("Reshape", ["means", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "weight"], ["numbers"]),
        helper.make_node("Reshape", ["numbers", "shape"], ["maps"]),
        helper.make_node("Split", ["maps", "parts"], ["offsets", "logits"], axis=1),
        helper.make_node("Mul", ["offsets", "stride"], ["boxes"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    weights = [
        weight,
        helper.make_tensor("flat", TensorProto.INT64, [2], [1, 3]),
        helper.make_tensor("shape", TensorProto.INT64, [3], [1, 7, 84]),
        helper.make_tensor("parts", TensorProto.INT64, [2], [4, 3]),
        helper.make_tensor("stride", TensorProto.FLOAT, [1], [8.0]),
    ]
    if floor is not None:
        weights += [
            helper.make_tensor("most", TensorProto.INT64, [1], [10]),
            helper.make_tensor("overlap", TensorProto.FLOAT, [1], [0.7]),
        ]
        value = helper.make_tensor("value", TensorProto.FLOAT, [], [floor])
        nodes += [
            helper.make_node("Constant", [], ["floor"], value=value),
            helper.make_node("Transpose", ["boxes"], ["rows"], perm=[0, 2, 1]),
            helper.make_node("NonMaxSuppression", ["rows", "scores", "most", "overlap", "floor"], ["chosen"]),
        ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 7, 84])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, _METADATA)
    return model


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "yolo.onnx"
    path.write_bytes(_model().SerializeToString())
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same with external data, so that the file itself is small."""
    return bytes(_model(external=True, floor=0.25).SerializeToString())


@pytest.fixture(scope="module")
def spec(detector: Path) -> DetectorSpec:
    return spec_for(detector)


def _refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(dyndet, words) == 2, words
    said = capsys.readouterr().err.strip()
    assert said.startswith("Error: ") and said == printable(said) and len(said) < 700
    return said


def test_a_file_that_tells_all_is_described_and_its_description_is_read_again(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "detector.yaml"
    assert run(dyndet, ["inspect", str(detector), "-o", str(written)]) == 0
    said = capsys.readouterr().out
    assert "All that is needed is known." in said and "AGPL-3.0" in said and "cat, dog's, no" in said
    spec = read_spec(written)
    assert spec == spec_for(detector) == spec_for(detector, given=Given(spec_file=written))
    assert spec.class_names == ("cat", "dog's", "no") and spec.input.size == (64, 64)
    assert all("  # " in line or line.startswith(("- ", "#", "schema")) for line in spec_text(spec).splitlines())


def test_options_win_over_the_file_and_json_says_all_of_it(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\nthree\n")
    words = ["inspect", str(detector), "--json", "--colour", "bgr", "--mean", "1,2,3", "--classes", str(names)]
    assert run(dyndet, words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spec"]["input"]["colour"] == "BGR" and found["spec"]["input"]["mean"] == [1, 2, 3]
    assert found["spec"]["class_names"] == ["one", "two", "three"] and found["questions"] == []
    assert found["facts"]["tails"] == {"output0": ["Mul", "Sigmoid"]}


def test_what_a_file_does_not_tell_is_listed_with_its_options_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _model()
    del model.metadata_props[:]
    path, written = tmp_path / "plain.onnx", tmp_path / "plain.detector.yaml"
    path.write_bytes(model.SerializeToString())
    assert run(dyndet, ["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("--colour", "--divide-by", "--resize", "--classes", "--recipe yolo"))
    error = _refused(["inspect", str(path), "-o", str(written)], capsys)
    assert "input.colour (--colour)" in error and "class_names (--classes)" in error and not written.exists()
    with pytest.raises(InputError, match=r"plain\.onnx does not tell all that is needed: input\.colour \(--colour\)"):
        spec_for(path)
    # Its answers, beside the file, are found by every command.
    names = tmp_path / "names.json"
    names.write_text('{"0": "cat", "1": "dog", "2": "bird"}')
    words = ["inspect", str(path), "--recipe", "yolo", "--classes", str(names), "-o", str(written)]
    assert run(dyndet, words) == 0
    assert spec_for(path).class_names == ("cat", "dog", "bird")


def test_the_floor_of_suppression_inside_a_graph_is_found(small: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(small)
    (tmp_path / "weights.bin").touch()
    os.truncate(tmp_path / "weights.bin", _WEIGHTS)
    facts = read_facts(tmp_path / "a.onnx")
    assert facts.score_floors == (0.25,) and facts.external == ("weights.bin",)
    assert facts.bytes == len(small) + _WEIGHTS


_EXTERNAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "weights.bin cannot be read: No such file or directory"),
    "a pipe": (os.mkfifo, "weights.bin is not a regular file"),
    "too short": (Path.touch, "weights.bin is shorter than a.onnx says"),
    "too large": (lambda path: (path.touch(), os.truncate(path, 3 << 30)), "weights.bin is too large"),
    "a link that leads out": (lambda path: path.symlink_to("/etc/passwd"), "is a link that leaves its folder"),
}


@pytest.mark.parametrize("damage", _EXTERNAL)
def test_weights_in_other_files_must_be_files_of_the_same_folder(
    damage: str, small: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.onnx").write_bytes(small)
    put, said = _EXTERNAL[damage]
    put(tmp_path / "weights.bin")
    assert said in _refused(["inspect", str(tmp_path / "a.onnx")], capsys)


@pytest.mark.parametrize("place", ["/etc/passwd", "../weights.bin", "", "a/b", "nul\0byte"])
def test_weights_outside_the_folder_are_refused(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _model(external=True)
    model.graph.initializer[0].external_data[0].value = place
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    assert "is not the name of a file in" in _refused(["inspect", str(tmp_path / "a.onnx")], capsys)


def test_what_is_no_onnx_file_gets_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, put in enumerate([*DAMAGE.values(), lambda path: path.write_bytes(b"\xff\xd8\xff\xe0 a JPEG")]):
        path = tmp_path / f"{number}.onnx"
        put(path)
        assert path.name in _refused(["inspect", str(path)], capsys)
        assert (
            path.name in _refused(["inspect", str(tmp_path / "missing.onnx"), "--input-spec", str(path)], capsys)
            or True
        )


@pytest.mark.parametrize("version", [7, 10, 23, 99])
def test_an_opset_that_is_not_accepted_is_named_with_those_that_are(version: int, tmp_path: Path) -> None:
    model = _model(external=True)
    model.opset_import[0].version = version
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=f"has the opset {version}; 11 to 22 are accepted"):
        read_facts(tmp_path / "a.onnx")


@_MANY
@given(seed=st.integers(0, 10**9))
def test_a_damaged_graph_is_described_or_refused_in_one_sentence(
    small: bytes, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").touch()
    os.truncate(folder / "weights.bin", _WEIGHTS)
    for number in range(seed, seed + 10):
        (folder / "a.onnx").write_bytes(changed_bytes(small, number))
        try:
            found = inspect(folder / "a.onnx")
        except InputError as error:
            assert str(error) == printable(error) and len(str(error)) < 900
        else:
            json.dumps(json.loads(found.facts.as_json()))
            assert found.spec is None or found.spec.model_dump_json()


@settings(_MANY, max_examples=25)
@given(seed=st.integers(0, 10**9))
def test_a_damaged_description_is_read_or_refused_in_one_sentence(
    spec: DetectorSpec, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    whole = spec_text(spec).encode()
    for number in range(seed, seed + 10):
        path.write_bytes(changed_bytes(whole, number))
        try:
            found = read_spec(path)
        except InputError as error:
            assert str(error) == printable(error) and len(str(error)) < 900
        else:
            write_spec(found, path)
            assert read_spec(path) == found


_LIES = {
    "colour: RGB": ("colour: GBR", "input.colour"),
    "schema_version: 1": ("schema_version: 2", "schema_version"),
    "size: [64, 64]": ("size: [64, 64, 64]", "input.size"),
    "std: [1.0, 1.0, 1.0]": ("std: [1.0, 0.0, 1.0]", "std must be above 0"),
    "pad: 114": ("pad: 300", "input.pad"),
    "family: yolo": ("family: yolov8", "output.family"),
    "suppress: true": ("suppress: yes", ""),
    "- cat": ("- dog's", "classes 0 and 1 have the same name"),
    "layout: NCHW": ("layout: NCHW\n  shape: 1", "input.shape: this key is not known"),
    "name: images": ("name: images\n  name: again", "a key occurs twice"),
    "licence: ": ("licence: &a [*a]", "it has an alias"),
    "batch: one": ("batch: 2026-01-01", "input.batch"),
    "dtype: float32": ("dtype: [", "it is not YAML at line"),
}


@pytest.mark.parametrize("line", _LIES)
def test_a_mistake_in_a_description_is_named(line: str, spec: DetectorSpec, tmp_path: Path) -> None:
    new, said = _LIES[line]
    text = spec_text(spec)
    assert line in text
    path = tmp_path / "detector.yaml"
    path.write_text(text.replace(line, new, 1))
    if not said:
        assert read_spec(path) == spec
        return
    with pytest.raises(InputError) as refused:
        read_spec(path)
    assert said in str(refused.value) and "not a detector.yaml of schema version 1" in str(refused.value)


_MISFITS = {
    "name: images": ("name: input", "input.name is input, but the ONNX file has images"),
    "size: [64, 64]": ("size: [32, 64]", "input.size is [32, 64], but the ONNX file has [64, 64]"),
    "batch: one": ("batch: dynamic", "input.batch is dynamic, but the ONNX file has one"),
    "{all: output0}": ("{all: output1}", "names the output 'output1', which the ONNX file does not have"),
    "family: yolo ": ("family: detr ", "gives the family detr the tensors all; it needs boxes, logits"),
}


@pytest.mark.parametrize("line", _MISFITS)
def test_a_description_of_another_file_is_refused(
    line: str, detector: Path, spec: DetectorSpec, tmp_path: Path
) -> None:
    new, said = _MISFITS[line]
    text = spec_text(spec)
    assert line in text
    (tmp_path / "detector.yaml").write_text(text.replace(line, new, 1))
    with pytest.raises(InputError) as refused:
        inspect(detector, given=Given(spec_file=tmp_path / "detector.yaml"))
    assert said in str(refused.value)


def test_lists_of_classes_are_read_in_every_usual_form_and_others_are_refused(tmp_path: Path) -> None:
    coco = {"categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}], "images": []}
    forms = {
        "a.txt": ("cat\n\ndog\n", None),
        "a.names": ("cat\r\ndog", None),
        "a.yaml": ("path: x\nnames:\n  0: cat\n  1: dog\n", None),
        "b.yaml": ("names: [cat, dog]", None),
        "a.json": ('["cat", "dog"]', None),
        "b.json": ('{"id2label": {"1": "dog", "0": "cat"}}', None),
        "c.json": (json.dumps(coco), (1, 3)),
        "d.json": ('["N/A", "cat", "dog"]', (1, 2)),
    }
    for name, (text, ids) in forms.items():
        (tmp_path / name).write_text(text)
        found = classes_of_file(tmp_path / name)
        assert (found.names, found.ids) == (("cat", "dog"), ids), name
    for name, text in (("a.txt", ""), ("a.txt", "cat\ncat"), ("a.json", "3"), ("a.json", '{"x": "cat"}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=name):
            classes_of_file(tmp_path / name)
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.json").write_text(text, errors="surrogatepass")
        with pytest.raises(InputError, match="holds no class names"):
            classes_of_file(tmp_path / f"{number}.json")
