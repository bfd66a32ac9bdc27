"""The objects of a data set as arrays, and what is unusual about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dynamicdet.aliases import BoolArray, FloatArray, IntArray
from dynamicdet.datasets.findings import EXAMPLES, Findings
from dynamicdet.text import printable

_ROUNDING = 1.0  # pixels by which a box may exceed its image
_SUSPECT = 0.25  # share of boxes outside their image that a wrong convention gives, and rounding does not


@dataclass(frozen=True, kw_only=True)
class ObjectTable:
    """All annotated objects, crowd regions included."""

    image: IntArray
    """(M,) index of the image"""
    category: IntArray
    """(M,) index of the class"""
    box: FloatArray
    """(M, 4) x y width height, pixels of the image"""
    area: FloatArray
    crowd: BoolArray
    entry: IntArray
    """(M,) index of the annotation in the file"""

    def __len__(self) -> int:
        return len(self.image)

    def chosen(self, mask: BoolArray) -> ObjectTable:
        """Some of the objects."""
        return ObjectTable(
            image=self.image[mask],
            category=self.category[mask],
            box=self.box[mask],
            area=self.area[mask],
            crowd=self.crowd[mask],
            entry=self.entry[mask],
        )


def settle(
    table: ObjectTable,
    sizes: IntArray,
    name: Callable[[int, int], str],
    class_names: tuple[str, ...],
    findings: Findings,
) -> ObjectTable:
    """The objects that can be used, clipped to their images; `sizes` (N, 2), 0 where they are not known.

    `name` is how a message names an object, by the indices of its image and of its annotation. Notes what
    is clipped, dropped, ignored or missing, in place of earlier notes.
    """
    findings.clear("negatives", "crowds", "cut", "empty", "repeated", "unused", "nothing", "shares", "corners")
    x, y, w, h = table.box.T
    width, height = np.where(sizes > 0, sizes, np.inf)[table.image].T.reshape(2, -1)
    right, bottom = np.minimum(x + w, width), np.minimum(y + h, height)
    left, top = np.maximum(x, 0), np.maximum(y, 0)
    empty = ((right <= left) | (bottom <= top)) & ~table.crowd
    outside = np.max([-x, -y, x + w - right, y + h - bottom], axis=0, initial=-np.inf) > _ROUNDING
    cut = outside & ~empty & ~table.crowd
    _note_conventions(table, outside | empty, np.stack([width, height]), findings)
    clipped = np.stack([left, top, right - left, bottom - top], axis=1)
    shrunk = np.where(cut, clipped[:, 2] * clipped[:, 3], np.inf)
    kept = replace(table, box=np.where(cut[:, None], clipped, table.box), area=np.minimum(table.area, shrunk)).chosen(
        ~empty
    )
    usable = kept.chosen(~kept.crowd)
    negatives = len(sizes) - len(np.unique(usable.image))
    if negatives:
        findings.add("negatives", "", count=negatives)
    for kind, found in (
        ("crowds", table.chosen(table.crowd)),
        ("cut", table.chosen(cut)),
        ("empty", table.chosen(empty)),
        ("repeated", _repeated(usable)),
    ):
        for index, (image, entry) in enumerate(zip(found.image[:EXAMPLES], found.entry[:EXAMPLES], strict=True)):
            rest = len(found) - EXAMPLES if index == EXAMPLES - 1 else 0
            findings.add(kind, name(int(image), int(entry)), count=1 + rest)
    for index in sorted(set(range(len(class_names))) - set(np.unique(usable.category).tolist())):
        findings.add("unused", printable(repr(class_names[index])))
    if not len(usable):
        dropped = (
            f"; {empty.sum():,} {'box has' if empty.sum() == 1 else 'boxes have'} no area inside their image"
            if empty.any()
            else ""
        )
        findings.add("nothing", f"it has no objects to learn or to find{dropped}")
    return kept


def _note_conventions(table: ObjectTable, outside: BoolArray, limits: FloatArray, findings: Findings) -> None:
    """Boxes in another convention than COCO's would give a wrong network, or an average precision of 0."""
    x, y, w, h = table.box.T
    if not len(table):
        return
    if bool((table.box <= 1).all() and (table.box > 0).any() and (limits > 2).all()):
        findings.add(
            "shares",
            f"all {len(table):,} boxes lie within 0..1, such as {table.box[0].tolist()}; COCO boxes are in pixels",
            count=len(table),
        )
    corners = (w > x) & (h > y) & (x >= 0) & (y >= 0) & (w <= limits[0] + 1) & (h <= limits[1] + 1)
    if outside.mean() >= _SUSPECT and bool(corners.all()):
        findings.add(
            "corners",
            f"the boxes, such as {table.box[outside][0].tolist()}, fit their images only if they are the corners "
            "x1 y1 x2 y2; COCO boxes are x, y, width, height",
            count=len(table),
        )


def _repeated(table: ObjectTable) -> ObjectTable:
    """The objects that repeat an earlier one."""
    rows = np.column_stack([table.image, table.category, table.box])
    order = np.lexsort(rows.T[::-1])
    rows = rows[order]
    again = np.zeros(len(table), np.bool_)
    again[order[1:]] = (rows[1:] == rows[:-1]).all(axis=1)
    return table.chosen(again)
