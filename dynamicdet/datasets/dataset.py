"""COCO data sets, letterboxed once and stored as uint8.

Decoding costs more than training a small network. So each image is decoded once, into memory or into a memory-mapped
file that later processes use again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dynamicdet.aliases import Float32Array, IntArray, Progress, UInt8Array, silent
from dynamicdet.datasets.annotations import CocoFiles, read_annotations
from dynamicdet.datasets.findings import DataSummary
from dynamicdet.datasets.frames import Fault, Frame, each_picture, fit, look, read_frames
from dynamicdet.datasets.layout import Split
from dynamicdet.datasets.objects import ObjectTable
from dynamicdet.errors import InputError
from dynamicdet.files import whole_file
from dynamicdet.letterbox import Letterboxed, letterbox
from dynamicdet.pictures import spread
from dynamicdet.text import printable


@dataclass(frozen=True)
class Labels:
    """Objects of one image: boxes (n, 4) as x1 y1 x2 y2 in pixels of the square, class indices (n,)."""

    boxes: Float32Array
    classes: IntArray


@dataclass(frozen=True)
class CocoDataset:
    """Letterboxed images with their objects, in the order of annotations.json."""

    folder: Path
    """folder of the annotations"""
    image_folder: Path
    digest: str
    """changes with the annotations and the images"""
    summary: DataSummary
    images: UInt8Array
    """(N, S, S, 3) RGB, in memory or memory-mapped"""
    labels: tuple[Labels, ...]
    """without crowd regions"""
    placements: tuple[Letterboxed, ...]
    """place of each image in its square; their `image` is empty"""
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    """COCO id of each class index"""
    class_names: tuple[str, ...]
    annotations: Mapping[str, Any]
    """images, usable objects and categories in COCO's form, boxes in pixels of the images as they are"""

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def objects_per_image(self) -> float:
        """Mean number of objects, without crowd regions; 1 if there are no objects."""
        return sum(len(one.classes) for one in self.labels) / len(self.labels) or 1.0

    @property
    def size(self) -> int:
        """Side of the squares, pixels."""
        return self.images.shape[1]


