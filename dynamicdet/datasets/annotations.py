"""Reads COCO annotations and checks them before a long run begins.

Faults that would train a wrong network, or give a wrong average precision, are fatal. Other faults are counted and
handled: see `findings.py` for both. The pictures are only looked for here; `frames.py` opens them.
"""

from __future__ import annotations

import hashlib
import json
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dynamicdet.aliases import BoolArray, IntArray
from dynamicdet.class_names import LONGEST_NAME, MOST_CLASSES
from dynamicdet.datasets import fields
from dynamicdet.datasets.findings import DataSummary, Findings
from dynamicdet.datasets.image_files import find_files
from dynamicdet.datasets.layout import Place, Split, locate
from dynamicdet.datasets.objects import ObjectTable, settle
from dynamicdet.errors import InputError
from dynamicdet.text import printable

LARGEST_FILE = 2 << 30
"""bytes of an annotation file; COCO's training set has 450 MB"""
_NEEDED = (
    ("images", ("id", "file_name")),
    ("annotations", ("image_id", "category_id", "bbox")),
    ("categories", ("id", "name")),
)
_Content = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class CocoFiles:
    """An annotation file with its image folder, read and checked; without faults unless `findings` has them."""

    place: Place
    file_names: tuple[str, ...]
    image_ids: tuple[int, ...]
    openable: BoolArray
    """(N,) which image files are there, in the folder, and not empty"""
    sizes: IntArray
    """(N, 2) width and height as annotated, 0 where they are not known"""
    class_names: tuple[str, ...]
    """in the order of their ids"""
    category_ids: tuple[int, ...]
    table: ObjectTable
    """all objects as annotated"""
    digest: str
    """hash of the annotations and of the images' names, sizes and times"""
    annotation_ids: Sequence[object]
    """of the entries that have all fields, None where there is none"""
    segmentations: Sequence[object]
    """of the same entries, as they are in the file; empty unless read with `masks`"""
    findings: Findings

    @property
    def paths(self) -> list[Path]:
        """The image files."""
        return [self.place.images / name for name in self.file_names]

    def settle(self, table: ObjectTable, sizes: IntArray) -> ObjectTable:
        """The objects that can be used, see `objects.settle`; what is unusual about them goes to the findings."""
        return settle(table, sizes, self.name_object, self.class_names, self.findings)

    def name_object(self, image: int, entry: int) -> str:
        """How a message names an object."""
        name = name_annotation(entry, self.annotation_ids[entry])
        return f"{name} in {printable(self.file_names[image], limit=200)}"

    def summary(self, usable: ObjectTable, masks: int = 0) -> DataSummary:
        """What the data set has, given the objects that `settle` left, and how many of them have masks."""
        return DataSummary(
            images=len(self.file_names),
            objects=int((~usable.crowd).sum()),
            classes=len(self.class_names),
            masks=masks,
            notes=tuple(finding for finding in self.findings.all() if not finding.fatal),
        )


def read_annotations(
    source: Path | str | Place, images: Path | str | None = None, *, split: Split = "train", masks: bool = False
) -> CocoFiles:
    """Read a data set's annotations, look for its images, and collect all faults in `findings`.

    `source`, `images` and `split` are those of `layout.locate`. Raises InputError in one sentence if the file cannot be
    read, is larger than `LARGEST_FILE` or is not COCO JSON. Other faults are left to the caller:
    `findings.raise_any(file)`. With `masks`, the segmentations are kept; `masks.read_masks` checks them.
    """
    place = source if isinstance(source, Place) else locate(source, images, split=split)
    content, digest = _parse(place.annotations)
    findings = Findings()
    for key, needed in _NEEDED:
        content[key] = _whole_entries(content[key], key, needed, findings)
    pictures, objects, categories = (content[key] for key, _ in _NEEDED)
    image_ids, image_of = fields.read_ids(_column(pictures, "id"), _column(objects, "image_id"), "image", findings)
    class_ids, class_of = fields.read_ids(
        _column(categories, "id"), _column(objects, "category_id"), "category", findings
    )
    annotation_ids = _annotation_ids(objects)
    for what, ids in (("image", image_ids), ("category", class_ids), ("annotation", annotation_ids)):
        _check_twice(what, ids, findings)
    order = _classes(categories, class_ids, set(class_of), findings)
    table = _table(objects, fields.positions(image_ids, image_of),
                   fields.positions([class_ids[index] for index in order], class_of), findings)  # fmt: skip
    sizes = np.array([fields.read_size(entry, findings) for entry in pictures], np.int64).reshape(-1, 2)
    names = tuple(str(entry["file_name"]) for entry in pictures)
    openable, stamps = find_files(place.images, pictures, findings)
    files = CocoFiles(
        place=place,
        file_names=names,
        image_ids=tuple(-1 if one is None else one for one in image_ids),
        openable=openable,
        sizes=sizes,
        class_names=tuple(str(categories[index]["name"]) for index in order),
        category_ids=tuple(class_ids[index] or 0 for index in order),
        table=table,
        digest=hashlib.sha256((digest + stamps).encode(errors="backslashreplace")).hexdigest()[:16],
        annotation_ids=annotation_ids,
        segmentations=[entry.get("segmentation") for entry in objects] if masks else (),
        findings=findings,
    )
    files.settle(table, sizes)
    return files


