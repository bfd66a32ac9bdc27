"""Matches detections to objects as pycocotools does, by their boxes or by their masks.

A match depends only on its own image. So masks, which are stored in 28 x 28 pixels, become masks of whole pictures for
a few images at a time.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynamicdet.errors import InputError
from dynamicdet.masks import to_rle
from dynamicdet.suppression import Detections

Kind = Literal["boxes", "masks"]
"""what is compared with the objects"""
Match = Mapping[str, Any] | None
"""pycocotools' result for one image and class; None if there is neither object nor detection"""
_IOU_TYPES: Mapping[Kind, str] = {"boxes": "bbox", "masks": "segm"}
_IMAGES_TOGETHER = 32
"""images whose masks have their full size at the same time"""


class Labelled(Protocol):
    """Images with objects in COCO's form, boxes in pixels of the images as they are; a `CocoDataset` is one."""

    @property
    def folder(self) -> Path:
        """Folder of the annotations."""

    @property
    def annotations(self) -> Mapping[str, Any]:
        """`images`, `annotations` and `categories`; masks need `segmentation`, and the images' sizes."""

    @property
    def image_ids(self) -> tuple[int, ...]:
        """COCO id of each image, in the order of the detections."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """COCO id of each class index."""


def order_of(data: Labelled) -> npt.NDArray[np.intp]:
    """The images' numbers in the order of their ids, which is that of the matches."""
    return np.argsort(np.array(data.image_ids), kind="stable")


def objects_of(data: Labelled, kind: Kind = "boxes") -> COCO:
    """The objects of a data set. Raises InputError if there are none to find, or none with a segmentation."""
    annotations = data.annotations["annotations"]
    if all(one.get("iscrowd", 0) for one in annotations):
        raise InputError(f"{data.folder} has no objects to find, so there is no average precision")
    if kind == "masks" and not all("segmentation" in one for one in annotations):
        raise InputError(f"{data.folder} has objects without a segmentation, so there is no average precision of masks")
    # Renumbered, because pycocotools takes a match with object id 0 for no match; areas, crowd flags may be absent.
    filled = [
        {"area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0, **one, "id": number}
        for number, one in enumerate(annotations, 1)
    ]
    return _index({**data.annotations, "annotations": filled})


def matches_of(
    objects: COCO, detections: Sequence[Detections], data: Labelled, kind: Kind = "boxes"
) -> list[list[Match]]:
    """The matches of one list of detections per image, by class and image in the order of their ids.

    Raises InputError for masks of detections that have none.
    """
    order = order_of(data)
    if len(detections) != len(order):
        raise ValueError(f"{len(detections)} lists of detections for {len(order)} images")
    together, entries = (len(order), _boxes) if kind == "boxes" else (_IMAGES_TOGETHER, _masks)
    found: list[list[Match]] = [[] for _ in objects.getCatIds()]
    for first in range(0, len(order), together):
        chosen = order[first : first + together]
        given = [
            {"image_id": data.image_ids[place], "category_id": data.category_ids[label], **entry}
            for place in chosen
            for label, entry in entries(detections[place], objects.imgs[data.image_ids[place]])
        ]
        ids = [data.image_ids[place] for place in chosen]
        for kept, new in zip(found, _matched(objects, given, ids, _IOU_TYPES[kind]), strict=True):
            kept.extend(new)
    return found


def _matched(
    objects: COCO, entries: Sequence[Mapping[str, Any]], images: Sequence[int], iou_type: str
) -> list[list[Match]]:
    """The matches in these images, whose ids ascend.

    AP and AP50 are for objects of all sizes and 100 detections; leaving out the single sizes saves 3/4 of the work.
    """
    numbered = [{**entry, "id": number, "iscrowd": 0} for number, entry in enumerate(entries, 1)]
    found = _index({**objects.dataset, "annotations": numbered})
    with _silence():
        run = COCOeval(objects, found, iou_type)
        run.params.imgIds = list(images)
        run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
        run.params.maxDets = [100]
        run.evaluate()
    many = len(run.params.imgIds)
    return [run.evalImgs[first : first + many] for first in range(0, len(run.evalImgs), many)]


def _boxes(found: Detections, image: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Class and box of each detection."""
    corners = found.boxes.clone()
    corners[:, 2:] -= corners[:, :2]  # x y w h
    for box, score, label in zip(corners.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True):
        yield label, {"bbox": box, "score": score, "area": box[2] * box[3]}


def _masks(found: Detections, image: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Class and mask of each detection, as the mask of the whole picture."""
    if found.masks is None:
        raise InputError("the detections have no masks, so there is no average precision of masks")
    frames = found.boxes if found.frames is None else found.frames
    shapes = to_rle(found.masks.numpy(), frames.numpy(), image["width"], image["height"])
    for shape, score, label in zip(shapes, found.scores.tolist(), found.classes.tolist(), strict=True):
        yield label, {"segmentation": shape, "score": score, "area": 0.0}  # any area counts; pycocotools asks for one


def _index(content: Mapping[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    with _silence():
        coco.createIndex()
    return coco


def _silence() -> contextlib.redirect_stdout[io.StringIO]:
    return contextlib.redirect_stdout(io.StringIO())
