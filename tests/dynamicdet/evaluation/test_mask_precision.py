"""COCO precision of masks: of routes and mixes, in original pixels, stored and read again."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynamicdet.aliases import BoolArray
from dynamicdet.datasets.dataset import CocoDataset, only, read_dataset
from dynamicdet.errors import InputError
from dynamicdet.evaluation.evaluate import evaluate_results
from dynamicdet.evaluation.precision import MixedPrecision, average_precision
from dynamicdet.letterbox import Fit
from dynamicdet.masks import paste, to_rle
from dynamicdet.routing.cache import read_results, write_results
from dynamicdet.routing.routes import BatchAnswers, RouteResults, collect
from dynamicdet.suppression import Detections

VAL = Path(__file__).parents[3] / "benchmarks" / "demo" / "val"
_ROUND = (np.hypot(*np.meshgrid(*[(np.arange(28) - 13.5) / 14] * 2)) < 1) * np.uint8(255)
"""the mask of an ellipse that touches all sides of its box"""


@dataclass(frozen=True)
class Drawn:
    """Images with objects, as the precision reads them."""

    annotations: Mapping[str, Any]
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...] = (3, 1, 7)
    folder: Path = Path("drawn")


def drawn(rng: np.random.Generator, images: int) -> Drawn:
    """Ellipses, triangles and crowds in pictures of different sizes: compressed, as polygons, as plain run lengths."""
    ids = (rng.permutation(images) + 5).tolist()
    frames, objects = [], []
    for image in ids:
        width, height = rng.integers(30, 90, 2).tolist()
        frames.append({"id": image, "width": width, "height": height})
        for _ in range(rng.integers(0, 5)):
            x, y = (rng.random(2) * (width - 12, height - 12)).tolist()
            w, h = (6 + rng.random(2) * (width - x - 6, height - y - 6)).tolist()
            crowd = int(rng.random() < 0.1)
            if crowd:
                runs = [3 * height, int(height * w), height * width - 3 * height - int(height * w)]
                shape: Any = {"size": [height, width], "counts": runs}
            elif rng.random() < 0.5:
                shape = [[x, y, x + w, y, x + w / 2, y + h]]
            else:
                (shape,) = to_rle(_ROUND[None], [[x, y, x + w, y + h]], width, height)
            objects.append(
                {
                    "id": len(objects),  # from 0, which pycocotools takes for no match
                    "image_id": image,
                    "category_id": int(rng.choice([3, 1, 7])),
                    "bbox": [x, y, w, h],
                    "segmentation": shape,
                    "area": w * h / 2,
                    "iscrowd": crowd,
                }
            )
    categories = [{"id": one, "name": str(one)} for one in (1, 3, 7)]
    return Drawn({"images": frames, "annotations": objects, "categories": categories}, tuple(ids))


def guessed(data: Drawn, rng: np.random.Generator, spread: float) -> list[Detections]:
    """What a detector might find: frames a little off, some missed, some twice, scores with many ties."""
    index = {category: number for number, category in enumerate(data.category_ids)}
    found = []
    for image in data.image_ids:
        mine = [one for one in data.annotations["annotations"] if one["image_id"] == image]
        mine = [one for one in mine for _ in range(rng.integers(0, 3))]
        boxes = torch.tensor([one["bbox"] for one in mine], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes += spread * torch.from_numpy(rng.normal(size=boxes.shape)).float()
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2])  # some have no area
        shapes = [np.roll(_ROUND, rng.integers(-4, 5, 2), (0, 1)) for _ in mine]
        found.append(
            Detections(
                boxes=boxes.clamp(min=0),
                scores=torch.from_numpy(rng.integers(1, 10, len(mine)) / 10).float(),
                classes=torch.tensor([index[one["category_id"]] for one in mine], dtype=torch.long),
                masks=torch.from_numpy(np.stack([_ROUND, *shapes])[1:]),
                frames=boxes,
            )
        )
    return found


def plain_pycocotools(detections: Sequence[Detections], data: Drawn) -> tuple[float, float]:
    """AP and AP50 of masks, percent, by pycocotools as its own example uses it; it needs ids from 1."""
    sizes = {one["id"]: (one["width"], one["height"]) for one in data.annotations["images"]}
    entries = []
    for image, found in zip(data.image_ids, detections, strict=True):
        assert found.masks is not None and found.frames is not None
        shapes = paste(found.masks.numpy(), found.frames.numpy(), *sizes[image])
        for shape, score, label in zip(shapes, found.scores.tolist(), found.classes.tolist(), strict=True):
            rle = coco_mask.encode(np.asfortranarray(shape.astype(np.uint8)))
            category = data.category_ids[label]
            entries.append({"image_id": image, "category_id": category, "segmentation": rle, "score": score})
    known = COCO()
    objects = [{**one, "id": one["id"] + 1} for one in data.annotations["annotations"]]
    known.dataset = {**data.annotations, "annotations": objects}
    with contextlib.redirect_stdout(io.StringIO()):
        known.createIndex()
        run = COCOeval(known, known.loadRes(entries), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return 100 * float(run.stats[0]), 100 * float(run.stats[1])


def test_a_mix_of_masks_equals_a_plain_run_of_pycocotools_to_the_last_bit() -> None:
    """With ties, crowds, an object of id 0, images out of order, boxes without area; in several portions of images."""
    rng = np.random.default_rng(1)
    data = drawn(rng, 75)
    easy, hard = (guessed(data, rng, spread) for spread in (2.0, 0.7))
    results = RouteResults(easy=tuple(easy), hard=tuple(hard), difficulties=rng.random(75))
    before = json.dumps(data.annotations)
    score = MixedPrecision(results, data, "masks")
    for share in (0.0, 0.1, 0.5, 1.0):
        chosen = rng.random(75) < share
        mixed = [hard[index] if is_hard else easy[index] for index, is_hard in enumerate(chosen)]
        precision = score(chosen)
        assert (precision.ap, precision.ap50) == plain_pycocotools(mixed, data)
        assert precision == average_precision(mixed, data, "masks")
        assert 0 < precision.ap < 100
    assert json.dumps(data.annotations) == before


def test_masks_are_not_judged_without_masks_or_segmentations() -> None:
    rng = np.random.default_rng(2)
    data = drawn(rng, 8)
    found = guessed(data, rng, 1.0)
    with pytest.raises(InputError, match="the detections have no masks"):
        average_precision([replace(one, masks=None) for one in found], data, "masks")
    bare = [{key: value for key, value in one.items() if key != "segmentation"} for one in objects_in(data)]
    with pytest.raises(InputError, match="drawn has objects without a segmentation"):
        average_precision(found, replace(data, annotations={**data.annotations, "annotations": bare}), "masks")


def objects_in(data: Drawn | CocoDataset) -> Iterator[Mapping[str, Any]]:
    yield from data.annotations["annotations"]


@pytest.fixture(scope="module")
def round_objects() -> CocoDataset:
    """Some of the shipped validation images, their objects taken for ellipses that fill their boxes."""
    data = only(read_dataset(VAL, 32), range(60))
    sizes = {one["id"]: (one["width"], one["height"]) for one in data.annotations["images"]}
    objects = []
    for one in objects_in(data):
        x, y, w, h = one["bbox"]
        (shape,) = to_rle(_ROUND[None], [[x, y, x + w, y + h]], *sizes[one["image_id"]])
        objects.append({**one, "segmentation": shape})
    coded = tuple(() for _ in data.labels)  # only training reads them
    return replace(data, annotations={**data.annotations, "annotations": objects}, coded_masks=coded)


def found_with(data: CocoDataset, mask: Any) -> tuple[Detections, ...]:
    """Every object with its exact box, all with the same mask."""
    index = {category: number for number, category in enumerate(data.category_ids)}
    found = []
    for image in data.image_ids:
        mine = [one for one in objects_in(data) if one["image_id"] == image]
        boxes = torch.tensor([one["bbox"] for one in mine], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = torch.tensor([index[one["category_id"]] for one in mine], dtype=torch.long)
        masks = torch.from_numpy(np.array(mask)).expand(len(mine), 28, 28)
        found.append(Detections(boxes, torch.full((len(mine),), 0.9), classes, masks))
    return tuple(found)


def test_masks_have_a_gap_of_their_own_at_the_same_operating_points(round_objects: CocoDataset) -> None:
    """Both routes find the same boxes, so only the masks show that detector 2 is better; images of more objects gain
    more, and the router knows them.
    """
    data = round_objects
    easy, hard = (found_with(data, mask) for mask in (np.full((28, 28), 255, np.uint8), _ROUND))
    gains = np.array([len(one.scores) for one in hard], float)
    results = RouteResults(easy, hard, gains.argsort().argsort() / len(data), loss_gains=gains)
    evaluation = evaluate_results(results, data, hard_shares=(0.0, 0.5), thresholds=(0.9,), random_draws=3)
    masks = evaluation.masks
    assert masks is not None and evaluation.gap == 0
    assert masks.hard == average_precision(hard, data, "masks") and masks.hard.ap > 99
    assert masks.easy == masks.points[0].precision == average_precision(easy, data, "masks")
    half = masks.points[1]
    assert half.oracle is not None
    assert (
        masks.easy.ap < half.random.ap < half.precision.ap <= half.oracle.ap + 5 and half.precision.ap < masks.hard.ap
    )
    for boxes, other in zip(evaluation.points + evaluation.curve, masks.points + masks.curve, strict=True):
        assert (boxes.hard_share, boxes.threshold) == (other.hard_share, other.threshold)

    written = json.loads(json.dumps(evaluation.as_json()))
    assert written["mask_ap"] == {"easy": vars(masks.easy), "hard": vars(masks.hard)}
    assert written["mask_mean_ap"] == masks.mean_ap()
    point = written["operating_points"][1]
    assert point["mask_precision"]["ap"] == half.precision.ap and point["precision"]["ap"] == evaluation.hard.ap
    assert point["gap_recovered"]["router"] is None
    assert point["mask_gap_recovered"]["router"] == masks.recovered(half.precision)
    assert all(one["mask_random"]["ap"] for one in written["curve"])


def test_without_segmentations_boxes_alone_are_judged(round_objects: CocoDataset) -> None:
    """The numbers of the boxes are those of an evaluation with masks, and nothing is said of masks."""
    results = RouteResults(*[found_with(round_objects, _ROUND)] * 2, np.linspace(0, 1, len(round_objects)))
    plain = replace(round_objects, coded_masks=None)
    both, boxes = (evaluate_results(results, data, random_draws=1) for data in (round_objects, plain))
    assert both.masks is not None and boxes.masks is None
    assert both.points == boxes.points
    words = boxes.as_json()
    assert not any("mask" in key for key in [*words, *words["curve"][0]])


def test_masks_that_gain_nothing_are_remarked(round_objects: CocoDataset) -> None:
    easy, hard = (found_with(round_objects, _ROUND) for _ in range(2))
    off = torch.tensor([0.0, 0, 8, 8])
    easy = tuple(replace(one, boxes=one.boxes + off, frames=one.boxes) for one in easy)
    evaluation = evaluate_results(
        RouteResults(easy, hard, np.linspace(0, 1, len(hard))), round_objects, hard_shares=(), random_draws=1
    )
    assert evaluation.gap > 1
    (remark,) = evaluation.remarks()
    assert "its masks are not better (mask AP all easy 100.0, all hard 100.0)" in remark


def answered(data: CocoDataset, found: Detections) -> RouteResults:
    """The same detections in every fitted image, on both routes."""

    def answer(images: slice) -> BatchAnswers:
        many = len(data.images[images])
        return BatchAnswers([found] * many, [found] * many, np.full(many, 0.5))

    return collect(data, answer, batch=7)


def test_a_mask_keeps_its_place_where_its_box_leaves_the_picture(round_objects: CocoDataset) -> None:
    """The upper half of a box that reaches into the borders of the fitted image, in pixels of the original."""
    wide = Fit.square(32).place_of(64, 32)  # borders of 8 pixels above and below
    data = replace(round_objects, placements=(wide,) * len(round_objects))
    upper = np.zeros((28, 28), np.uint8)
    upper[:14] = 255
    found = Detections(
        boxes=torch.tensor([[4.0, 4, 12, 20]]),
        scores=torch.ones(1),
        classes=torch.zeros(1, dtype=torch.long),
        masks=torch.from_numpy(upper)[None],
    )
    results = answered(data, found)
    one = results.hard[-1]
    assert one.boxes.tolist() == [[8, 0, 24, 24]] and one.frames is not None and one.masks is not None
    pixels: BoolArray = paste(one.masks.numpy(), one.frames.numpy(), 64, 32)[0]
    expected = np.zeros((32, 64), bool)
    expected[:8, 8:24] = True  # of 16 rows, the upper 8 are above the picture; the mask of the clipped box had 12
    assert (pixels == expected).all()


def test_stored_results_have_the_same_masks(round_objects: CocoDataset, tmp_path: Path) -> None:
    results = RouteResults(*[found_with(round_objects, _ROUND)] * 2, np.linspace(0, 1, len(round_objects)))
    results = replace(
        results,
        easy=tuple(replace(one, frames=one.boxes - 1) for one in results.easy),
        hard=tuple(replace(one, frames=one.boxes + 1) for one in results.hard),
    )
    write_results(tmp_path / "kept.npz", results)
    again = read_results(tmp_path / "kept.npz", len(round_objects))
    assert again is not None and again.has_masks
    for one, two in zip(results.easy + results.hard, again.easy + again.hard, strict=True):
        for field in ("boxes", "scores", "classes", "masks", "frames"):
            torch.testing.assert_close(getattr(one, field), getattr(two, field), rtol=0, atol=0)
