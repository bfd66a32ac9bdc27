"""Compares the pictures of a data set with the sizes that they were annotated at.

If they differ, the boxes belong to another frame: each kind of difference is told apart, and the boxes follow it if the
user trusts the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dynamicdet.aliases import FloatArray, IntArray
from dynamicdet.datasets.annotations import CocoFiles
from dynamicdet.datasets.frames import NO_FRAME, TURNED, Frame
from dynamicdet.datasets.objects import ObjectTable
from dynamicdet.text import printable


class InFrames(NamedTuple):
    """Objects in the frames of the pictures as viewers show them."""

    table: ObjectTable
    sizes: IntArray
    """(N, 2) of the frames"""
    moved: Mapping[int, tuple[tuple[int, int], bool]]
    """of each picture whose objects were moved: the size that they were annotated at, and whether they were turned"""


def fit(files: CocoFiles, frames: IntArray, *, trust_pictures: bool = False) -> InFrames:
    """The objects in the frames of the pictures.

    Pictures of another size than annotated are faults. With `trust_pictures` their boxes are scaled and turned to the
    pictures instead, where it is clear how.
    """
    kinds = [
        _compare(tuple(size), Frame(*row)) for size, row in zip(files.sizes.tolist(), frames.tolist(), strict=True)
    ]
    turned, shown = kinds.count("turned"), kinds.count("upright")
    table, boxes = files.table, files.table.box.copy()
    sizes = np.where(frames[:, :2] > 0, frames[:, :2], files.sizes)
    by_image = _by_image(table, len(kinds)) if trust_pictures else []
    moved = {}
    for index, kind in enumerate(kinds):
        if kind == "ambiguous" and not shown:
            kind = "turned" if turned and trust_pictures else "mirrored"
        if kind in ("same", "upright", "ambiguous"):
            continue
        frame, size = Frame(*frames[index].tolist()), (int(files.sizes[index, 0]), int(files.sizes[index, 1]))
        text = f"{printable(files.place.images / files.file_names[index])} {_words(kind, size, frame)}"
        if kind == "mirrored":
            files.findings.add("mirrored", files.file_names[index])
        elif not trust_pictures:
            files.findings.add(kind, text, way_out=_way_out(kind))
            sizes[index] = size
        elif kind == "swapped":
            rows = by_image[index]
            if not _fits(boxes[rows], frame.width, frame.height) or _fits(boxes[rows], *size):
                files.findings.add(
                    kind, text, way_out="annotate the pictures again: they may have been turned either way"
                )
            else:
                files.findings.add("trusted", files.file_names[index])
        else:
            turn = kind == "turned"
            stored = (frame.stored_width, frame.stored_height) if turn else (frame.width, frame.height)
            moved[index] = (size[0] or stored[0], size[1] or stored[1]), turn
            boxes[by_image[index]] = _moved(boxes[by_image[index]], size, frame, turn=turn)
            files.findings.add("trusted", files.file_names[index])
    areas = np.where((boxes != table.box).any(axis=1), boxes[:, 2] * boxes[:, 3], table.area)
    return InFrames(replace(table, box=boxes, area=areas), sizes, moved)


def _compare(size: tuple[int, ...], frame: Frame) -> str:
    """How an annotated size relates to a picture: "same", "upright", "ambiguous", or a kind of fault."""
    shown, stored = (frame.width, frame.height), (frame.stored_width, frame.stored_height)
    if frame is NO_FRAME or 0 in shown or (0 in size and frame.orientation == 1):
        return "same"
    if 0 in size:
        return "ambiguous"
    if size == shown:
        return "same" if frame.orientation == 1 else "upright" if shown != stored else "ambiguous"
    if size == stored:
        return "turned"
    if size == shown[::-1]:
        return "swapped"
    if _scaled(size, shown):
        return "resized"
    return "turned" if frame.orientation in TURNED and _scaled(size, stored) else "stretched"


def _scaled(size: tuple[int, ...], other: tuple[int, int]) -> bool:
    """Whether both sides differ by the same factor, within a pixel."""
    factor = max(other) / max(size)
    return all(abs(own * factor - side) <= 1 for own, side in zip(size, other, strict=True))


def _words(kind: str, size: tuple[int, int], frame: Frame) -> str:
    sizes = f"has {frame.width} x {frame.height} pixels, but was annotated at {size[0]} x {size[1]}"
    return {
        "turned": f"{sizes}: EXIF turns it after annotation (orientation {frame.orientation})",
        "swapped": f"{sizes}: width and height are swapped",
        "resized": f"{sizes}: it was resized after annotation",
        "stretched": f"{sizes}: it was stretched, cropped or padded after annotation",
    }.get(kind, sizes)


def _way_out(kind: str) -> str:
    how = {"turned": "turn", "resized": "scale", "stretched": "stretch"}.get(kind)
    return f"annotate the pictures as they are, or let --trust-pictures {how or 'try to fit'} the boxes to them"


def _by_image(table: ObjectTable, images: int) -> list[IntArray]:
    """Rows of the table for each image."""
    order = np.argsort(table.image, kind="stable")
    return np.split(order, np.searchsorted(table.image[order], np.arange(1, images)))


def _fits(boxes: FloatArray, width: int, height: int) -> bool:
    return bool(((boxes[:, :2] >= -1) & (boxes[:, :2] + boxes[:, 2:] <= np.array([width, height]) + 1)).all())


def _moved(boxes: FloatArray, size: tuple[int, int], frame: Frame, *, turn: bool) -> FloatArray:
    """Boxes (n, 4) x y width height, scaled from the annotated size to the picture, and turned by EXIF if asked for."""
    width, height = (frame.stored_width, frame.stored_height) if turn else (frame.width, frame.height)
    x, y, w, h = (boxes * ([width / (size[0] or width), height / (size[1] or height)] * 2)).T
    left, top = width - x - w, height - y - h  # distances from the other sides
    turns = {2: (left, y, w, h), 3: (left, top, w, h), 4: (x, top, w, h), 5: (y, x, h, w),
             6: (top, x, h, w), 7: (top, left, h, w), 8: (y, left, h, w)}  # fmt: skip
    return np.stack(turns.get(frame.orientation, (x, y, w, h)) if turn else (x, y, w, h), axis=1)
