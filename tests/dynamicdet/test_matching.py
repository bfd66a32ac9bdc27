"""Matching of boxes with objects: it is COCO's, and its verdicts say what the counts say."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynamicdet.datasets.truth import read_objects
from dynamicdet.matching import Matches, Objects, added, match, tally, verdict

NAMES = ("cat", "dog")


@dataclass(frozen=True)
class Found:
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    names: tuple[str, ...]


def scene(rng: np.random.Generator) -> tuple[Objects, Found]:
    """A few objects, some of them crowds, and boxes near some of them."""
    count, boxes = int(rng.integers(0, 6)), int(rng.integers(0, 9))
    corner, sides = rng.uniform(0, 60, (count, 2)), rng.uniform(10, 40, (count, 2))
    objects = np.concatenate([corner, corner + sides], axis=1)
    near = (
        objects[rng.integers(0, count, boxes)] if count else rng.uniform((0, 0, 60, 60), (60, 60, 120, 120), (boxes, 4))
    )
    names = tuple(NAMES[number] for number in rng.integers(0, 2, count))
    return (
        Objects(boxes=objects, names=names, crowd=rng.random(count) < 0.2),
        Found(
            boxes=near + rng.normal(0, 4, near.shape) * [1, 1, 0, 0],
            scores=rng.permutation(boxes) / 10,
            names=tuple(NAMES[number] for number in rng.integers(0, 2, boxes)),
        ),
    )


def coco(truth: Objects, found: Found) -> tuple[int, int]:
    """Objects found and wrong boxes by pycocotools at IoU 0.5."""
    sets = []
    for boxes, names, more in (
        (truth.boxes, truth.names, [{"iscrowd": int(one)} for one in truth.crowd]),
        (found.boxes, found.names, [{"score": float(one), "iscrowd": 0} for one in found.scores]),
    ):
        entries = [
            {
                "id": number,
                "image_id": 1,
                "category_id": NAMES.index(name),
                "bbox": [*box[:2], *(box[2:] - box[:2])],
                "area": float((box[2:] - box[:2]).prod()),
                **extra,
            }
            for number, (box, name, extra) in enumerate(zip(boxes, names, more, strict=True), 1)
        ]
        one = COCO()
        one.dataset = {
            "images": [{"id": 1}],
            "annotations": entries,
            "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES)],
        }
        one.createIndex()
        sets.append(one)
    run = COCOeval(*sets, "bbox")
    run.params.areaRng, run.params.areaRngLbl, run.params.maxDets = [[0, 1e10]], ["all"], [100]
    run.params.iouThrs = np.array([0.5])
    run.evaluate()
    known = [one for one in run.evalImgs if one is not None]
    hits = sum(int((one["dtMatches"][0].astype(bool) & ~one["dtIgnore"][0]).sum()) for one in known)
    wrong = sum(int((~one["dtMatches"][0].astype(bool) & ~one["dtIgnore"][0]).sum()) for one in known)
    return hits, wrong


def test_boxes_are_matched_as_pycocotools_does() -> None:
    rng, seen = np.random.default_rng(0), np.zeros(2, int)
    for _ in range(150):
        truth, found = scene(rng)
        with contextlib.redirect_stdout(io.StringIO()):
            expected = coco(truth, found)
        matches = match(truth, found)
        assert (matches.hits, matches.errors) == expected
        assert matches.hits == matches.right.sum() and matches.objects == len(truth)
        seen += expected
    assert (seen > 100).all()


def test_the_surest_of_two_boxes_shows_the_object() -> None:
    truth = Objects(boxes=np.array([[0.0, 0, 10, 10]]), names=("cat",), crowd=np.zeros(1, np.bool_))
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    found = match(truth, Found(boxes=boxes, scores=np.array([0.4, 0.7]), names=("cat", "cat")))
    assert (found.right.tolist(), found.wrong.tolist()) == ([False, True], [True, False])


def matches(found: str, wrong: int = 0) -> Matches:
    """`found` has a letter for each object, upper case if it was found."""
    flags = np.array([letter.isupper() for letter in found], np.bool_)
    right = np.arange(int(flags.sum()) + wrong) >= wrong
    return Matches(
        names=tuple(found.lower()), to_find=np.ones(len(found), np.bool_), found=flags, right=right, wrong=~right
    )


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (matches("Abba"), matches("ABBA"), "detector 2 finds 3 more"),
        (matches("Aab"), matches("aAB"), "detector 2 finds 2 more, misses 1"),
        (matches("Aa"), matches("aa"), "detector 1 finds 1 more"),
        (matches("AA"), matches("AA", 2), "both find all"),
        (matches("Aa", 1), matches("Aa", 1), "detector 1 is enough"),
        (matches("AA", 3), matches("AA", 1), "detector 2 draws 2 fewer wrong boxes"),
        (matches("aa"), matches("aa"), "both find nothing"),
        (matches(""), matches(""), "nothing to find"),
    ],
)
def test_the_verdict_says_what_detector_2_adds(first: Matches, second: Matches, said: str) -> None:
    assert verdict(first, second) == said


def test_what_detector_2_adds_is_counted_by_class() -> None:
    assert tally(added(matches("Abba"), matches("ABBA"))) == "2 b, 1 a"


def test_labels_are_found_by_the_file_of_their_picture(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / name)
    annotation = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [5, 6, 10, 20], "area": 200, "iscrowd": 0}
    crowd = {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 30, 30], "area": 900, "iscrowd": 1}
    content = {
        "images": [{"id": 4, "file_name": "b.png"}, {"id": 7, "file_name": "a.png"}],
        "annotations": [annotation, crowd],
        "categories": [{"id": 3, "name": "cat"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    found = read_objects(tmp_path)
    assert [path.name for path in found] == ["b.png", "a.png"]
    objects = found[(tmp_path / "images" / "a.png").resolve()]
    assert (objects.names, objects.crowd.tolist(), len(objects)) == (("cat", "cat"), [False, True], 1)
    assert objects.boxes[0].tolist() == [5, 6, 15, 26]
    assert len(found[(tmp_path / "images" / "b.png").resolve()]) == 0
