"""COCO-style data sets: a folder with images/ and annotations.json, letterboxed once and kept ready as uint8.

Decoding costs more than training a small network; each image is therefore decoded once, into memory or into a
memory-mapped file that survives the process.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.errors import InputError
from dynamicdet.images import UInt8Array, read_image
from dynamicdet.letterbox import Letterboxed, letterbox

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Labels:
    """Objects of one image: boxes (n, 4) as x1 y1 x2 y2 in pixels of the square, class indices (n,)."""

    boxes: FloatArray
    classes: IntArray


@dataclass(frozen=True)
class CocoDataset:
    """Letterboxed images with their objects, in the order of annotations.json."""

    folder: Path
    images: UInt8Array
    """(N, S, S, 3) RGB, in memory or memory-mapped"""
    labels: tuple[Labels, ...]
    """without crowd regions"""
    placements: tuple[Letterboxed, ...]
    """where each image lies in its square; their `image` is empty"""
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    """COCO id of each class index"""
    class_names: tuple[str, ...]
    annotations: Mapping[str, Any]
    """the parsed annotations.json"""

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def size(self) -> int:
        """Side of the squares, pixels."""
        return self.images.shape[1]


def read_dataset(
    folder: Path | str, size: int, *, cache: Path | str | None = None, progress: Progress | None = None
) -> CocoDataset:
    """Read a data set at an input size in pixels.

    With `cache`, a folder, the letterboxed images are kept there in one file that later calls map into memory
    (the file's name depends on the annotations and the size). Raises InputError for a missing or broken file,
    naming it.
    """
    root = Path(folder)
    annotations, digest = _read_annotations(root / "annotations.json")
    categories = sorted(annotations["categories"], key=lambda category: category["id"])
    index_of = {category["id"]: index for index, category in enumerate(categories)}
    entries = annotations["images"]
    if cache is None:
        images, sides = np.empty((len(entries), size, size, 3), np.uint8), np.empty((len(entries), 2), np.int64)
        _decode(root, entries, images, sides, progress)
    else:
        images, sides = _cached(root, entries, size, Path(cache) / f"{digest}-{size}", progress)
    placements = tuple(_placement(int(width), int(height), size) for width, height in sides)
    by_image: dict[int, list[Mapping[str, Any]]] = {entry["id"]: [] for entry in entries}
    for annotation in annotations["annotations"]:
        _check_annotation(root, annotation, by_image, index_of)
        if not annotation.get("iscrowd", 0):
            by_image[annotation["image_id"]].append(annotation)
    labels = tuple(
        _labels(by_image[entry["id"]], index_of, placement, size)
        for entry, placement in zip(entries, placements, strict=True)
    )
    return CocoDataset(
        folder=root,
        images=images,
        labels=labels,
        placements=placements,
        image_ids=tuple(entry["id"] for entry in entries),
        category_ids=tuple(category["id"] for category in categories),
        class_names=tuple(category["name"] for category in categories),
        annotations=annotations,
    )


def _read_annotations(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); a data set is a folder with images/ and annotations.json"
        ) from error
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    for key, fields in (
        ("images", ("id", "file_name")),
        ("annotations", ("image_id", "category_id", "bbox")),
        ("categories", ("id", "name")),
    ):
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list):
            raise InputError(f"{path} has no list {key!r}; COCO annotations have images, annotations and categories")
        for item in items:
            missing = [field for field in fields if not isinstance(item, dict) or field not in item]
            if missing:
                raise InputError(f"{path} has an entry without {missing[0]!r} in {key!r}")
    if not content["images"] or not content["categories"]:
        raise InputError(f"{path} lists no images or no categories")
    return content, hashlib.sha256(text).hexdigest()[:16]


def _check_annotation(
    root: Path, annotation: Mapping[str, Any], images: Mapping[int, object], categories: Mapping[int, int]
) -> None:
    where = f"{root / 'annotations.json'}: annotation {annotation.get('id', '(without id)')}"
    if annotation["image_id"] not in images:
        raise InputError(f"{where} belongs to the unknown image {annotation['image_id']}")
    if annotation["category_id"] not in categories:
        raise InputError(f"{where} has the unknown category {annotation['category_id']}")
    box = annotation["bbox"]
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)
    if not numbers or not np.isfinite(box).all():
        raise InputError(f"{where} has the box {box}; a box is four numbers: x, y, width, height")


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
    root: Path,
    entries: Sequence[Mapping[str, Any]],
    images: UInt8Array,
    sides: IntArray,
    progress: Progress | None,
) -> None:
    """Fill `images` and `sides` (N, 2), the width and height of the originals."""
    for index, entry in enumerate(entries):
        picture = read_image(root / "images" / str(entry["file_name"]))
        images[index] = letterbox(picture, images.shape[1]).image
        sides[index] = picture.shape[1], picture.shape[0]
        if progress is not None:
            progress(index + 1, len(entries))


def _cached(
    root: Path, entries: Sequence[Mapping[str, Any]], size: int, stem: Path, progress: Progress | None
) -> tuple[UInt8Array, IntArray]:
    """Images and sides from the files of this stem, which are written first where they are missing."""
    pixels, sides_file = stem.with_name(f"{stem.name}.images.npy"), stem.with_name(f"{stem.name}.sides.npy")
    if not (pixels.exists() and sides_file.exists()):
        stem.parent.mkdir(parents=True, exist_ok=True)
        sides = np.empty((len(entries), 2), np.int64)
        with tempfile.TemporaryDirectory(dir=stem.parent) as folder:
            images = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                Path(folder) / "images.npy", "w+", np.uint8, (len(entries), size, size, 3)
            )
            _decode(root, entries, images, sides, progress)
            images.flush()
            np.save(Path(folder) / "sides.npy", sides)
            (Path(folder) / "images.npy").replace(pixels)
            (Path(folder) / "sides.npy").replace(sides_file)
    try:
        return np.load(pixels, mmap_mode="r"), np.load(sides_file)
    except (ValueError, OSError) as error:
        raise InputError(f"{pixels} is damaged ({error}); delete it, it will be written again") from error
