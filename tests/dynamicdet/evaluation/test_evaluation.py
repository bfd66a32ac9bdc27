"""COCO precision of routes and mixes."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynamicdet import create
from dynamicdet.aliases import FloatArray
from dynamicdet.datasets.dataset import CocoDataset, read_dataset
from dynamicdet.errors import InputError
from dynamicdet.evaluation.evaluate import CURVE_HARD_SHARES, check_points, evaluate_results
from dynamicdet.evaluation.precision import MixedPrecision, average_precision
from dynamicdet.routing.routes import RouteResults, run_routes
from dynamicdet.suppression import Detections, Suppression, greedy_keep, suppress_rows

VAL = Path(__file__).parents[3] / "benchmarks" / "demo" / "val"


@pytest.fixture(scope="module")
def data() -> CocoDataset:
    """The shipped validation images at a small size: only their annotations matter here."""
    return read_dataset(VAL, 32)


def truth(data: CocoDataset) -> list[Detections]:
    """Every object found exactly."""
    index = {category: number for number, category in enumerate(data.category_ids)}
    found = []
    for image in data.image_ids:
        mine = [one for one in data.annotations["annotations"] if one["image_id"] == image]
        boxes = torch.tensor([one["bbox"] for one in mine], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = torch.tensor([index[one["category_id"]] for one in mine], dtype=torch.long)
        found.append(Detections(boxes, torch.full((len(mine),), 0.9), classes))
    return found


def shifted(detections: list[Detections], share: float) -> list[Detections]:
    """Boxes moved by a share of their width."""
    moved = []
    for one in detections:
        boxes = one.boxes.clone()
        boxes[:, [0, 2]] += share * (boxes[:, 2:3] - boxes[:, :1])
        moved.append(Detections(boxes, one.scores, one.classes))
    return moved


def test_perfect_detections_have_a_precision_of_100(data: CocoDataset) -> None:
    assert average_precision(truth(data), data).ap == pytest.approx(100.0)


def test_nothing_found_has_a_precision_of_0(data: CocoDataset) -> None:
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert average_precision([nothing] * len(data), data).ap == 0.0


def test_the_ends_of_the_mix_are_the_two_routes_and_routing_beats_chance(data: CocoDataset) -> None:
    """Detector 2 is better where difficulty is high, so routing by it keeps more of the gain than chance."""
    exact = truth(data)
    rough = shifted(exact, 0.15)
    many = np.array([len(one.scores) for one in exact], float)
    difficulties = many.argsort().argsort() / len(many)  # images with more objects gain more
    results = RouteResults(easy=tuple(rough), hard=tuple(exact), difficulties=difficulties)
    evaluation = evaluate_results(results, data, hard_shares=(0.0, 0.5, 1.0))
    none, half, full = evaluation.points
    assert none.precision == evaluation.easy == average_precision(rough, data)
    assert full.precision == evaluation.hard == average_precision(exact, data)
    assert half.hard_share == pytest.approx(0.5, abs=0.01)
    assert evaluation.easy.ap < half.random.ap < half.precision.ap < evaluation.hard.ap
    assert evaluation.recovered(full.precision) == pytest.approx(1.0)
    assert half.oracle is None and evaluation.recovered(half.oracle) is None  # no losses were given


def test_what_makes_routing_worthless_is_said(data: CocoDataset) -> None:
    """No objects found, no gap between the detectors, equal difficulties, a router as good as chance."""
    exact = truth(data)
    rough = shifted(exact, 0.15)
    nothing = [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))] * len(data)
    gaining = np.array([len(one.scores) for one in exact], float).argsort().argsort() / len(data)

    def said(easy: list[Detections], hard: list[Detections], difficulties: FloatArray) -> list[str]:
        results = RouteResults(easy=tuple(easy), hard=tuple(hard), difficulties=difficulties)
        evaluation = evaluate_results(results, data, random_draws=3)
        gains = evaluation.hard.ap - evaluation.easy.ap > 0.1
        assert (evaluation.recovered(evaluation.easy) == 0) == gains, "no share of a gap that is not there"
        return evaluation.shortcomings()

    assert said(rough, exact, gaining) == []
    for expected, found in (
        ("find next to nothing", said(nothing, nothing, gaining)),
        ("there is no gap", said(exact, rough, gaining)),
        ("there is no gap", said(rough, rough, gaining)),
        ("all images have the same difficulty", said(rough, exact, np.full(len(data), 0.5))),
        ("all images have the same difficulty", said(rough, exact, np.full(len(data), np.nan))),
        ("not better than chance", said(rough, exact, 1 - gaining)),
    ):
        assert len(found) == 1 and expected in found[0], (expected, found)

    many = evaluate_results(RouteResults(tuple(exact), tuple(rough), gaining), data, random_draws=1)
    few = replace(many, images=49)
    assert many.shortcomings() and not many.remarks()
    assert not few.shortcomings() and "49 images are too few to tell" in few.remarks()[0]


def test_a_mix_equals_a_plain_run_of_pycocotools_to_the_last_bit(data: CocoDataset) -> None:
    """With ties, crowds, an object of id 0, images out of order, images without detections."""
    order = np.random.default_rng(1).permutation(len(data))
    objects = [{**one, "id": number} for number, one in enumerate(data.annotations["annotations"])]
    objects[5]["iscrowd"] = objects[70]["iscrowd"] = 1
    unordered = replace(
        data,
        image_ids=tuple(data.image_ids[index] for index in order),
        annotations={**data.annotations, "annotations": objects},
    )
    rng = np.random.default_rng(2)
    exact = truth(unordered)
    easy, hard = (tuple(noisy(one, rng, spread) for one in exact) for spread in (0.2, 0.1))
    results = RouteResults(easy=easy, hard=hard, difficulties=rng.random(len(data)))
    score = MixedPrecision(results, unordered)
    for share in (0.0, 0.02, 0.3, 0.5, 0.99, 1.0):
        chosen = rng.random(len(data)) < share
        mixed = [hard[index] if is_hard else easy[index] for index, is_hard in enumerate(chosen)]
        precision = score(chosen)
        assert (precision.ap, precision.ap50) == plain_pycocotools(mixed, unordered)
        assert precision == average_precision(mixed, unordered)
        assert 0 < precision.ap < 100


def noisy(exact: Detections, rng: np.random.Generator, spread: float) -> Detections:
    """What a detector might find: boxes a little off, some missed, some wrong, scores with many ties."""
    count = len(exact.scores)
    many = torch.from_numpy(rng.integers(0, count + 1, 2 * count))
    found = torch.cat([torch.arange(count), many[many < count]])
    if rng.random() < 0.05:
        found = found[:0]
    boxes = exact.boxes[found] * (1 + spread * torch.from_numpy(rng.normal(size=(len(found), 4))).float())
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    scores = torch.from_numpy(rng.integers(1, 10, len(found)) / 10).float()
    classes = torch.where(torch.from_numpy(rng.random(len(found)) < 0.1), 0, exact.classes[found])
    return Detections(boxes, scores, classes)


def plain_pycocotools(detections: list[Detections], data: CocoDataset) -> tuple[float, float]:
    """AP and AP50, percent, by pycocotools as its own example uses it; it needs ids from 1."""
    objects = [{**one, "id": one["id"] + 1} for one in data.annotations["annotations"]]
    entries = []
    for image, found in zip(data.image_ids, detections, strict=True):
        for box, score, label in zip(found.boxes, found.scores, found.classes, strict=True):
            xywh = torch.cat([box[:2], box[2:] - box[:2]]).tolist()
            category = data.category_ids[int(label)]
            entries.append({"image_id": image, "category_id": category, "bbox": xywh, "score": float(score)})
    known = COCO()
    known.dataset = {**data.annotations, "annotations": objects}
    with contextlib.redirect_stdout(io.StringIO()):
        known.createIndex()
        run = COCOeval(known, known.loadRes(entries), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return 100 * float(run.stats[0]), 100 * float(run.stats[1])


def test_the_oracle_sends_the_images_that_gain_most(data: CocoDataset) -> None:
    """Detector 2 is better on every third image only, and the losses say which; the router does not know."""
    exact = truth(data)
    better = np.arange(len(data)) % 3 == 0
    easy = tuple(two if one else three for one, two, three in zip(better, shifted(exact, 0.3), exact, strict=True))
    hard = tuple(two if one else three for one, two, three in zip(better, exact, shifted(exact, 0.3), strict=True))
    gains = np.where(better, 1.0, -1.0)
    rng = np.random.default_rng(3)
    results = RouteResults(easy=easy, hard=hard, difficulties=rng.random(len(data)), loss_gains=gains)
    evaluation = evaluate_results(results, data, hard_shares=(better.mean(),))
    (point,) = evaluation.points
    assert point.oracle is not None and point.oracle.ap == pytest.approx(100)
    assert point.precision.ap == pytest.approx(point.random.ap, abs=10)
    assert [point.hard_share for point in evaluation.curve] == pytest.approx(list(CURVE_HARD_SHARES), abs=0.003)
    means = evaluation.mean_ap()
    assert means["oracle"] is not None and means["router"] is not None and means["oracle"] > means["router"] + 5


def test_a_threshold_routes_what_lies_above_it(data: CocoDataset) -> None:
    exact = truth(data)
    difficulties = np.linspace(0.2, 0.6, len(data))
    results = RouteResults(easy=tuple(shifted(exact, 0.15)), hard=tuple(exact), difficulties=difficulties)
    evaluation = evaluate_results(results, data, hard_shares=(), thresholds=(0.0, 0.5, 1.0))
    assert [point.hard_share for point in evaluation.points] == [1.0, (difficulties > 0.5).mean(), 0.0]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_and_thresholds_outside_0_to_1_are_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"a share of hard images must be from 0 to 1"):
        check_points((0.5, value), ())
    with pytest.raises(InputError, match=r"a threshold must be from 0 to 1"):
        check_points((), (value,))


def test_a_data_set_without_objects_is_refused(data: CocoDataset) -> None:
    nothing = replace(data, annotations={**data.annotations, "annotations": []})
    with pytest.raises(InputError, match="no objects"):
        average_precision(truth(data), nothing)


@pytest.fixture(scope="module")
def results(data: CocoDataset) -> RouteResults:
    """What a network with random weights finds."""
    torch.manual_seed(0)
    model = create("dy-yolov7-pico", len(data.class_names), data.class_names, input_size=32).eval()
    return run_routes(model, data, batch=64)


def test_both_routes_run_once_and_boxes_are_in_the_original_pictures(data: CocoDataset, results: RouteResults) -> None:
    assert len(results.easy) == len(results.hard) == len(results.difficulties) == len(data)
    assert ((results.difficulties > 0) & (results.difficulties < 1)).all()
    for image, found in zip(data.annotations["images"], results.easy, strict=True):
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([image["width"], image["height"]] * 2)).all()


def test_pycocotools_looks_at_each_route_once_however_many_thresholds(
    data: CocoDataset, results: RouteResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What 21 thresholds cost beyond the two passes is printed by the command; this is why it is little."""
    assert results.loss_gains is not None and np.isfinite(results.loss_gains).all()
    original, calls = COCOeval.evaluate, []

    def counted(self: COCOeval) -> None:
        calls.append(self)
        original(self)

    monkeypatch.setattr(COCOeval, "evaluate", counted)
    seconds = evaluate_results(results, data, hard_shares=(0.1, 0.3), random_draws=5).seconds
    assert seconds.thresholds == 23 and len(calls) == 2
    assert seconds.ratio is not None and seconds.ratio > 1


def test_a_network_of_other_classes_is_refused(data: CocoDataset) -> None:
    with pytest.raises(InputError, match="has other classes than"):
        run_routes(create("dy-yolov7-pico", 2, ["a", "b"], input_size=32), data)


def test_suppression_is_greedy_and_per_class() -> None:
    # b overlaps a, c overlaps b but not a: b goes, so that c stays.
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [4, 0, 14, 10], [0, 0, 10, 10]])
    assert greedy_keep(boxes, torch.tensor([0, 0, 0, 1]), 0.5).tolist() == [0, 2, 3]


def test_rows_become_detections_above_the_floor_best_first() -> None:
    rows = torch.tensor([[[10.0, 10, 8, 8, 0.5, 0.9, 0.1], [40, 40, 8, 8, 0.9, 0.001, 0.8], [1, 1, 8, 8, 0.01, 0, 0]]])
    (found,) = suppress_rows(rows, Suppression(score_floor=0.01), size=42)
    torch.testing.assert_close(found.scores, torch.tensor([0.72, 0.45, 0.05]))
    assert found.classes.tolist() == [1, 0, 1]
    assert found.boxes[0].tolist() == [36, 36, 42, 42]
