"""Turns the segmentations of COCO entries, which may be anything that JSON can express, into run-length codes.

COCO has three forms: polygons, run lengths as a list of numbers, and the same as a text. All become the text, in the
size of the image. pycocotools trusts its input, and reads or writes outside its memory if that is wrong; so all numbers
are checked here first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from dynamicdet.aliases import BoolArray, FloatArray, IntArray, UInt8Array
from dynamicdet.datasets.fields import LARGEST_COORDINATE, shown
from dynamicdet.datasets.findings import Findings
from dynamicdet.datasets.objects import ObjectTable
from dynamicdet.picture_files import MAX_PIXELS

Rle: TypeAlias = dict[str, Any]
"""`size`: height and width; `counts`: text, the lengths of background and object in turn, column by column"""

LONGEST_OUTLINE = 1 << 20
"""pixels of a polygon's outline; pycocotools takes about 100 bytes for each"""
_FORMS = (
    "a segmentation is a list of polygons [[x1, y1, x2, y2, x3, y3, ...], ...], or a run-length code "
    '{"size": [height, width], "counts": ...}'
)
_LEAST_NUMBERS = 6  # of a polygon; pycocotools takes four numbers for a box
_MOST_DIGITS = 6  # characters of one run length in a text; 30 bits
_APART = 1.0  # pixels between a mask and its box that are no rounding
_SMALL = 4.0  # pixels of a box's side; a smaller object may have no pixel
_SUSPECT = 0.25  # share of masks outside their boxes that a wrong convention gives


class _FaultError(Exception):
    """A segmentation that cannot be used: a kind of `findings.FAULTS`, and what is wrong."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def code(
    column: Sequence[object],
    table: ObjectTable,
    boxes: FloatArray,
    sizes: IntArray,
    name: Callable[[int, int], str],
    findings: Findings,
) -> tuple[Rle, ...]:
    """The mask of each object of the table, in the size that its image was annotated at (`sizes` (N, 2), width first).

    `column` has the segmentation of each entry, None where there is none, and `boxes` (entries, 4) has its box as
    annotated: crowd regions without a segmentation get it. `name` is how a message names an object, by the indices of
    its image and its entry. Where there is a fault, or the size is not known (0), the mask is empty.
    """
    masks = []
    for image, entry, crowd in zip(table.image.tolist(), table.entry.tolist(), table.crowd.tolist(), strict=True):
        width, height = sizes[image].tolist()
        found = column[entry]
        try:
            if width * height > MAX_PIXELS:
                raise _FaultError("mask size", f"belongs to an image of {width} x {height} pixels; masks of at most "
                                               f"{MAX_PIXELS:,} pixels are read")  # fmt: skip
            if found is None or found in ([], {}):
                if not crowd:
                    raise _FaultError("no mask", "has no segmentation")
                findings.add("crowd box", name(image, entry))
                masks.append(_of_box(boxes[entry], width, height))
                continue
            masks.append(_coded(found, width, height))
            if isinstance(found, list) and any(len(one) < _LEAST_NUMBERS for one in found):
                findings.add("few points", name(image, entry))
        except _FaultError as fault:
            findings.add(fault.kind, f"{name(image, entry)} {fault}", way_out=_WAYS_OUT.get(fault.kind, ""))
            masks.append(_empty(0, 0))
    return tuple(masks)


_WAYS_OUT = {"no mask": "a detector with masks needs one for each object: add it, or leave out the object"}


def check_places(masks: Sequence[Rle], table: ObjectTable, name: Callable[[int, int], str], findings: Findings) -> None:
    """Note masks without pixels and masks outside their boxes; a fault if so many are that the convention is wrong."""
    from pycocotools import mask as coco

    if not len(table):
        return
    empty: BoolArray = coco.area(list(masks)) == 0
    x, y, w, h = coco.toBbox(list(masks)).reshape(-1, 4).T
    left, top, width, height = table.box.T
    gap = np.maximum(np.maximum(left - x - w, x - left - width), np.maximum(top - y - h, y - top - height))
    apart = ~empty & (gap > _APART) & ~table.crowd
    strange = apart | (empty & (np.minimum(width, height) >= _SMALL) & ~table.crowd)
    if strange.sum() >= _SUSPECT * (~table.crowd).sum() > 0:
        first = int(np.flatnonzero(strange)[0])
        findings.add(
            "mask place",
            f"{strange.sum():,} of {(~table.crowd).sum():,} masks lie outside their boxes or have no pixel, such as "
            f"that of {name(int(table.image[first]), int(table.entry[first]))}; COCO polygons are in pixels of the "
            "image, x before y",
            count=int(strange.sum()),
        )
        return
    for kind, rows in (("no pixels", empty & ~table.crowd), ("mask apart", apart)):
        for row in np.flatnonzero(rows).tolist():
            findings.add(kind, name(int(table.image[row]), int(table.entry[row])))


def text_of(runs: IntArray) -> str:
    """COCO's text of run lengths (n,): six bits a character, five of them digits; from the fourth on, differences."""
    values = runs.copy()
    values[3:] -= runs[1:-2]
    digits = np.ones(len(runs), np.int64)
    for count in range(1, _MOST_DIGITS):
        limit = 1 << (5 * count - 1)
        digits += (values >= limit) | (values < -limit)
    place = np.arange(digits.sum()) - np.repeat(np.cumsum(digits) - digits, digits)
    letters = (np.repeat(values, digits) >> (5 * place)) & 31
    letters |= np.where(place < np.repeat(digits, digits) - 1, 32, 0)
    return (letters + 48).astype(np.uint8).tobytes().decode("ascii")


