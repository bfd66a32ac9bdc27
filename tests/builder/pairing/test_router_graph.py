"""A router in a graph equals the router in numpy."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from dynamicdet.errors import InputError
from dynamicdet.router.features import feature_names, features, looks_of
from dynamicdet.router.rules import WEIGHTS
from dynamicdet.router.weighted import Network, weighted_sum
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.router.fitting import fit_network
from dyndet_builder.pairing.router.graph import alone, attach
from dyndet_builder.pairing.router.router import FittedRouter
from tests.support.foreign.two_detectors import CLASSES, FIT, random_answers

_OUTPUTS = {"boxes": TensorProto.FLOAT, "scores": TensorProto.FLOAT, "classes": TensorProto.INT32}


def _learned(pictures: int, count: int = len(CLASSES)) -> Network:
    known = features(random_answers(pictures, seed=3), class_count=count)
    targets = np.random.default_rng(0).normal(size=pictures) + known[:, 0]
    return fit_network(known, targets, class_count=count, seed=0).ranked(known)


def _router(network: Network) -> FittedRouter:
    return FittedRouter(
        kind="any", why="", images=0, by_labels=True, network=network, out_of_fold=np.zeros(0, np.float32)
    )


def _detector(opset: int, *, rows: int, batch: int | str = "b") -> onnx.ModelProto:
    """A graph that answers what it is given."""
    shapes = {"boxes": [batch, rows, 4], "scores": [batch, rows], "classes": [batch, rows]}
    inputs = [helper.make_tensor_value_info(f"{name}_in", kind, shapes[name]) for name, kind in _OUTPUTS.items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, FIT.height, FIT.width, 3])
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_in"], [name]) for name in _OUTPUTS],
        "detector",
        [image, *inputs],
        [helper.make_tensor_value_info(name, kind, shapes[name]) for name, kind in _OUTPUTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _run(model: onnx.ModelProto, answers: Answers, images: np.ndarray, rows: int) -> np.ndarray:
    count = len(answers)
    boxes, scores = np.zeros((count, rows, 4), np.float32), np.zeros((count, rows), np.float32)
    classes = np.zeros((count, rows), np.int32)
    for row in range(count):
        used = slice(0, len(answers.scores[row]))
        boxes[row, used], scores[row, used], classes[row, used] = (
            answers.boxes[row],
            answers.scores[row],
            answers.classes[row],
        )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"image": images, "boxes_in": boxes, "scores_in": scores, "classes_in": classes}
    difficulty: np.ndarray = session.run(["difficulty"], feed)[0]
    return difficulty


def _pictures(count: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (count, *FIT.shape), dtype=np.uint8)
    noise[::3] = 0
    return noise


@pytest.mark.parametrize(
    ("opset", "rows", "network"),
    [
        *((opset, 100, _learned(1200)) for opset in (13, 17, 18, 22)),
        (18, 20, _learned(300)),
        (18, 30, _learned(300, count=150)),
        *((18, 100, weighted_sum(weights, class_count=3)) for weights in WEIGHTS.values()),
    ],
)
def test_graph_gives_the_difficulties_of_the_router(opset: int, rows: int, network: Network) -> None:
    answers = random_answers(60, seed=rows + opset, rows=min(rows, 90))
    images = _pictures(60, seed=opset)
    answers = replace(answers, looks=np.array([looks_of(one) for one in images], np.float32))
    network = network.ranked(features(random_answers(100, seed=5), class_count=network.class_count))
    model = attach(_detector(opset, rows=rows), _router(network))
    onnx.checker.check_model(model, full_check=True)
    found = _run(model, answers, images, rows)
    assert found.dtype == np.float32 and found.shape == (60, 1)
    np.testing.assert_allclose(found[:, 0], _router(network).difficulty(answers), atol=1e-5)
    assert np.ptp(found) > 0.5


def test_a_graph_for_one_picture_at_a_time_stays_one_and_the_given_model_is_not_changed() -> None:
    given = _detector(18, rows=30, batch=1)
    before = given.SerializeToString()
    model = attach(given, _router(_learned(300)))
    assert given.SerializeToString() == before
    assert [one.dim_value for one in model.graph.output[-1].type.tensor_type.shape.dim] == [1, 1]
    assert _run(model, random_answers(1, seed=1), _pictures(1, 0), 30).shape == (1, 1)
    assert {one.domain for one in model.opset_import} == {""}


@pytest.mark.parametrize("casts", [False, True])
def test_the_graph_that_is_timed_is_the_one_that_the_detector_gets(casts: bool) -> None:
    """With and without the image in single precision, which the router takes from the detector where it is there."""
    detector, router = _detector(18, rows=30), _router(_learned(300))
    if casts:
        detector.graph.node.append(helper.make_node("Cast", ["image"], ["inside"], to=TensorProto.FLOAT))
    timed, whole = alone(detector, router), attach(detector, router)
    onnx.checker.check_model(timed, full_check=True)
    assert {one.name for one in timed.graph.input} == {*_OUTPUTS, "pixels" if casts else "image"}
    operators, known = ([node.op_type for node in one.graph.node] for one in (timed, whole))
    assert operators == known[len(detector.graph.node) :]


def test_graphs_that_are_no_merged_detector_are_refused() -> None:
    router = _router(_learned(300))
    done = attach(_detector(18, rows=30), router)
    with pytest.raises(InputError, match="has a difficulty already"):
        attach(done, router)
    with pytest.raises(InputError, match="opset 13 to 22, not 12"):
        attach(_detector(12, rows=30), router)
    bare = _detector(18, rows=30)
    del bare.graph.output[1]
    with pytest.raises(InputError, match="the graph has no scores"):
        attach(bare, router)


def test_every_feature_has_a_name() -> None:
    found = random_answers(3, seed=0)
    for count in (0, 3, 100, 101):
        assert features(found, class_count=count).shape == (3, len(feature_names(count)))
