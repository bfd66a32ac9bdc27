"""Reads COCO annotations and checks them before a long run begins.

Faults that would train a wrong network are fatal: missing files, repeated ids, objects of unknown images or categories,
boxes that are not four numbers. Other faults are counted: boxes are clipped to their image, boxes without area inside
their image are dropped, images without objects are negatives, crowd regions are ignored in training.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dynamicdet.errors import InputError

_LISTS = (
    ("images", ("id", "file_name")),
    ("annotations", ("image_id", "category_id", "bbox")),
    ("categories", ("id", "name")),
)


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """The content of a data set, and what is unusual in it but not fatal."""

    images: int
    objects: int
    """boxes that are used in training"""
    classes: int
    negatives: int
    """images without an object"""
    crowds: int
    """crowd regions, which are ignored in training"""
    cut: int
    """boxes that exceed their image and are clipped to it"""
    empty: int
    """boxes without area inside their image, which are dropped"""

    def sentences(self) -> list[str]:
        """One line per kind of finding."""
        lines = [f"{self.images} images, {self.objects} objects of {self.classes} classes"]
        for count, what in (
            (self.negatives, "images without objects, used as negatives"),
            (self.crowds, "crowd regions, ignored in training"),
            (self.cut, "boxes that exceed their image, clipped to it"),
            (self.empty, "boxes without area inside their image, dropped"),
        ):
            if count:
                lines.append(f"{count} {what}")
        return lines


@dataclass(frozen=True, kw_only=True)
class CocoFiles:
    """An annotation file with its image folder, read and checked."""

    annotations_file: Path
    image_folder: Path
    content: Mapping[str, Any]
    """the parsed JSON"""
    digest: str
    """hash of the annotations and of the images' names, sizes and times"""
    summary: DataSummary


def read_annotations(source: Path | str, images: Path | str | None = None) -> CocoFiles:
    """Read and check a data set.

    `source` is a folder with `annotations.json`, or a COCO JSON file; `images` is its image folder, by default
    `images/` beside the JSON file. Raises InputError with one sentence that names each kind of fatal fault with its
    first example and its count.
    """
    path = Path(source)
    file = path / "annotations.json" if path.suffix.lower() != ".json" or path.is_dir() else path
    folder = file.parent / "images" if images is None else Path(images)
    content, digest = _parse(file)
    faults = _Faults()
    stamps = _check_images(folder, content["images"], faults)
    _check_ids("category", content["categories"], faults)
    summary = _check_objects(content, faults)
    faults.raise_any(file)
    return CocoFiles(
        annotations_file=file,
        image_folder=folder,
        content=content,
        digest=hashlib.sha256((digest + stamps).encode()).hexdigest()[:16],
        summary=summary,
    )


@dataclass
class _Faults:
    """The kinds of fatal faults: the count and the first example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] += 1
        self.examples.setdefault(kind, example)

    def raise_any(self, file: Path) -> None:
        if not self.counts:
            return
        reasons = [
            f"{self.examples[kind]}{f' and {count - 1} more of this kind' if count > 1 else ''}"
            for kind, count in self.counts.items()
        ]
        raise InputError(f"{file} cannot be used: {'; '.join(reasons)}")


def _parse(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); a data set is a folder with images/ and annotations.json, or "
            "a COCO JSON file and a folder of images"
        ) from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    for key, fields in _LISTS:
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list):
            raise InputError(f"{path} has no list {key!r}; COCO annotations have images, annotations and categories")
        for item in items:
            missing = [field for field in fields if not isinstance(item, dict) or field not in item]
            if missing:
                raise InputError(f"{path} has an entry without {missing[0]!r} in {key!r}")
            strange = [field for field in fields if field.endswith("id") and not isinstance(item[field], int | str)]
            if strange:
                raise InputError(
                    f"{path} has an entry in {key!r} with {strange[0]} {item[strange[0]]}; an id is a number or string"
                )
    if not content["images"] or not content["categories"]:
        raise InputError(f"{path} lists no images or no categories")
    return content, hashlib.sha256(text).hexdigest()


def _check_ids(what: str, entries: Iterable[Mapping[str, Any]], faults: _Faults) -> None:
    seen: set[object] = set()
    for entry in entries:
        if entry["id"] in seen:
            faults.add(f"duplicate {what}", f"{what} id {entry['id']} occurs twice")
        seen.add(entry["id"])


def _check_images(folder: Path, entries: list[Mapping[str, Any]], faults: _Faults) -> str:
    """Note missing files and repeated ids; returns a text that changes when an image changes."""
    _check_ids("image", entries, faults)
    stamps = []
    for entry in entries:
        path = folder / str(entry["file_name"])
        try:
            found = path.stat()
        except OSError:
            faults.add("missing image", f"the image {path} does not exist")
            continue
        stamps.append(f"{entry['file_name']} {found.st_size} {found.st_mtime_ns}\n")
    return "".join(stamps)


def _check_objects(content: Mapping[str, Any], faults: _Faults) -> DataSummary:
    sizes = {entry["id"]: (entry.get("width"), entry.get("height")) for entry in content["images"]}
    categories = {entry["id"] for entry in content["categories"]}
    _check_ids("annotation", (one for one in content["annotations"] if "id" in one), faults)
    counts: Counter[str] = Counter()
    with_objects: set[object] = set()
    for number, one in enumerate(content["annotations"], 1):
        name = f"annotation {one.get('id', f'number {number}')}"
        if one["image_id"] not in sizes:
            faults.add("unknown image", f"{name} belongs to the unknown image {one['image_id']}")
            continue
        if one["category_id"] not in categories:
            faults.add("unknown category", f"{name} has the unknown category {one['category_id']}")
            continue
        if not _is_box(one["bbox"]):
            faults.add("box", f"{name} has the box {one['bbox']}; a box is four numbers: x, y, width, height")
            continue
        kind = "crowd" if one.get("iscrowd", 0) else _kind(one["bbox"], *sizes[one["image_id"]])
        counts[kind] += 1
        if kind in ("whole", "cut"):
            with_objects.add(one["image_id"])
    return DataSummary(
        images=len(content["images"]),
        objects=counts["whole"] + counts["cut"],
        classes=len(content["categories"]),
        negatives=len(sizes) - len(with_objects),
        crowds=counts["crowd"],
        cut=counts["cut"],
        empty=counts["empty"],
    )


def _is_box(box: object) -> bool:
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)
    return numbers and bool(np.isfinite(np.array(box, np.float64)).all())


def _kind(box: list[float], width: int | None, height: int | None) -> str:
    """Whether a box is inside its image, exceeds it (by more than rounding), or has no area in it."""
    x, y, w, h = box
    right = x + w if width is None else min(x + w, width)
    bottom = y + h if height is None else min(y + h, height)
    if right <= max(x, 0) or bottom <= max(y, 0):
        return "empty"
    outside = max(-x, -y, x + w - right, y + h - bottom)
    return "cut" if outside > 1 else "whole"