def encode(mask: UInt8Array | BoolArray) -> Rle:
    """The run-length code of a mask (H, W), 0 or 1, as pycocotools writes it."""
    flat = mask.T.reshape(-1).astype(np.bool_)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start = [0, 0] if len(flat) and flat[0] else [0]  # the first run is background, and may be empty
    runs = np.diff(np.concatenate([start, changes, [len(flat)]]).astype(np.int64))
    return {"size": [mask.shape[0], mask.shape[1]], "counts": text_of(runs)}


def _empty(width: int, height: int) -> Rle:
    return {"size": [height, width], "counts": text_of(np.array([width * height], np.int64))}


def _of_box(box: FloatArray, width: int, height: int) -> Rle:
    x, y, w, h = box.tolist()
    return _coded([[x, y, x + w, y, x + w, y + h, x, y + h]], width, height)


def _coded(value: object, width: int, height: int) -> Rle:
    """The mask of a segmentation. Raises _FaultError."""
    if isinstance(value, dict):
        return _of_runs(value, width, height)
    if not isinstance(value, list):
        raise _FaultError("segmentation", f"has the segmentation {shown(value)}; {_FORMS}")
    polygons = [_polygon(one, width, height) for one in value]
    drawn = [one for one in polygons if len(one) >= _LEAST_NUMBERS]
    if not drawn or not width * height:
        return _empty(width, height)
    from pycocotools import mask as coco

    codes = coco.frPyObjects(drawn, height, width)
    found = codes[0] if len(codes) == 1 else coco.merge(codes)
    return {"size": [height, width], "counts": found["counts"].decode("ascii")}


def _polygon(value: object, width: int, height: int) -> FloatArray:
    """The numbers of a polygon near its image, (2n,); none if it has no area there."""
    if not isinstance(value, list) or not set(map(type, value)) <= {int, float}:
        raise _FaultError("segmentation", f"has the polygon {shown(value)}; {_FORMS}")
    if len(value) % 2:
        raise _FaultError("segmentation", f"has a polygon of {len(value)} numbers, {shown(value)}; it needs pairs x, y")
    try:
        numbers = np.array(value, np.float64)
    except OverflowError:
        numbers = np.array([np.inf])
    if not (np.abs(numbers) <= LARGEST_COORDINATE).all():  # False for NaN
        raise _FaultError(
            "segmentation",
            f"has the polygon {shown(value)}; its numbers must be from -{LARGEST_COORDINATE:.0f} to "
            f"{LARGEST_COORDINATE:.0f}",
        )
    side = max(width, height)
    if len(numbers) and (numbers.min() < -side or numbers.max() > 2 * side):
        numbers = _near(numbers.reshape(-1, 2), side).reshape(-1)
    if len(numbers) * 2 * side > LONGEST_OUTLINE:
        points = numbers.reshape(-1, 2)
        length = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
        if length > LONGEST_OUTLINE:
            raise _FaultError(
                "segmentation",
                f"has a polygon whose outline is {length:,.0f} pixels long; at most {LONGEST_OUTLINE:,} are accepted",
            )
    return numbers


