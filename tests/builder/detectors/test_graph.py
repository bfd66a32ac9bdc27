"""One graph for a detector of others gives the exact answer, whatever its file reads and gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dynamicdet.errors import InputError, ParityError
from dynamicdet.letterbox import Fit
from dyndet_builder.bundle.graph_files import check_graph
from dyndet_builder.bundle.manifest import Nms
from dyndet_builder.bundle.spec import DetectorSpec
from dyndet_builder.detectors.check import check_adapter, fixed_batch
from dyndet_builder.detectors.graph import build_graph
from dyndet_builder.detectors.reference import Reference
from dyndet_builder.detectors.runner import DetectorRunner
from tests.support.foreign.hand_made import PATCH, SIZE, constant_detector, patch_detector, spec_of

NMS = Nms(pre_top_k=40, max_detections=10)
SQUARE = Fit.square(SIZE)
ALL = (0, 1, 2)
# Two cats overlap by 15/17, and the owl leaves the picture.
BOXES = np.array([[4, 8, 20, 24], [30, 30, 60, 50], [5, 8, 21, 24], [-6, 40, 10, 70]], np.float32)
SCORES = np.array([0.9, 0.7, 0.6, 0.3], np.float32)
CLASSES = np.array([0, 2, 0, 1])
CLIPPED = BOXES.clip(0, SIZE)


def _pairs(*, lowest: float = 1e-4) -> Any:
    """Scores of each row for each class, (4, 3)."""
    pairs = np.full((4, 3), lowest, np.float32)
    pairs[range(4), CLASSES] = SCORES
    return pairs


def _as(form: str, unit: float = 1.0) -> Any:
    start, end = BOXES[:, :2], BOXES[:, 2:]
    forms = {
        "xyxy": BOXES,
        "yxyx": BOXES[:, [1, 0, 3, 2]],
        "xywh": np.hstack([start, end - start]),
        "cxcywh": np.hstack([(start + end) / 2, end - start]),
    }
    return (forms[form] / unit).astype(np.float32)


def _logits(scores: Any) -> Any:
    return np.log(scores / (1 - scores)).astype(np.float32)


def _undecoded() -> Any:
    """YOLOX: 4 x 4 cells of 16 pixels and 2 x 2 of 32; the objects are in the first rows."""
    raw = np.zeros((20, 8), np.float32)
    cells = np.array([[0, 0], [1, 0], [2, 0], [3, 0]])
    boxes = _as("cxcywh") / 16
    raw[:4] = np.hstack([boxes[:, :2] - cells, np.log(boxes[:, 2:]), np.full((4, 1), 0.95), _pairs() / 0.95])
    return raw


def _joined(boxes: Any, *columns: Any) -> Any:
    return np.hstack([boxes, *(np.reshape(one, (4, -1)) for one in columns)]).astype(np.float32)


def _slots(count: int, places: Sequence[int], lowest: float) -> Any:
    wide = np.full((4, count), lowest, np.float32)
    wide[:, places] = _pairs()
    return wide


def _softmax_logits(*, background: int) -> Any:
    pairs = _pairs()
    rest = 1 - pairs.sum(axis=1)
    return np.log(np.insert(pairs, background, rest, axis=1)).astype(np.float32)


ROWS = {"boxes": "boxes", "scores": "scores", "labels": "labels"}
ALONE = {"all": "all"}
DETR = {"logits": "logits", "boxes": "boxes"}
NO_MORE = {"suppress": False}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "yolo": (
        {"all": _joined(_as("cxcywh"), _pairs()).T},
        {"family": "yolo", "tensors": ALONE, "boxes": "cxcywh", "suppress": True},
    ),
    "yolo, logits, y first": (
        {"all": _joined(_as("yxyx"), _logits(_pairs())).T},
        {"family": "yolo", "tensors": ALONE, "boxes": "yxyx", "activation": "sigmoid", "suppress": True},
    ),
    "objectness": (
        {"all": _joined(_as("cxcywh"), np.full(4, 0.95), _pairs() / 0.95)},
        {"family": "yolo-objectness", "tensors": ALONE, "boxes": "cxcywh", "suppress": True},
    ),
    "objectness, logits": (
        {"all": _joined(_as("cxcywh"), _logits(np.full(4, 0.95)), _logits(_pairs() / 0.95))},
        {"family": "yolo-objectness", "tensors": ALONE, "boxes": "cxcywh", "activation": "sigmoid", "suppress": True},
    ),
    "yolox": (
        {"all": _undecoded()},
        {"family": "yolox-raw", "tensors": ALONE, "boxes": "cxcywh", "strides": (16, 32), "suppress": True},
    ),
    "boxes and scores": (
        {"boxes": _as("xywh"), "scores": _pairs()},
        {
            "family": "boxes-scores",
            "tensors": {"boxes": "boxes", "scores": "scores"},
            "boxes": "xywh",
            "suppress": True,
        },
    ),
    "joined": (
        {"all": _joined(_as("cxcywh", SIZE), _pairs())},
        {"family": "joined", "tensors": ALONE, "boxes": "cxcywh", "unit": "normalised", **NO_MORE},
    ),
    "detr, softmax, background last": (
        {"boxes": _as("cxcywh", SIZE), "logits": _softmax_logits(background=3)},
        {
            "family": "detr",
            "tensors": DETR,
            "boxes": "cxcywh",
            "unit": "normalised",
            "activation": "softmax",
            "background": "last",
            **NO_MORE,
        },
    ),
    "detr, sigmoid, background first": (
        {"boxes": _as("cxcywh", SIZE), "logits": _logits(_slots(4, (1, 2, 3), 0.99))},
        {
            "family": "detr",
            "tensors": DETR,
            "boxes": "cxcywh",
            "unit": "normalised",
            "activation": "sigmoid",
            "background": "first",
            **NO_MORE,
        },
    ),
    "detr, slots with gaps": (
        {"boxes": _as("cxcywh", SIZE), "logits": _logits(_slots(9, (5, 1, 8), 0.98))},
        {
            "family": "detr",
            "tensors": DETR,
            "boxes": "cxcywh",
            "unit": "normalised",
            "activation": "sigmoid",
            "class_ids": (5, 1, 8),
            **NO_MORE,
        },
    ),
    "rows": (
        {"all": _joined(BOXES, SCORES, CLASSES)},
        {"family": "rows", "tensors": ALONE, **NO_MORE},
    ),
    "rows, to be suppressed": (
        {"all": _joined(BOXES, SCORES, CLASSES)},
        {"family": "rows", "tensors": ALONE, "suppress": True},
    ),
    "triple": (
        {"labels": CLASSES, "boxes": BOXES, "scores": SCORES},
        {"family": "triple", "tensors": ROWS, **NO_MORE},
    ),
    "dets and labels from 1": (
        {"boxes": _joined(BOXES, SCORES), "labels": CLASSES + 1},
        {"family": "dets-labels", "tensors": {"boxes": "boxes", "labels": "labels"}, "class_offset": 1, **NO_MORE},
    ),
    "counted, y first, normalised": (
        {
            "count": np.array([4], np.int32),
            "boxes": np.vstack([_as("yxyx", SIZE), np.full((2, 4), 0.5, np.float32)]),
            "scores": np.append(SCORES, [0.99, 0.5]).astype(np.float32),
            "labels": np.append(CLASSES, [1, 1]).astype(np.float32),
        },
        {
            "family": "counted",
            "tensors": {**ROWS, "count": "count"},
            "boxes": "yxyx",
            "unit": "normalised",
            **NO_MORE,
        },
    ),
}


def _build(file: Path, spec: DetectorSpec, fit: Fit = SQUARE, classes: Sequence[int] = ALL, **given: Any) -> Any:
    """A graph that is complete and that a bundle accepts."""
    model = build_graph(file, spec, fit=fit, nms=given.pop("nms", NMS), classes=classes, **given)
    onnx.checker.check_model(model, full_check=True)
    path = file.with_suffix(".merged.onnx")
    onnx.save(model, path)
    rows = NMS.max_detections
    check_graph(
        path,
        inputs=[f"image uint8 [{fit.height}, {fit.width}, 3]"],
        outputs=[
            "num_detections int32 [1]",
            f"boxes float32 [{rows}, 4]",
            f"scores float32 [{rows}]",
            f"classes int32 [{rows}]",
        ],
        opset=model.opset_import[0].version,
        batch=1 if spec.input.batch == "one" else None,
    )
    return model


def _assert_found(model: Any, boxes: Any, scores: Any, classes: Any, *, shape: Sequence[int] = SQUARE.shape) -> None:
    """The answer, and zeros behind it, for each of three pictures."""
    answer = DetectorRunner(model).run(np.zeros((3, *shape), np.uint8))
    count = len(scores)
    for row in range(3):
        assert answer["num_detections"][row] == count
        np.testing.assert_allclose(answer["boxes"][row, :count], boxes, atol=2e-4)
        np.testing.assert_allclose(answer["scores"][row, :count], scores, atol=2e-6)
        np.testing.assert_array_equal(answer["classes"][row, :count], classes)
        assert not any(answer[name][row, count:].any() for name in ("boxes", "scores", "classes"))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_its_objects(name: str, tmp_path: Path) -> None:
    """Best first, suppressed where that is still to be done, clipped to the picture; numpy decodes the same."""
    outputs, output = FAMILIES[name]
    file, spec = constant_detector(tmp_path / "detector.onnx", outputs), spec_of(output)
    kept = [0, 1, 3] if output["suppress"] else [0, 1, 2, 3]
    model = _build(file, spec)
    _assert_found(model, CLIPPED[kept], SCORES[kept], CLASSES[kept])
    found = Reference(file, spec, nms=NMS).answer(np.zeros((SIZE, SIZE, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, CLIPPED[kept], atol=2e-4)
    np.testing.assert_array_equal(found.classes, CLASSES[kept])


@pytest.mark.parametrize("name", ["yolo", "detr, softmax, background last", "triple", "counted, y first, normalised"])
def test_sizes_that_the_file_does_not_say_are_found(name: str, tmp_path: Path) -> None:
    outputs, output = FAMILIES[name]
    file = constant_detector(tmp_path / "detector.onnx", outputs, open_sizes=[*set(outputs) - {"count"}])
    kept = [0, 1, 3] if output["suppress"] else [0, 1, 2, 3]
    _assert_found(_build(file, spec_of(output)), CLIPPED[kept], SCORES[kept], CLASSES[kept])


@pytest.mark.parametrize("name", ["yolo", "detr, sigmoid, background first", "triple"])
def test_classes_are_mapped_or_left_out_and_scores_calibrated(name: str, tmp_path: Path) -> None:
    """Cats are left out before anything is chosen, so that one place is enough for the owl."""
    outputs, output = FAMILIES[name]
    file = constant_detector(tmp_path / "detector.onnx", outputs)
    table = [(0.2, 0.0), (0.6, 0.8), (0.8, 1.0)]
    _assert_found(
        _build(file, spec_of(output), classes=(-1, 0, 7), calibration=table), CLIPPED[[1, 3]], [0.9, 0.2], [7, 0]
    )
    one = build_graph(file, spec_of(output), fit=SQUARE, nms=_at_most(1), classes=(-1, 0, 7))
    _assert_found(one, CLIPPED[[1]], [0.7], [7])


def _at_most(count: int) -> Nms:
    return Nms(pre_top_k=count, max_detections=count)


@pytest.mark.parametrize("opset", [11, 13, 14, 16, 18, 20, 22])
def test_opsets_are_those_of_the_file_or_14(opset: int, tmp_path: Path) -> None:
    outputs, output = FAMILIES["yolo"]
    file = constant_detector(tmp_path / "detector.onnx", outputs, opset=opset)
    model = _build(file, spec_of(output), fit=Fit.square(2 * SIZE))
    assert (model.opset_import[0].version, model.ir_version <= 10) == (max(opset, 14), True)
    kept = [0, 1, 3]
    _assert_found(model, CLIPPED[kept] * 2, SCORES[kept], CLASSES[kept], shape=(2 * SIZE, 2 * SIZE, 3))


RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "BGR 0..255": {"colour": "BGR", "divide_by": 1},
    "normalised": {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)},
    "half precision": {"colour": "BGR", "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "dtype": "float16"},
    "channels last": {"layout": "NHWC", "colour": "BGR"},
    "uint8": {"layout": "NHWC", "dtype": "uint8", "divide_by": 1},
    "uint8, channels first": {"dtype": "uint8", "divide_by": 1, "colour": "BGR"},
}


@pytest.mark.parametrize("batch", ["dynamic", "one"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_shows_the_detector_the_same_pixels(recipe: str, batch: str, tmp_path: Path) -> None:
    """Each picture of a batch gets its own answer: the red, green and blue of its patches."""
    spec = spec_of({"family": "yolo", "tensors": ALONE, "suppress": False}, batch=batch, **RECIPES[recipe])
    file = patch_detector(tmp_path / "detector.onnx", spec, batch="batch" if batch == "dynamic" else 1)
    runner = DetectorRunner(_build(file, spec))
    assert runner.batch_one == (batch == "one")
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    answer = runner.run(images)
    side = SIZE // PATCH
    for row, image in enumerate(images):
        means = image.reshape(side, PATCH, side, PATCH, 3).mean(axis=(1, 3)).reshape(-1, 3) / 255
        best = np.argsort(-means.ravel())[: NMS.max_detections]
        atol = 2e-3 if "half" in recipe else 1e-6
        np.testing.assert_allclose(answer["scores"][row], means.ravel()[best], atol=atol)
        if "half" not in recipe:
            np.testing.assert_array_equal(answer["classes"][row], best % 3)
            np.testing.assert_array_equal(answer["boxes"][row, :, 0], best // 3 % side * PATCH)


@pytest.mark.parametrize("recipe", ["plain", "channels last", "uint8"])
def test_pictures_of_another_size_are_resized_as_numpy_does(recipe: str, tmp_path: Path) -> None:
    """Both ways, by ratios that are no whole numbers; boxes come in pixels of the picture that was sent."""
    spec = spec_of({"family": "yolo", "tensors": ALONE, "suppress": True}, **RECIPES[recipe])
    file = patch_detector(tmp_path / "detector.onnx", spec)
    pictures = np.random.default_rng(1).integers(0, 256, (3, 70, 50, 3), np.uint8)
    for fit in (Fit(height=100, width=150), Fit(height=37, width=SIZE)):
        model = _build(file, spec, fit)
        found = check_adapter(model, file, spec, pictures, fit=fit, nms=NMS, classes=ALL)
        assert (found.images, found.batch_sizes, found.box_px < 1e-3, found.score < 1e-5) == (3, (1, 3), True, True)
    boxes = DetectorRunner(model).run(np.full((1, 37, SIZE, 3), 9, np.uint8))["boxes"][0]
    np.testing.assert_allclose(np.unique(boxes[:, 3])[-1] % (PATCH * 37 / SIZE), 0, atol=1e-3)


@pytest.mark.parametrize("half_outputs", [False, True])
def test_half_precision_and_weights_in_another_file(half_outputs: bool, tmp_path: Path) -> None:
    outputs, output = FAMILIES["yolo"]
    given = {name: values.astype(np.float16) for name, values in outputs.items()} if half_outputs else outputs
    file = constant_detector(tmp_path / "detector.onnx", given, dtype="float16")
    model = onnx.load(file)
    onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    spec = spec_of(output, dtype="float16")
    merged = _build(file, spec)
    answer = DetectorRunner(merged).run(np.zeros((2, *SQUARE.shape), np.uint8))
    np.testing.assert_allclose(answer["boxes"][1, :3], CLIPPED[[0, 1, 3]], atol=0.05)
    np.testing.assert_allclose(answer["scores"][1, :3], SCORES[[0, 1, 3]], atol=1e-3)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError, match="weights"):
        build_graph(file, spec, fit=SQUARE, nms=NMS, classes=ALL)


@pytest.mark.parametrize("name", ["yolo", "objectness", "yolox", "detr, softmax, background last", "rows", "triple"])
def test_what_is_no_number_does_not_leave_the_graph(name: str, tmp_path: Path) -> None:
    """Objects with a box or a score that is none are left out; the others stay."""
    outputs, output = FAMILIES[name]
    for bad in (np.nan, np.inf, -np.inf):
        broken = {key: values.copy() for key, values in outputs.items()}
        whole = broken.get("all", broken.get("boxes"))
        (whole.T if name == "yolo" else whole)[0, 0] = bad  # a box of the first object
        scored = whole.T if name == "yolo" else broken.get("scores", broken.get("logits", whole))
        scored[(1, ...) if scored.ndim == 1 else (1, slice(-2 if "all" in broken else 0, None))] = bad
        answer = DetectorRunner(_build(constant_detector(tmp_path / "d.onnx", broken), spec_of(output))).run(
            np.zeros((1, *SQUARE.shape), np.uint8)
        )
        count = int(answer["num_detections"][0, 0])
        assert all(np.isfinite(values).all() for values in answer.values())
        np.testing.assert_allclose(answer["scores"][0, :count][-2:], SCORES[2:], atol=1e-5)


def test_more_inputs_become_constants(tmp_path: Path) -> None:
    outputs, output = FAMILIES["triple"]
    extra: dict[str, tuple[str, list[int | str]]] = {"sizes": ("int64", ["n", 2]), "mask": ("bool", ["n", "h", 8])}
    file = constant_detector(tmp_path / "detector.onnx", outputs, extra=extra)
    model = onnx.load(file)
    # The boxes are given in the unit of `sizes`, and only where the mask is true.
    sizes = [
        helper.make_node("Cast", ["sizes"], ["numbers"], to=1),
        helper.make_node("Concat", ["numbers", "numbers"], ["twice"], axis=1),
        helper.make_node("Cast", ["mask"], ["covered"], to=1),
        helper.make_node("ReduceMin", ["covered"], ["whole"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["whole", "two"], ["factor"]),
        helper.make_node("Unsqueeze", ["twice", "one"], ["row"]),
        helper.make_node("Mul", ["boxes_share", "row"], ["boxes_far"]),
        helper.make_node("Mul", ["boxes_far", "factor"], ["boxes"]),
    ]
    for node in model.graph.node:
        node.output[:] = ["boxes_share" if name == "boxes" else name for name in node.output]
    model.graph.node.extend(sizes)
    ones = [onnx.numpy_helper.from_array(np.array(axes), name) for name, axes in (("one", [1]), ("two", [1, 2]))]
    model.graph.initializer.extend(ones)
    onnx.save(model, file)
    given = [
        {"name": "sizes", "dtype": "int64", "kind": "width-height"},
        {"name": "mask", "dtype": "bool", "kind": "mask"},
    ]
    spec = spec_of(output, extra=given, size=(SIZE, SIZE))
    for one in model.graph.initializer:
        if one.name == "boxes_values":
            one.CopyFrom(onnx.numpy_helper.from_array(BOXES[None] / SIZE, one.name))
    onnx.save(model, file)
    merged = _build(file, spec)
    _assert_found(merged, CLIPPED, SCORES, CLASSES)
    pictures = np.zeros((3, *SQUARE.shape), np.uint8)
    assert check_adapter(merged, file, spec, pictures, fit=SQUARE, nms=NMS, classes=ALL).box_px < 1e-3


def _random_yolo(path: Path, seed: int) -> tuple[Path, DetectorSpec]:
    """Crowded random boxes, many of which suppress each other."""
    noise = np.random.default_rng(seed)
    rows = np.vstack([noise.random((2, 300)) * SIZE, 8 + noise.random((2, 300)) * 24, noise.random((3, 300)) ** 3])
    file = constant_detector(path, {"all": rows.astype(np.float32)})
    return file, spec_of({"family": "yolo", "tensors": ALONE, "boxes": "cxcywh", "suppress": True})


PICTURES = np.random.default_rng(2).integers(0, 256, (4, 40, 60, 3), np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_a_right_graph_passes_the_check_and_ties_are_not_blamed(seed: int, tmp_path: Path) -> None:
    """Another threshold within the tolerance is a tie; a clearly other one is not."""
    file, spec = _random_yolo(tmp_path / "detector.onnx", seed)
    nms = Nms(pre_top_k=200, max_detections=10, iou_threshold=0.3)
    fit, table = spec.input.fit, [(0.0, 0.0), (0.5, 0.3), (1.0, 1.0)]
    given: dict[str, Any] = {"fit": fit, "nms": nms, "classes": (2, -1, 0), "calibration": table}
    checked = check_adapter(build_graph(file, spec, **given), file, spec, PICTURES, **given)
    assert checked.box_px < 1e-3 and checked.score < 1e-5 and checked.images == 4
    near = nms.model_copy(update={"iou_threshold": 0.3 + 2e-4})
    check_adapter(build_graph(file, spec, **{**given, "nms": near}), file, spec, PICTURES, **given)
    far = nms.model_copy(update={"iou_threshold": 0.6})
    with pytest.raises(ParityError, match=r"overlap by more than|is missing"):
        check_adapter(build_graph(file, spec, **{**given, "nms": far}), file, spec, PICTURES, **given)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"boxes": "xywh"}, "box_px is"),
        ({"suppress": False}, "overlap by more than"),
        ({"activation": "sigmoid"}, "score"),
        ({"class_ids": (1, 0, 2)}, "is not in the file|box_px|score"),
    ],
)
def test_a_wrong_graph_fails_the_check_with_numbers(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    file, spec = _random_yolo(tmp_path / "detector.onnx", 0)
    wrong = spec.model_copy(update={"output": spec.output.model_copy(update=change)})
    nms = Nms(pre_top_k=200, max_detections=100, iou_threshold=0.3)
    given: dict[str, Any] = {"fit": spec.input.fit, "nms": nms, "classes": ALL}
    with pytest.raises(ParityError, match=f"nothing was written: .*({said})"):
        check_adapter(build_graph(file, wrong, **given), file, spec, PICTURES, **given)


def test_a_batch_of_one_inside_a_graph_is_noticed(tmp_path: Path) -> None:
    """The file says that it takes any batch, and mixes the pictures."""
    spec = spec_of({"family": "yolo", "tensors": ALONE, "suppress": True})
    file = patch_detector(tmp_path / "detector.onnx", spec)
    assert not fixed_batch(file, spec, PICTURES[:3])
    model = onnx.load(file)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.INT64 and list(tensor.dims) == [3]:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([1, 3, -1]), tensor.name))
    onnx.save(model, file)
    assert "batch: one" in fixed_batch(file, spec, PICTURES[:3])
    one = spec_of({"family": "yolo", "tensors": ALONE, "suppress": True}, batch="one")
    assert DetectorRunner(_build(file, one)).batch_one


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input": {"name": "picture"}}, "inputs are images, but its description names picture"),
        ({"input": {"size": (32, 64)}}, r"images float32 \[batch, 3, 64, 64\].*\[batch, 3, 32, 64\]"),
        ({"input": {"dtype": "float16"}}, "images float32"),
        ({"output": {"tensors": {"all": "output0"}}}, "no output output0 for the all; it has all"),
        ({"output": {"class_ids": (0, 1, 3)}}, "scores for 3 classes, but class 3"),
        ({"output": {"family": "yolox-raw", "strides": (16,)}}, "4 boxes"),
        ({"output": {"family": "rows"}}, r"expected \[batch, K, 6\]"),
    ],
)
def test_a_description_that_does_not_fit_the_file_is_refused(
    change: dict[str, dict[str, Any]], said: str, tmp_path: Path
) -> None:
    outputs, output = FAMILIES["yolo"]
    if change.get("output", {}).get("family") == "yolox-raw":
        outputs = {"all": np.zeros((4, 8), np.float32)}
    file = constant_detector(tmp_path / "detector.onnx", outputs)
    with pytest.raises(InputError, match=said):
        spec = spec_of({**output, **change.get("output", {})}, **change.get("input", {}))
        build_graph(file, spec, fit=SQUARE, nms=NMS, classes=ALL)


def test_names_inside_a_file_collide_with_none_of_ours(tmp_path: Path) -> None:
    """Its tensors may be called as those of the contract, and a graph inside an operator may read its weights."""
    outputs, output = FAMILIES["triple"]
    model = onnx.load(constant_detector(tmp_path / "detector.onnx", outputs))
    inner = [
        helper.make_graph(
            [helper.make_node(operator, ["scores_all", "zero"], [f"image_{operator}"])],
            operator,
            [],
            [helper.make_tensor_value_info(f"image_{operator}", TensorProto.FLOAT, None)],
        )
        for operator in ("Add", "Mul")
    ]
    for node in model.graph.node:
        node.input[:] = ["image" if name == "scores_all" else name for name in node.input]
    place = [node.name or node.output[0] for node in model.graph.node].index("scores_all") + 1
    branch = helper.make_node("If", ["classes"], ["image"], then_branch=inner[0], else_branch=inner[1])
    model.graph.node.insert(place, branch)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "classes"))
    model.graph.input.append(helper.make_tensor_value_info("classes", TensorProto.BOOL, []))  # as old exporters do
    file = tmp_path / "detector.onnx"
    onnx.save(model, file)
    _assert_found(_build(file, spec_of(output)), CLIPPED, SCORES, CLASSES)


def test_plugins_and_files_of_one_picture_are_refused_with_a_way_out(tmp_path: Path) -> None:
    outputs, output = FAMILIES["yolo"]
    file = constant_detector(tmp_path / "detector.onnx", outputs, batch=1)
    with pytest.raises(InputError, match=r"exactly 1 picture at a time.* use `batch: one`"):
        build_graph(file, spec_of(output), fit=SQUARE, nms=NMS, classes=ALL)
    model = onnx.load(file)
    model.graph.node.append(helper.make_node("EfficientNMS_TRT", ["all"], ["more"], domain="TRT"))
    model.opset_import.append(helper.make_opsetid("TRT", 1))
    onnx.save(model, file)
    with pytest.raises(InputError, match=r"operator TRT:EfficientNMS_TRT.* without plugins"):
        build_graph(file, spec_of(output, batch="one"), fit=SQUARE, nms=NMS, classes=ALL)


@pytest.mark.parametrize(("name", "opset"), [("yolo", 14), ("yolox", 17), ("detr, softmax, background last", 20)])
def test_tensorrts_parser_takes_a_merged_graph(name: str, opset: int, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="the extra `tensorrt-rtx` installs it")
    outputs, output = FAMILIES[name]
    file = constant_detector(tmp_path / "detector.onnx", outputs, opset=opset)
    model = _build(file, spec_of(output), fit=Fit.square(96), calibration=[(0.0, 0.0), (0.5, 0.3), (1.0, 1.0)])
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(model.SerializeToString()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    assert {network.get_output(i).name for i in range(network.num_outputs)} >= {"boxes", "scores", "classes"}
