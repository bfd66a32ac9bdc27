"""Files and descriptions that are wrong, or meant to harm: each is refused in one sentence, and nothing is chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.bundle.spec import DetectorSpec
from dyndet_builder.cli import dyndet
from dyndet_builder.detectors.facts import GraphFacts, TensorFacts, read_facts
from dyndet_builder.detectors.graph import build_graph
from dyndet_builder.detectors.inspect import inspect
from dyndet_builder.detectors.recognise import recognise
from dyndet_builder.detectors.runner import DetectorRunner
from dyndet_builder.detectors.sources.class_lists import classes_of_text
from dyndet_builder.detectors.spec_file import check_spec
from tests.support.foreign.core import CLASS_NAMES
from tests.support.foreign.hand_made import NAMES, SIZE, constant_detector, spec_of
from tests.support.foreign.recipes import Recipe
from tests.support.foreign.write import write_detector

SMALL = (160, 160)


def _facts(outputs: dict[str, list[int | str]], *, tail: tuple[str, ...] = (), size: int | str = 640) -> GraphFacts:
    picture = TensorFacts(name="images", dtype="float32", dims=("batch", 3, size, size))
    found = tuple(TensorFacts(name=name, dtype="float32", dims=tuple(dims)) for name, dims in outputs.items())
    return GraphFacts(inputs=(picture,), outputs=found, opset=17, tails={name: tail for name in outputs})


@pytest.mark.parametrize(
    ("tail", "families"),
    [
        ((), {"yolo-objectness", "yolox-raw", "joined"}),
        (("Mul", "Sigmoid"), {"yolo-objectness", "yolox-raw", "joined"}),
        (("ScatterND",), {"yolo-objectness", "yolox-raw", "joined"}),
        (("Add", "Exp", "Mul", "Sigmoid"), {"yolo-objectness", "joined"}),
        (("Conv", "Sigmoid"), {"yolox-raw"}),
    ],
)
def test_whether_a_yolox_is_decoded_is_asked_unless_the_end_of_its_graph_shows_it(
    tail: tuple[str, ...], families: set[str]
) -> None:
    found = recognise(_facts({"output": ["batch", 8400, 85]}, tail=tail))
    asked = {choice for one in found.questions for choice in one.choices if one.field == "output.family"}
    assert (asked or {found.output.family if found.output else ""}) == families


@pytest.mark.parametrize("side", [-5, 7, 4097, 2**60])
def test_pictures_of_a_size_that_no_description_can_hold_are_refused(side: int) -> None:
    with pytest.raises(InputError, match="accepted are sides of 8 to 4096 pixels"):
        recognise(_facts({"output": ["batch", 7, 84]}, size=side))


_YOLO = {"family": "yolo", "tensors": {"all": "o"}, "boxes": "cxcywh", "suppress": True}


@pytest.mark.parametrize(
    ("output", "dims", "reason"),
    [
        ({**_YOLO, "family": "rows"}, {"o": [1, 300, 7]}, "needs 6 columns"),
        ({**_YOLO, "family": "joined"}, {"o": [1, 7, 84]}, "needs 3 slots of classes.* has 80"),
        (_YOLO, {"o": [1, 6, 84]}, "needs 3 slots of classes.* has 2"),
        ({**_YOLO, "class_ids": (0, 1, 90)}, {"o": [1, 7, 84]}, "needs 91 slots of classes.* has 3"),
        ({**_YOLO, "family": "yolox-raw", "strides": ()}, {"o": [1, 84, 8]}, "of 0 cells, but .* has 84 rows"),
        (
            {"family": "detr", "tensors": {"logits": "l", "boxes": "b"}, "background": "last", "suppress": False},
            {"l": [1, 9, 3], "b": [1, 9, 4]},
            "needs 4 slots of classes.* has 3",
        ),
    ],
)
def test_a_description_that_does_not_fit_the_outputs_is_refused_before_anything_runs(
    output: dict[str, Any], dims: dict[str, list[int | str]], reason: str
) -> None:
    with pytest.raises(InputError, match=f"a.yaml .*{reason}"):
        check_spec(spec_of(output, batch="one"), _facts(dims, size=SIZE), source="a.yaml")


def _fixed_inside(path: Path, operator: str) -> DetectorSpec:
    """A detector that says it takes any batch, but an operator at its end makes one picture of it."""
    values = np.zeros((7, 84), np.float32)
    values[:4], values[4:] = 20.0, 0.9
    model = onnx.load(constant_detector(path, {"o": values}))
    last = next(node for node in model.graph.node if node.output[0] == "o")
    last.output[0] = "inner"
    if operator == "Reshape":
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 7, 84]), "fixed"))
        model.graph.node.append(helper.make_node("Reshape", ["inner", "fixed"], ["o"]))
    else:
        model.graph.node.append(helper.make_node("ReduceMean", ["inner"], ["o"], axes=[0], keepdims=1))
    onnx.save(model, path)
    return spec_of(_YOLO)


@pytest.mark.parametrize("operator", ["Reshape", "ReduceMean"])
def test_a_batch_that_is_fixed_inside_the_graph_is_named_with_the_way_out(operator: str, tmp_path: Path) -> None:
    spec = _fixed_inside(tmp_path / "d.onnx", operator)
    model = build_graph(tmp_path / "d.onnx", spec, fit=spec.input.fit, nms=Nms(), classes=range(len(NAMES)))
    runner = DetectorRunner(model, file=tmp_path / "d.onnx")
    assert len(runner.run(np.zeros((1, SIZE, SIZE, 3), np.uint8))["scores"]) == 1
    with pytest.raises(InputError, match=r"d\.onnx takes one picture at a time.*`batch: one`"):
        runner.run(np.zeros((3, SIZE, SIZE, 3), np.uint8))


@pytest.mark.parametrize(
    ("entries", "size", "reason"),
    [
        ({}, 10, "is shorter than"),
        ({"offset": "-5"}, 4000, "another size than its place"),
        ({"length": "8"}, 4000, "another size than its place"),
        ({"offset": "9" * 30}, 4000, "is shorter than"),
        ({"offset": "none"}, 4000, "is shorter than"),
    ],
)
def test_external_weights_that_do_not_fill_their_tensor_are_refused(
    entries: dict[str, str], size: int, reason: str, tmp_path: Path
) -> None:
    model = onnx.load(constant_detector(tmp_path / "d.onnx", {"o": np.ones((7, 84), np.float32)}))
    weight = next(one for one in model.graph.initializer if one.name == "o_values")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", **entries}.items():
        weight.external_data.add(key=key, value=value)
    (tmp_path / "d.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "w.bin").write_bytes(bytes(size))
    with pytest.raises(InputError, match=reason):
        read_facts(tmp_path / "d.onnx")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{" * 100_000, "-" * 100_000, "{0: 'a' * 10**9}", '{"0": ' + "9" * 6000]
)
def test_a_list_of_classes_that_would_exhaust_a_parser_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match=r"list|number"):
        classes_of_text(text)


def test_a_probe_says_what_is_known_beside_what_it_finds_and_changes_nothing(demo_images: Path, tmp_path: Path) -> None:
    true = write_detector(tmp_path / "a.onnx", "easy", "rows", Recipe(size=SMALL, colour="BGR", divide_by=1.0))
    write_detector(tmp_path / "b.onnx", "hard", "rows", Recipe(size=SMALL))
    content = json.loads(true.model_dump_json())
    content["input"] |= {"divide_by": 255.0, "colour": "RGB"}  # wrong
    (tmp_path / "a.detector.yaml").write_text(json.dumps(content))
    other = json.loads(write_detector(tmp_path / "b.onnx", "hard", "rows", Recipe(size=SMALL)).model_dump_json())
    (tmp_path / "b.detector.yaml").write_text(json.dumps(other))
    command = ["inspect", str(tmp_path / "a.onnx"), "--probe", "--images", str(demo_images), "--pictures", "12"]
    command += ["--with", str(tmp_path / "b.onnx"), "--sheet", str(tmp_path / "sheet.png"), "--json"]
    found = CliRunner().invoke(dyndet, command, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    assert answer["probe"]["measure"] == "agreement"
    assert answer["spec"]["input"] == content["input"]
    assert answer["probe"]["variants"][0]["scale"] == "0..255"
    assert "Known without the probe (see Why): RGB, 0..1" in answer["probe"]["sentences"][-1]
    assert "What was known stays" in answer["probe"]["sentences"][-1]

    (tmp_path / "b.detector.yaml").write_text(json.dumps({**other, "class_names": [f"x{n}" for n in CLASS_NAMES]}))
    with pytest.raises(InputError, match="has no class in common with these"):
        CliRunner().invoke(dyndet, command, catch_exceptions=False)


@pytest.mark.parametrize("options", [["-o"], ["--probe", "--images", ".", "--sheet"]])
def test_a_detector_is_never_replaced_by_what_is_found_about_it(options: list[str], tmp_path: Path) -> None:
    file = constant_detector(tmp_path / "d.onnx", {"o": np.ones((7, 84), np.float32)})
    before = file.read_bytes()
    with pytest.raises(InputError, match=r"writes a file that ends in \.(yaml or .yml|png), not .*d\.onnx"):
        CliRunner().invoke(dyndet, ["inspect", str(file), *options, str(file)], catch_exceptions=False)
    assert file.read_bytes() == before


def test_a_name_that_leaves_no_room_for_the_ending_of_a_description_is_read(tmp_path: Path) -> None:
    file = constant_detector(tmp_path / f"{'a' * 250}.onnx", {"o": np.ones((7, 84), np.float32)})
    assert inspect(file).draft is not None