def _parse(path: Path) -> tuple[_Content, str]:
    """The three lists of a COCO file, and a hash of its bytes."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{printable(path)} is not a regular file; annotations are a COCO JSON file")
        if found.st_size > LARGEST_FILE:
            raise InputError(
                f"{printable(path)} has {found.st_size:,} bytes, and at most {LARGEST_FILE:,} are read; leave out the "
                "segmentations, or split it"
            )
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(
            f"{printable(path)} cannot be read ({printable(reason)}); a data set is a folder with images/ and "
            "annotations.json, or a COCO JSON file and a folder of images"
        ) from error
    digest = hashlib.sha256(text).hexdigest()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{printable(path)} is not valid JSON: {_reason(error)}") from error
    lists: _Content = {}
    for key, _ in _NEEDED:
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list):
            raise InputError(
                f"{printable(path)} has no list {key!r}; COCO annotations have images, annotations and categories"
            )
        lists[key] = items
    empty = [key for key in ("images", "categories") if not lists[key]]
    if empty:
        raise InputError(f"{printable(path)} lists no {' and no '.join(empty)}")
    return lists, digest


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8, UTF-16 or UTF-32"
    if not isinstance(error, json.JSONDecodeError):  # Python's limit of digits
        return f"it has a whole number of more than {sys.get_int_max_str_digits():,} digits"
    return printable(error, limit=200)


def _whole_entries(items: list[Any], key: str, needed: Sequence[str], findings: Findings) -> list[dict[str, Any]]:
    """The entries that have all fields they need."""
    if set(map(type, items)) <= {dict} and all(None not in [one.get(field) for one in items] for field in needed):
        return items
    whole = []
    for number, one in enumerate(items, 1):
        missing = [field for field in needed if not isinstance(one, dict) or one.get(field) is None]
        if not missing:
            whole.append(one)
            continue
        what = f"has no {missing[0]!r}"
        if not isinstance(one, dict):
            what = "is not a JSON object"
        elif missing[0] in one:
            what = f"has null as {missing[0]!r}"
        findings.add("field", f"entry {number:,} of {key!r} {what} (the first entry is entry 1)")
    return whole


def _column(entries: Sequence[dict[str, Any]], field: str) -> list[Any]:
    return [entry[field] for entry in entries]


def _annotation_ids(entries: Sequence[dict[str, Any]]) -> list[object]:
    """The ids of annotations serve only to find double ones, and to name annotations in messages."""
    return [one if isinstance(one := entry.get("id"), int | float | str) else None for entry in entries]


def _check_twice(what: str, ids: Sequence[object], findings: Findings) -> None:
    known = [one for one in ids if one is not None]
    if len(set(known)) == len(known):
        return
    seen: set[object] = set()
    for one in known:
        if one in seen:
            findings.add("duplicate", f"{what} id {fields.shown(one)} occurs twice")
        seen.add(one)


def _classes(
    categories: Sequence[dict[str, Any]], ids: Sequence[int | None], used: set[int | None], findings: Findings
) -> list[int]:
    """Indices of the categories in the order of their ids, without the root of a Roboflow export."""
    order = sorted((index for index, one in enumerate(ids) if one is not None), key=lambda index: ids[index] or 0)
    names = [entry["name"] for entry in categories]
    for index in order:
        name = names[index]
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
            findings.add(
                "name",
                f"category {ids[index]} has the name {fields.shown(name, limit=80)}; a class name is 1 to "
                f"{LONGEST_NAME} printable characters",
            )
    if order and ids[order[0]] not in used and _is_root(categories, order[0]):
        findings.add("root", fields.shown(names[order[0]]))
        order = order[1:]
    seen: dict[str, int] = {}
    for index in order:
        name = str(names[index]).strip()
        if name in seen:
            findings.add(
                "same name",
                f"the categories {ids[seen[name]]} and {ids[index]} have the same name, {name!r}",
                way_out="results per class would be ambiguous: rename one, or join them",
            )
        seen.setdefault(name, index)
    if len(order) > MOST_CLASSES:
        findings.add(
            "many classes",
            f"it has {len(order):,} classes; at most {MOST_CLASSES:,} are accepted",
            way_out="leave out the classes without objects, or join classes",
        )
    return order


def _is_root(categories: Sequence[dict[str, Any]], index: int) -> bool:
    """Whether a category is the name of the export: all others belong to it, and it belongs to none."""
    root = categories[index]
    others = [entry for number, entry in enumerate(categories) if number != index]
    above = root.get("supercategory")
    return bool(others) and above in (None, "", "none") and all(
        entry.get("supercategory") == root["name"] for entry in others
    )  # fmt: skip


def _table(entries: Sequence[dict[str, Any]], image: IntArray, category: IntArray, findings: Findings) -> ObjectTable:
    """The objects without those that have a fault."""
    name = partial(_name, entries)
    boxes, good = fields.read_boxes(_column(entries, "bbox"), name, findings)
    for kind, found, field, what in (
        ("image", image, "image_id", "belongs to the unknown image"),
        ("category", category, "category_id", "has the unknown category"),
    ):
        for index in np.flatnonzero(found < 0).tolist():
            findings.add(kind, f"{name(index)} {what} {fields.shown(entries[index][field])}")
        good &= found >= 0
    areas = [entry.get("area", fields.ABSENT) for entry in entries]
    return ObjectTable(
        image=image,
        category=category,
        box=boxes,
        area=fields.read_areas(areas, boxes, name, findings),
        crowd=fields.read_crowds([entry.get("iscrowd") for entry in entries], name, findings),
        entry=np.arange(len(entries)),
    ).chosen(good)


def name_annotation(index: int, own_id: object) -> str:
    """How a message names an annotation: by its id, or by its place if it has none."""
    return f"annotation {f'number {index + 1:,}' if own_id is None else fields.shown(own_id)}"


def _name(entries: Sequence[dict[str, Any]], index: int) -> str:
    return name_annotation(index, entries[index].get("id"))