def read_dataset(
    source: Path | str,
    size: int,
    *,
    images: Path | str | None = None,
    cache: Path | str | None = None,
    split: Split = "train",
    trust_pictures: bool = False,
    progress: Progress = silent,
) -> CocoDataset:
    """Read a data set at an input size in pixels.

    `source`, `images` and `split` are those of `layout.locate`. With the folder `cache`, the letterboxed images are
    stored there in one file that later calls map into memory (its name depends on annotations, images and size).
    `trust_pictures` fits the boxes to pictures of another size than annotated.

    Raises InputError for a data set that cannot be used: with the most important fault, and before the pictures are
    decoded if their headers show it.
    """
    if cache is None:
        found = read_files(source, images=images, split=split, trust_pictures=trust_pictures, progress=progress)
        pictures = np.empty((len(found.frames), size, size, 3), np.uint8)
        _decode(found.files, pictures, progress)
    else:
        files = read_annotations(source, images, split=split)
        files.findings.raise_any(files.place.annotations)
        pictures, frames = _cached(files, size, Path(cache) / f"{files.digest}-{size}", progress, trust_pictures)
        found = _fitted(files, frames, trust_pictures=trust_pictures)
    files, frames, table = found.files, found.frames, found.table
    placements = tuple(_placement(width, height, size) for width, height in frames[:, :2].tolist())
    return CocoDataset(
        folder=files.place.annotations.parent,
        image_folder=files.place.images,
        digest=files.digest,
        summary=files.summary(table),
        images=pictures,
        labels=_labels(files, table, placements, size),
        placements=placements,
        image_ids=files.image_ids,
        category_ids=files.category_ids,
        class_names=files.class_names,
        annotations=_as_coco(files, table, frames),
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


def some_with_objects(data: CocoDataset, count: int) -> CocoDataset:
    """At most `count` images that have objects, spread over the data set, with their annotations."""
    usable = [index for index, one in enumerate(data.labels) if len(one.classes)]
    chosen = spread(usable, count)
    ids = {data.image_ids[index] for index in chosen}
    return replace(
        data,
        images=data.images[chosen],
        labels=tuple(data.labels[index] for index in chosen),
        placements=tuple(data.placements[index] for index in chosen),
        image_ids=tuple(data.image_ids[index] for index in chosen),
        annotations={
            **data.annotations,
            "images": [one for one in data.annotations["images"] if one["id"] in ids],
            "annotations": [one for one in data.annotations["annotations"] if one["image_id"] in ids],
        },
    )


@dataclass(frozen=True)
class UsableFiles:
    """A data set that can be used: its files, the frames of its pictures (see `Frame.row`), its objects in them."""

    files: CocoFiles
    frames: IntArray
    table: ObjectTable


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
    return _fitted(files, frames, trust_pictures=trust_pictures)


def _fitted(files: CocoFiles, frames: IntArray, *, trust_pictures: bool) -> UsableFiles:
    """The objects in the frames of the pictures. Raises InputError if there are faults."""
    table, sizes = fit(files, frames, trust_pictures=trust_pictures)
    table = files.settle(table, sizes)
    files.findings.raise_any(files.place.annotations)
    return UsableFiles(files, frames, table)


def _labels(files: CocoFiles, table: ObjectTable, placements: tuple[Letterboxed, ...], size: int) -> tuple[Labels, ...]:
    """The objects of each image in its square, without those that are smaller than a pixel there."""
    found = table.chosen(~table.crowd)
    order = np.argsort(found.image, kind="stable")
    corners = np.concatenate([found.box[:, :2], found.box[:, :2] + found.box[:, 2:]], axis=1)
    rows = np.split(order, np.searchsorted(found.image[order], np.arange(1, len(placements))))
    labels = []
    for placement, chosen in zip(placements, rows, strict=True):
        square = placement.from_original(corners[chosen]).clip(0, size)
        usable = ((square[:, 2:] - square[:, :2]) > 1).all(axis=1)
        labels.append(Labels(boxes=square[usable], classes=found.category[chosen][usable]))
    if not any(len(one.classes) for one in labels):
        raise InputError(
            f"{printable(files.place.annotations)} cannot be used: none of its {len(found)} objects is larger than a "
            f"pixel once the images fit {size} x {size} pixels"
        )
    return tuple(labels)


def _as_coco(files: CocoFiles, table: ObjectTable, frames: IntArray) -> dict[str, list[dict[str, Any]]]:
    ids, classes = np.array(files.image_ids, np.int64), np.array(files.category_ids, np.int64)
    columns = zip(
        ids[table.image].tolist(),
        classes[table.category].tolist(),
        table.box.tolist(),
        table.area.tolist(),
        table.crowd.astype(int).tolist(),
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
            for number, (image, category, box, area, crowd) in enumerate(columns, 1)
        ],
        "categories": [
            {"id": one, "name": name} for one, name in zip(files.category_ids, files.class_names, strict=True)
        ],
    }


def _placement(width: int, height: int, size: int) -> Letterboxed:
    boxed = letterbox(np.zeros((height, width, 3), np.uint8), size)
    return replace(boxed, image=np.empty((0, 0, 3), np.uint8))


def _decode(files: CocoFiles, images: UInt8Array, progress: Progress) -> None:
    """Fill `images` (N, S, S, 3), which may be mapped. Raises InputError if a picture is damaged."""

    def decode(index: int, path: Path) -> tuple[Frame, Fault | None]:
        def put(pixels: UInt8Array) -> None:
            images[index] = letterbox(pixels, images.shape[1]).image

        return look(path, use=put)

    for _, fault in each_picture(files, decode, step="read images", progress=progress):
        if fault is not None:
            files.findings.add(fault.kind, fault.text)
    files.findings.raise_any(files.place.annotations)


def _cached(
    files: CocoFiles, size: int, stem: Path, progress: Progress, trust_pictures: bool
) -> tuple[UInt8Array, IntArray]:
    """Images and frames from the files of this stem, which are written first if they are missing."""
    pixels, frames_file = stem.with_name(f"{stem.name}.images.npy"), stem.with_name(f"{stem.name}.frames.npy")
    if not (pixels.exists() and frames_file.exists()):
        frames = read_frames(files, whole=False, progress=progress)
        _fitted(files, frames, trust_pictures=trust_pictures)
        files.findings.clear("mirrored", "trusted")  # the caller finds them again
        stem.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(pixels, durable=False) as new_pixels, whole_file(frames_file, durable=False) as new_frames:
            images = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                new_pixels, "w+", np.uint8, (len(frames), size, size, 3)
            )
            _decode(files, images, progress)
            images.flush()
            np.save(new_frames, frames)
    try:
        return np.load(pixels, mmap_mode="r"), np.load(frames_file)
    except (ValueError, OSError) as error:
        raise InputError(f"{pixels} is damaged ({error}); delete it, and it will be written again") from error
