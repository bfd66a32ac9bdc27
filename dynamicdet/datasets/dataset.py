"""COCO data sets, fitted into a detector's input once and stored as uint8.

Masks stay run-length codes in memory, and are decoded for one image at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dynamicdet.aliases import BoolArray, Float32Array, IntArray, Progress, UInt8Array, silent
from dynamicdet.datasets.annotations import CocoFiles, read_annotations
from dynamicdet.datasets.findings import DataSummary
from dynamicdet.datasets.fitting import decode, stored
from dynamicdet.datasets.frames import read_frames
from dynamicdet.datasets.layout import Split
from dynamicdet.datasets.masks import fitted, read_masks
from dynamicdet.datasets.objects import ObjectTable
from dynamicdet.datasets.placing import fit
from dynamicdet.datasets.segmentations import Rle
from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit, Letterboxed
from dynamicdet.pictures import spread
from dynamicdet.text import printable


@dataclass(frozen=True)
class Labels:
    """Objects of one image: boxes (n, 4) as x1 y1 x2 y2 in pixels of the fitted image, class indices (n,)."""

    boxes: Float32Array
    classes: IntArray
    masks: UInt8Array | None = None
    """(n, H, W) of the fitted image, 0 or 1; only where they were asked for"""


@dataclass(frozen=True)
class CocoDataset:
    """Fitted images with their objects, in the order of annotations.json."""

    folder: Path
    """folder of the annotations"""
    image_folder: Path
    digest: str
    """changes with the annotations and the images"""
    summary: DataSummary
    images: UInt8Array
    """(N, H, W, 3) RGB, in memory or memory-mapped"""
    fit: Fit
    """how the images were fitted"""
    labels: tuple[Labels, ...]
    """without crowd regions"""
    placements: tuple[Letterboxed, ...]
    """place of each image in the fitted one; their `image` is empty"""
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    """COCO id of each class index"""
    class_names: tuple[str, ...]
    annotations: Mapping[str, Any]
    """images, usable objects and categories in COCO's form, boxes and masks in pixels of the images as they are"""
    coded_masks: tuple[tuple[Rle, ...], ...] | None = None
    """of the objects in `labels`, in pixels of the images as they are; None unless read with masks"""

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def has_masks(self) -> bool:
        """Whether it was read with masks."""
        return self.coded_masks is not None

    def masks(self, index: int) -> UInt8Array:
        """Masks (n, H, W) of a fitted image, 0 or 1, in the order of `labels[index]`; each has a pixel at least.

        Raises ValueError if the data set was read without masks.
        """
        if self.coded_masks is None:
            raise ValueError(f"{printable(self.folder)} was read without masks")
        return fitted(self.coded_masks[index], self.labels[index].boxes, self.placements[index], self.fit)

    @property
    def objects_per_image(self) -> float:
        """Mean number of objects, without crowd regions; 1 if there are no objects."""
        return sum(len(one.classes) for one in self.labels) / len(self.labels) or 1.0

    @property
    def size(self) -> int:
        """Side of the squares, pixels. Raises InputError if the images were fitted otherwise, as our networks need."""
        if not self.fit.is_own:
            raise InputError(
                f"{printable(self.folder)} was read for images of {self.fit}; networks that are trained here take "
                "letterboxed squares"
            )
        return self.fit.height


def read_dataset(
    source: Path | str,
    size: int | Fit,
    *,
    images: Path | str | None = None,
    cache: Path | str | None = None,
    split: Split = "train",
    trust_pictures: bool = False,
    masks: bool | None = False,
    progress: Progress = silent,
) -> CocoDataset:
    """Read a data set for a detector's input: a square's side in pixels, or a rule of fitting.

    `source`, `images` and `split` are those of `layout.locate`. With the folder `cache`, the fitted images are stored
    there in one file that later calls map into memory (its name depends on annotations, images and `size`).
    `trust_pictures` fits the boxes to pictures of another size than annotated. With `masks`, each object needs a
    segmentation (and pycocotools is needed); without, they are not looked at. None: with masks if each object has a
    segmentation.

    Raises InputError for a data set that cannot be used: with the most important fault, and before the pictures are
    decoded if their headers show it.
    """
    rule = size if isinstance(size, Fit) else Fit.square(size)
    files = read_annotations(source, images, split=split, masks=masks is not False)
    files.findings.raise_any(files.place.annotations)
    wanted = _all_segmented(files) if masks is None else masks

    def place(frames: IntArray) -> UsableFiles:
        return _placed(files, frames, trust_pictures=trust_pictures, masks=wanted)

    if cache is None:
        found = place(read_frames(files, whole=False, progress=progress))
        pictures = decode(files, rule, progress=progress)
    else:
        pictures, found = stored(files, rule, Path(cache), place, progress=progress)
    frames, table = found.frames, found.table
    placements = tuple(_placement(width, height, rule) for width, height in frames[:, :2].tolist())
    labels, rows = _labels(files, table, placements, rule)
    return CocoDataset(
        folder=files.place.annotations.parent,
        image_folder=files.place.images,
        digest=files.digest,
        summary=files.summary(table, 0 if found.masks is None else int((~table.crowd).sum())),
        images=pictures,
        fit=rule,
        labels=labels,
        placements=placements,
        image_ids=files.image_ids,
        category_ids=files.category_ids,
        class_names=files.class_names,
        annotations=as_coco(files, table, frames, found.masks),
        coded_masks=None if found.masks is None else tuple(tuple(found.masks[row] for row in one) for one in rows),
    )


def in_class_order(data: CocoDataset, class_names: Sequence[str]) -> CocoDataset:
    """The data set with its classes in the order of a detector, if they have the same names; else the same one."""
    if tuple(class_names) == data.class_names or sorted(class_names) != sorted(data.class_names):
        return data
    place = np.array([class_names.index(name) for name in data.class_names], np.int64)
    ids = dict(zip(data.class_names, data.category_ids, strict=True))
    return replace(
        data,
        labels=tuple(replace(one, classes=place[one.classes]) for one in data.labels),
        category_ids=tuple(ids[name] for name in class_names),
        class_names=tuple(class_names),
    )


def some_with_objects(data: CocoDataset, count: int, *, used: BoolArray | None = None) -> CocoDataset:
    """At most `count` images that have objects, spread over the data set or those that are `used` (N,)."""
    usable = [index for index, one in enumerate(data.labels) if len(one.classes) and (used is None or used[index])]
    return only(data, spread(usable, count))


def only(data: CocoDataset, chosen: Sequence[int]) -> CocoDataset:
    """The images at these places, with their annotations. Their pixels are copied."""
    ids = {data.image_ids[index] for index in chosen}
    return replace(
        data,
        images=data.images[list(chosen)],
        labels=tuple(data.labels[index] for index in chosen),
        placements=tuple(data.placements[index] for index in chosen),
        image_ids=tuple(data.image_ids[index] for index in chosen),
        annotations={
            **data.annotations,
            "images": [one for one in data.annotations["images"] if one["id"] in ids],
            "annotations": [one for one in data.annotations["annotations"] if one["image_id"] in ids],
        },
        coded_masks=None if data.coded_masks is None else tuple(data.coded_masks[index] for index in chosen),
    )


@dataclass(frozen=True)
class UsableFiles:
    """A data set that can be used: its files, the frames of its pictures (see `Frame.row`), its objects in them."""

    files: CocoFiles
    frames: IntArray
    table: ObjectTable
    masks: tuple[Rle, ...] | None = None
    """of the objects, in pixels of their pictures; None unless asked for"""


def read_files(
    source: Path | str,
    *,
    images: Path | str | None = None,
    split: Split = "train",
    trust_pictures: bool = False,
    progress: Progress = silent,
) -> UsableFiles:
    """Read the annotations and the headers of the pictures; arguments and errors are those of `read_dataset`."""
    files = read_annotations(source, images, split=split)
    files.findings.raise_any(files.place.annotations)
    frames = read_frames(files, whole=False, progress=progress)
    return _placed(files, frames, trust_pictures=trust_pictures)


def _all_segmented(files: CocoFiles) -> bool:
    """Whether each object has a segmentation; crowd regions can do without."""
    entries = files.table.entry[~files.table.crowd].tolist()
    return all(files.segmentations[entry] not in (None, [], {}) for entry in entries)


def _placed(files: CocoFiles, frames: IntArray, *, trust_pictures: bool, masks: bool = False) -> UsableFiles:
    """The objects in the frames of the pictures. Raises InputError if there are faults."""
    placed = fit(files, frames, trust_pictures=trust_pictures)
    table = files.settle(placed.table, placed.sizes)
    files.findings.raise_any(files.place.annotations)
    coded = read_masks(files, table, frames, placed, files.findings) if masks else None
    files.findings.raise_any(files.place.annotations)
    return UsableFiles(files, frames, table, coded)


def _labels(
    files: CocoFiles, table: ObjectTable, placements: tuple[Letterboxed, ...], rule: Fit
) -> tuple[tuple[Labels, ...], list[list[int]]]:
    """The objects of each fitted image, without those that are smaller than a pixel there; and their table rows."""
    found, places = table.chosen(~table.crowd), np.flatnonzero(~table.crowd)
    order = np.argsort(found.image, kind="stable")
    corners = np.concatenate([found.box[:, :2], found.box[:, :2] + found.box[:, 2:]], axis=1)
    rows = np.split(order, np.searchsorted(found.image[order], np.arange(1, len(placements))))
    limits = np.array([rule.width, rule.height] * 2, np.float32)
    labels, kept = [], []
    for placement, chosen in zip(placements, rows, strict=True):
        fitted = placement.from_original(corners[chosen]).clip(0, limits)
        usable = ((fitted[:, 2:] - fitted[:, :2]) > 1).all(axis=1)
        labels.append(Labels(boxes=fitted[usable], classes=found.category[chosen][usable]))
        kept.append(places[chosen][usable].tolist())
    if not any(len(one.classes) for one in labels):
        raise InputError(
            f"{printable(files.place.annotations)} cannot be used: none of its {len(found)} objects is larger than a "
            f"pixel once the images fit {rule}"
        )
    return tuple(labels), kept


def as_coco(
    files: CocoFiles, table: ObjectTable, frames: IntArray, masks: Sequence[Rle] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Images, usable objects and categories in COCO's form, boxes and `masks` in pixels of the images as they are."""
    ids, classes = np.array(files.image_ids, np.int64), np.array(files.category_ids, np.int64)
    columns = zip(
        ids[table.image].tolist(),
        classes[table.category].tolist(),
        table.box.tolist(),
        table.area.tolist(),
        table.crowd.astype(int).tolist(),
        [{}] * len(table) if masks is None else [{"segmentation": one} for one in masks],
        strict=True,
    )
    return {
        "images": [
            {"id": one, "file_name": name, "width": width, "height": height}
            for one, name, (width, height) in zip(
                files.image_ids, files.file_names, frames[:, :2].tolist(), strict=True
            )
        ],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
            | mask
            for number, (image, category, box, area, crowd, mask) in enumerate(columns, 1)
        ],
        "categories": [
            {"id": one, "name": name} for one, name in zip(files.category_ids, files.class_names, strict=True)
        ],
    }


def _placement(width: int, height: int, rule: Fit) -> Letterboxed:
    return replace(rule.place_of(width, height), image=np.empty((0, 0, 3), np.uint8))