def _near(points: FloatArray, side: int) -> FloatArray:
    """The part of a polygon within -side..2 side, by cutting it at one border after the other."""
    for axis, border, sign in ((0, -side, 1.0), (0, 2 * side, -1.0), (1, -side, 1.0), (1, 2 * side, -1.0)):
        if not len(points):
            break
        depth = sign * (points[:, axis] - border)  # above 0 inside
        before, depth_before = np.roll(points, 1, axis=0), np.roll(depth, 1)
        crosses, inside = (depth >= 0) != (depth_before >= 0), depth >= 0
        share = np.where(crosses, depth_before / np.where(crosses, depth_before - depth, 1.0), 0.0)
        cuts = before + share[:, None] * (points - before)
        # Of each edge: first where it crosses the border, then its end.
        points = np.stack([cuts, points], axis=1)[np.stack([crosses, inside], axis=1)]
    return points


def _of_runs(value: dict[str, Any], width: int, height: int) -> Rle:
    """A run-length code with sound run lengths. Raises _FaultError."""
    size, counts = value.get("size"), value.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(one) is int for one in size)):
        raise _FaultError("rle", f"has a run-length code of the size {shown(size)}; {_FORMS}")
    if size != [height, width]:
        raise _FaultError(
            "mask size",
            f"has a run-length code of height {shown(size[0])} and width {shown(size[1])}, but its image has height "
            f"{height} and width {width}",
        )
    if isinstance(counts, str):
        runs = _runs_of_text(counts)
    elif isinstance(counts, list) and set(map(type, counts)) <= {int}:
        runs = _runs_of_list(counts)
    else:
        raise _FaultError("rle", f"has the run lengths {shown(counts)}; they are a list of whole numbers, or a text")
    if len(runs) and runs.min() < 0:
        raise _FaultError("rle", f"has a run length below 0, {int(runs.min())}")
    if (total := sum(runs.tolist())) != width * height or not total:
        raise _FaultError("rle", f"has run lengths that add up to {total}; its image has {width * height} pixels")
    if isinstance(counts, str) and runs[1:].all():
        return {"size": [height, width], "counts": counts}
    return _of_sound(runs, width, height)


def _of_sound(runs: IntArray, width: int, height: int) -> Rle:
    """The text of run lengths; empty runs within are joined with their neighbours, because pycocotools counts them."""
    if not runs[1:].all():
        filled = runs > 0
        value, runs = (np.arange(len(runs)) % 2)[filled], runs[filled]
        first = np.flatnonzero(np.diff(value, prepend=-1))
        runs = np.add.reduceat(runs, first)
        runs = np.concatenate([[0], runs]) if value[0] else runs
    return {"size": [height, width], "counts": text_of(runs)}


def _runs_of_list(counts: list[int]) -> IntArray:
    try:
        return np.array(counts, np.int64)
    except OverflowError:
        raise _FaultError("rle", f"has the run length {shown(max(counts, key=abs))}, more than pixels") from None


def _runs_of_text(text: str) -> IntArray:
    """What `text_of` wrote, or anything else. Raises _FaultError for what is no such text."""
    try:
        letters = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        letters = np.array([-1])
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or letters[-1] & 32:
        raise _FaultError("rle", f"has the run-length code {shown(text)}, which cannot be decoded")
    last = np.flatnonzero(letters & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    digits = last - first + 1
    if digits.max() > _MOST_DIGITS:
        raise _FaultError("rle", f"has the run-length code {shown(text)}, whose numbers have too many digits")
    place = np.arange(len(letters)) - np.repeat(first, digits)
    runs = np.add.reduceat((letters & 31) << (5 * place), first)
    runs -= np.where(letters[last] & 16, 1 << (5 * digits), 0)  # two's complement
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs
