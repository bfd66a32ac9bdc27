"""COCO precision of routes and mixes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dynamicdet import create
from dynamicdet.dataset import CocoDataset, read_dataset
from dynamicdet.errors import InputError
from dynamicdet.evaluation import RouteResults, average_precision, evaluate_results, run_routes
from dynamicdet.suppression import Detections, Suppression, greedy_keep, suppress_rows

VAL = Path(__file__).parents[2] / "benchmarks" / "demo" / "val"


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
    assert evaluation.recovered(full) == pytest.approx(1.0)


def test_both_routes_run_once_and_boxes_are_in_the_original_pictures(data: CocoDataset) -> None:
    torch.manual_seed(0)
    model = create("dy-yolov7-pico", len(data.class_names), data.class_names, input_size=32).eval()
    results = run_routes(model, data, batch=64)
    assert len(results.easy) == len(results.hard) == len(results.difficulties) == len(data)
    assert ((results.difficulties > 0) & (results.difficulties < 1)).all()
    for image, found in zip(data.annotations["images"], results.easy, strict=True):
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([image["width"], image["height"]] * 2)).all()


def test_a_network_of_other_classes_is_refused(data: CocoDataset) -> None:
    with pytest.raises(InputError, match="knows the classes"):
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
