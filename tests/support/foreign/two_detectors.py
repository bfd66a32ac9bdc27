"""Answers of two made-up detectors to made-up pictures: the large one finds more, and most where there is much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dynamicdet.letterbox import Fit
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.truth import Truth

CLASSES = ("cat", "dog", "owl")
FIT = Fit.square(320)
_SIZE = (400, 300)  # width and height of the pictures


def two_detectors(
    pictures: int, *, seed: int = 0, visible: bool = True, gain: float = 0.5
) -> tuple[Answers, Answers, Truth]:
    """A small and a large detector, and the labels.

    With `visible`, the small detector sees in which pictures it misses most: those with many objects. Without, each
    picture has two objects and what it misses is chance. `gain` is what the large one finds of the missed objects.
    """
    rng = np.random.default_rng(seed)
    labels, small, large = [], [], []
    for _ in range(pictures):
        count = int(rng.integers(0, 7)) if visible else 2
        boxes = _boxes(rng, count)
        classes = rng.integers(0, len(CLASSES), count)
        labels.append((boxes, classes))
        missed = rng.random(count) < (0.1 + 0.12 * count if visible else rng.random())
        small.append(_found(rng, boxes, classes, seen=~missed))
        large.append(_found(rng, boxes, classes, seen=~missed | (rng.random(count) < gain)))
    return _answers(small, rng), _answers(large, rng), _truth(labels)


def random_answers(pictures: int, *, seed: int, rows: int = 30) -> Answers:
    """Any answers: some pictures without objects, some with few, some with as many as there are rows."""
    rng = np.random.default_rng(seed)
    counts = rng.choice([0, 1, 3, rows], pictures)
    return _answers([_noise(rng, int(count)) for count in counts], rng)


_Found = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]


def _boxes(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    corner = rng.uniform(0, 200, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(10, 100, (count, 2))], axis=1)


def _noise(rng: np.random.Generator, count: int) -> _Found:
    return _boxes(rng, count), rng.uniform(0.001, 1, count), rng.integers(0, len(CLASSES), count)


def _found(
    rng: np.random.Generator,
    boxes: npt.NDArray[np.float64],
    classes: npt.NDArray[np.int64],
    *,
    seen: npt.NDArray[np.bool_],
) -> _Found:
    """The objects that were seen, not quite in place, and two that are none."""
    found = boxes[seen] + rng.normal(0, 3, (int(seen.sum()), 4))
    wrong, low, others = _noise(rng, 2)
    scores = np.concatenate([rng.uniform(0.3, 1, len(found)), low * 0.6])
    return np.concatenate([found, wrong]), scores, np.concatenate([classes[seen], others])


def _answers(found: list[_Found], rng: np.random.Generator) -> Answers:
    sizes = np.tile(np.array(_SIZE, np.int64), (len(found), 1))
    place = FIT.place_of(*_SIZE)
    orders = [np.argsort(-scores) for _, scores, _ in found]
    return Answers(
        fit=FIT,
        sizes=sizes,
        boxes=tuple(
            place.from_original(boxes.clip(0, 300))[order] for (boxes, *_), order in zip(found, orders, strict=True)
        ),
        scores=tuple(one[1][order].astype(np.float32) for one, order in zip(found, orders, strict=True)),
        classes=tuple(one[2][order] for one, order in zip(found, orders, strict=True)),
        looks=rng.uniform(0.1, 0.6, (len(found), 2)).astype(np.float32),
    )


def _truth(labels: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]) -> Truth:
    ids = range(1, len(labels) + 1)
    objects = [
        {"image_id": image, "category_id": int(label) + 1, "bbox": [*box[:2], *(box[2:] - box[:2])]}
        for image, (boxes, classes) in zip(ids, labels, strict=True)
        for box, label in zip(boxes, classes, strict=True)
    ]
    return Truth(
        folder=Path("labels"),
        paths=(),
        image_ids=tuple(ids),
        category_ids=tuple(range(1, len(CLASSES) + 1)),
        class_names=CLASSES,
        annotations={
            "images": [{"id": one, "width": _SIZE[0], "height": _SIZE[1]} for one in ids],
            "annotations": [{**one, "id": number} for number, one in enumerate(objects, 1)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)],
        },
        by_labels=True,
    )
