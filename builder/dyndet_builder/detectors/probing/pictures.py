"""The pictures of a probe: a few of a folder, or of a data set with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.dataset import as_coco, read_files
from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in, spread
from dynamicdet.suppression import Detections
from dynamicdet.text import printable
from dyndet_builder.detectors.probing.ranking import Labels


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Files, and what is in them if labels say it."""

    paths: tuple[Path, ...]
    labels: Labels | None
    classes: tuple[int, ...]
    """number in the labels' classes of each class of the detector, -1: it is not labelled; 0, 1, ... without labels"""
    class_names: tuple[str, ...]
    """of the numbers"""


def in_folder(folder: Path, count: int, *, class_names: Sequence[str]) -> Pictures:
    """At most `count` pictures, spread over a folder. Raises InputError if there are none."""
    paths = tuple(spread(pictures_in(folder), count))
    return Pictures(paths=paths, labels=None, classes=tuple(range(len(class_names))), class_names=tuple(class_names))


def in_data(source: Path, count: int, *, class_names: Sequence[str], progress: Progress = silent) -> Pictures:
    """At most `count` pictures with objects of classes that the detector knows, spread over a data set.

    Raises InputError for a data set that cannot be used, and for one without such pictures.
    """
    used = read_files(source, split="valid", progress=progress)
    files = used.files
    ids = dict(zip(files.class_names, files.category_ids, strict=True))
    shared = tuple(name for name in class_names if name in ids)
    known = {ids[name] for name in shared}
    coco = as_coco(files, used.table, used.frames)
    objects = [one for one in coco["annotations"] if one["category_id"] in known]
    seen = {one["image_id"] for one in objects if not one["iscrowd"]}
    chosen = spread([row for row, image in enumerate(files.image_ids) if image in seen], count)
    if not chosen:
        raise InputError(
            f"{printable(files.place.annotations)} has no object of a class that the detector knows; its classes: "
            f"{few(files.class_names)}; those of the detector: {few(class_names)}"
        )
    image_ids = tuple(files.image_ids[row] for row in chosen)
    wanted = set(image_ids)
    labels = Labels(
        folder=files.place.annotations.parent,
        annotations={
            "images": [one for one in coco["images"] if one["id"] in wanted],
            "annotations": [one for one in objects if one["image_id"] in wanted],
            "categories": [one for one in coco["categories"] if one["id"] in known],
        },
        image_ids=image_ids,
        category_ids=tuple(ids[name] for name in shared),
    )
    numbers = {name: number for number, name in enumerate(shared)}
    return Pictures(
        paths=tuple(files.paths[row] for row in chosen),
        labels=labels,
        classes=tuple(numbers.get(name, -1) for name in class_names),
        class_names=shared,
    )


def labels_of(found: Sequence[Detections], *, folder: Path, classes: int, least_score: float) -> Labels:
    """The objects of another detector as labels. Raises InputError if there are none."""
    objects: list[dict[str, Any]] = []
    for image, one in enumerate(found, 1):
        sure = one.scores >= least_score
        for box, label in zip(one.boxes[sure], one.classes[sure], strict=True):
            left, top, right, bottom = (float(value) for value in box)
            placed = [left, top, right - left, bottom - top]
            entry = {"id": len(objects) + 1, "image_id": image, "category_id": int(label) + 1, "iscrowd": 0}
            objects.append({**entry, "bbox": placed, "area": placed[2] * placed[3]})
    if not objects:
        raise InputError(
            f"the other detector finds no object with a score of {least_score} or more in {len(found)} pictures, so "
            "there is nothing to agree with"
        )
    return Labels(
        folder=folder,
        annotations={
            "images": [{"id": number} for number in range(1, len(found) + 1)],
            "annotations": objects,
            "categories": [{"id": number + 1, "name": str(number)} for number in range(classes)],
        },
        image_ids=tuple(range(1, len(found) + 1)),
        category_ids=tuple(range(1, classes + 1)),
    )


def few(names: Sequence[str]) -> str:
    """The first names, for a message."""
    shown = ", ".join(printable(name, limit=40) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
