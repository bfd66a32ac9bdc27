"""The demo's routes as detectors of every family and recipe: the merged graph gives what the network itself gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from dynamicdet.aliases import UInt8Array
from dynamicdet.datasets.dataset import CocoDataset, read_dataset, some_with_objects
from dynamicdet.evaluation.precision import average_precision
from dynamicdet.images import read_image
from dynamicdet.suppression import Detections
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.bundle.spec import DetectorSpec, Family
from dyndet_builder.detectors.graph import build_graph
from dyndet_builder.detectors.inspect import inspect
from dyndet_builder.detectors.layers import Classes, Given, Layer
from dyndet_builder.detectors.runner import DetectorRunner
from tests.support.foreign.expected import as_arrays, detections, expected
from tests.support.foreign.recipes import CLASSES, INPUTS, OUTPUTS, WRITERS, Recipe
from tests.support.foreign.write import write_detector

NMS = Nms()
FAMILIES: tuple[Family, ...] = get_args(Family)
_INPUTS_EACH = 2
_LEFT_OUT = ("plain", "opset-13", "opset-16")  # between the ends


def _cases() -> Iterator[tuple[Family, str, Recipe]]:
    """Every way to write answers; every way to take pictures, and every class list, with some of the families."""
    inputs = cycle(item for item in INPUTS.items() if item[0] not in _LEFT_OUT)
    classes = cycle(CLASSES.items())
    for family in FAMILIES:
        for name, recipe in (*OUTPUTS[family].items(), *islice(inputs, _INPUTS_EACH), next(classes)):
            yield family, name, recipe


CASES = {f"{family}, {name}": (family, recipe) for family, name, recipe in _cases()}


@pytest.fixture(scope="module")
def pictures(demo_images: Path) -> list[UInt8Array]:
    """Wide, high and square ones."""
    files = sorted(demo_images.iterdir())
    return [read_image(files[number]) for number in (3, 80)]


def merged(path: Path, spec: DetectorSpec) -> DetectorRunner:
    numbers = range(len(spec.class_names))
    return DetectorRunner(build_graph(path, spec, fit=spec.input.fit, nms=NMS, classes=numbers), threads=1)


def assert_same(answer: Mapping[str, np.ndarray], row: int, right: Detections, recipe: Recipe) -> None:
    boxes, scores, classes = as_arrays(right)
    count = int(answer["num_detections"][row, 0])
    given = {name: answer[name][row, :count] for name in ("boxes", "scores", "classes")}
    if recipe.dtype == "float16":  # the order of near ties may differ, and the last ones may be others
        sure = scores > 0.05
        order = [int(np.argmin(np.abs(given["boxes"] - box).max(axis=1) + (given["classes"] != label) * 1000))
                 for box, label in zip(boxes[sure], classes[sure], strict=True)]  # fmt: skip
        given = {name: values[order] for name, values in given.items()}
        boxes, scores, classes = boxes[sure], scores[sure], classes[sure]
        box_bar, score_bar = 1.0, 0.02
    else:
        box_bar, score_bar = 0.05, 1e-3
        assert len(given["scores"]) == len(scores) > 0
        assert np.abs(given["scores"] - scores).max() < score_bar  # in order
        given = {name: values[_partners(given, boxes, classes)] for name, values in given.items()}  # but for ties
    assert len(given["scores"]) == len(scores) > 0
    assert np.abs(given["boxes"] - boxes).max() < box_bar
    assert np.abs(given["scores"] - scores).max() < score_bar
    assert given["classes"].tolist() == classes.tolist()


def _partners(given: Mapping[str, np.ndarray], boxes: np.ndarray, classes: np.ndarray) -> list[int]:
    """For each right box, the nearest given one of its class; each is the partner of one."""
    found = [int(np.argmin(np.abs(given["boxes"] - box).max(axis=1) + (given["classes"] != label) * 1000))
             for box, label in zip(boxes, classes, strict=True)]  # fmt: skip
    assert sorted(found) == list(range(len(boxes)))
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_merged_graph_gives_what_the_network_gives(case: str, pictures: list[UInt8Array], tmp_path: Path) -> None:
    family, recipe = CASES[case]
    spec = write_detector(tmp_path / "detector.onnx", "easy", family, recipe)
    runner = merged(tmp_path / "detector.onnx", spec)
    answer = runner.run(np.stack([spec.input.fit(picture).image for picture in pictures]))
    for row, right in enumerate(expected("easy", family, recipe, pictures, candidates=NMS.pre_top_k)):
        assert_same(answer, row, right, recipe)


@pytest.fixture(scope="module")
def labelled(demo_images: Path) -> CocoDataset:
    return some_with_objects(read_dataset(demo_images.parent, 160, split="valid"), 60)


@pytest.fixture(scope="module")
def route_ap(labelled: CocoDataset) -> float:
    """AP of the hard route, by the network itself."""
    rows = [
        one for part in np.split(labelled.images, 10) for one in detections("hard", "rows", INPUTS["160"], list(part))
    ]
    return average_precision([_original(one, row, labelled) for row, one in enumerate(rows)], labelled).ap


def _original(found: Detections, row: int, data: CocoDataset) -> Detections:
    boxes = torch.from_numpy(data.placements[row].to_original(found.boxes.numpy()))
    return Detections(boxes=boxes, scores=found.scores, classes=found.classes)


@pytest.mark.parametrize(
    ("family", "recipe"),
    [("yolo-objectness", INPUTS["bgr"]), ("detr", INPUTS["mean-std"]), ("counted", OUTPUTS["counted"]["1-based"])],
)
def test_the_precision_of_a_merged_graph_is_that_of_the_route(
    family: Family, recipe: Recipe, labelled: CocoDataset, route_ap: float, tmp_path: Path
) -> None:
    spec = write_detector(tmp_path / "detector.onnx", "hard", family, replace(recipe, size=(160, 160)))
    runner = merged(tmp_path / "detector.onnx", spec)
    found = []
    for first in range(0, len(labelled), 10):
        answer = runner.run(labelled.images[first : first + 10])
        for row, count in enumerate(answer["num_detections"][:, 0]):
            one = [torch.from_numpy(answer[name][row, :count]) for name in ("boxes", "scores", "classes")]
            found.append(_original(Detections(one[0], one[1], one[2].long()), first + row, labelled))
    assert route_ap > 15
    assert average_precision(found, labelled).ap == pytest.approx(route_ap, abs=0.2)


@pytest.mark.parametrize("writer", WRITERS)
def test_inspection_finds_the_family_of_each_exporter(writer: str, tmp_path: Path) -> None:
    family = WRITERS[writer].family
    by_writer = {one.writer: one for one in OUTPUTS[family].values()}
    recipe = by_writer.get(writer, Recipe(writer=writer))
    spec = write_detector(tmp_path / "detector.onnx", "easy", family, recipe)
    classes = Classes(names=spec.class_names, ids=spec.output.class_ids)
    said = Layer(source="the options", classes=None if WRITERS[writer].metadata != "none" else classes)
    found = inspect(tmp_path / "detector.onnx", given=Given(said=said))
    assert found.draft is not None
    assert found.draft.output.family == family
    assert found.draft.output.tensors == spec.output.tensors
    assert (found.draft.output.boxes, found.draft.output.unit) == (spec.output.boxes, spec.output.unit)
    assert found.draft.output.suppress == spec.output.suppress
    assert found.draft.class_names == spec.class_names
    assert found.draft.input.name == spec.input.name
    assert found.draft.input.batch == spec.input.batch
    if WRITERS[writer].metadata == "ultralytics":
        assert found.spec is not None
