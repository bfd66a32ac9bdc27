"""COCO-style data sets: a folder with images/ and annotations.json, letterboxed once and stored as uint8.

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
from dynamicdet.datasets.annotations import DataSummary, read_annotations
from dynamicdet.errors import InputError
from dynamicdet.files import whole_file
from dynamicdet.images import read_image
from dynamicdet.letterbox import Letterboxed, letterbox


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
    """the parsed annotations.json"""

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
    progress: Progress = silent,
) -> CocoDataset:
    """Read a data set at an input size in pixels.

    `source` is a folder with `annotations.json` and `images/`, or a COCO JSON file with `images` as its image folder.
    With the folder `cache`, the letterboxed images are stored there in one file that later calls map into memory (its
    name depends on annotations, images and size). Raises InputError that names a missing or damaged file, and for
    annotations that cannot be used (see `annotations.py`).
    """
    files = read_annotations(source, images)
    categories = sorted(files.content["categories"], key=lambda category: category["id"])
    index_of = {category["id"]: index for index, category in enumerate(categories)}
    entries = files.content["images"]
    if cache is None:
        pictures, sides = np.empty((len(entries), size, size, 3), np.uint8), np.empty((len(entries), 2), np.int64)
        _decode(files.image_folder, entries, pictures, sides, progress)
    else:
        stem = Path(cache) / f"{files.digest}-{size}"
        pictures, sides = _cached(files.image_folder, entries, size, stem, progress)
    placements = tuple(_placement(int(width), int(height), size) for width, height in sides)
    by_image: dict[int, list[Mapping[str, Any]]] = {entry["id"]: [] for entry in entries}
    for annotation in files.content["annotations"]:
        if not annotation.get("iscrowd", 0):
            by_image[annotation["image_id"]].append(annotation)
    labels = tuple(
        _labels(by_image[entry["id"]], index_of, placement, size)
        for entry, placement in zip(entries, placements, strict=True)
    )
    return CocoDataset(
        folder=files.annotations_file.parent,
        image_folder=files.image_folder,
        digest=files.digest,
        summary=files.summary,
        images=pictures,
        labels=labels,
        placements=placements,
        image_ids=tuple(entry["id"] for entry in entries),
        category_ids=tuple(category["id"] for category in categories),
        class_names=tuple(category["name"] for category in categories),
        annotations=files.content,
    )


def _labels(
    annotations: list[Mapping[str, Any]], index_of: Mapping[int, int], placement: Letterboxed, size: int
) -> Labels:
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    square = placement.from_original(boxes).clip(0, size)
    classes = np.array([index_of[annotation["category_id"]] for annotation in annotations], np.int64)
    usable = ((square[:, 2:] - square[:, :2]) > 1).all(axis=1)
    return Labels(boxes=square[usable], classes=classes[usable])


def _placement(width: int, height: int, size: int) -> Letterboxed:
    boxed = letterbox(np.zeros((height, width, 3), np.uint8), size)
    return replace(boxed, image=np.empty((0, 0, 3), np.uint8))


def _decode(
    folder: Path,
    entries: Sequence[Mapping[str, Any]],
    images: UInt8Array,
    sides: IntArray,
    progress: Progress,
) -> None:
    """Fill `images` and `sides` (N, 2), the width and height of the originals."""
    for index, entry in enumerate(entries):
        picture = read_image(folder / str(entry["file_name"]))
        images[index] = letterbox(picture, images.shape[1]).image
        sides[index] = picture.shape[1], picture.shape[0]
        progress("read images", index + 1, len(entries))


def _cached(
    folder: Path, entries: Sequence[Mapping[str, Any]], size: int, stem: Path, progress: Progress
) -> tuple[UInt8Array, IntArray]:
    """Images and sides from the files of this stem, which are written first if they are missing."""
    pixels, sides_file = stem.with_name(f"{stem.name}.images.npy"), stem.with_name(f"{stem.name}.sides.npy")
    if not (pixels.exists() and sides_file.exists()):
        stem.parent.mkdir(parents=True, exist_ok=True)
        sides = np.empty((len(entries), 2), np.int64)
        with whole_file(pixels, durable=False) as new_pixels, whole_file(sides_file, durable=False) as new_sides:
            images = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                new_pixels, "w+", np.uint8, (len(entries), size, size, 3)
            )
            _decode(folder, entries, images, sides, progress)
            images.flush()
            np.save(new_sides, sides)
    try:
        return np.load(pixels, mmap_mode="r"), np.load(sides_file)
    except (ValueError, OSError) as error:
        raise InputError(f"{pixels} is damaged ({error}); delete it, and it will be written again") from error
