"""Turns the fields of COCO entries, which may be anything that JSON can express, into ids, sizes, boxes and flags.

Each function reads one field of all entries. What is right in all of them, as in nearly every data set, costs one pass
at C speed; only otherwise are the entries looked at one by one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from dynamicdet.aliases import BoolArray, FloatArray, IntArray
from dynamicdet.datasets.findings import Findings
from dynamicdet.text import printable

LARGEST_ID = (1 << 63) - 1
LARGEST_SIZE = 1 << 20
"""pixels of a side"""
LARGEST_COORDINATE = 1e9
_LARGEST_AREA = 1e10  # pycocotools ignores objects above it
_EXACT = 1 << 53  # above it, a float does not say which whole number was meant
_MOST_SHOWN = 30  # values of a list; a message shows about 60 characters
_WHOLE = re.compile(r"-?[0-9]{1,18}")

Entries = Sequence[Mapping[str, Any]]


def read_ids(
    own: Sequence[object], references: Sequence[object], what: str, findings: Findings
) -> tuple[list[int | None], list[int | None]]:
    """Whole numbers for the ids of entries (`own`) and for the `references` to them; None where there is a fault.

    Text of digits is read as numbers. Other text is numbered in its order, if all ids and references are text. A list
    of numbers and text is a fault: 7 and "7" may be two things.
    """
    columns = (own, references)
    texts = [_is_text(column, what, findings) for column in columns]
    names: dict[str, int] = {}
    found = [one for column, text in zip(columns, texts, strict=True) if text for one in column if isinstance(one, str)]
    if found and all(texts[: 1 + bool(references)]) and not all(map(_WHOLE.fullmatch, found)):
        names = {name: number for number, name in enumerate(sorted(set(found)), 1)}
        findings.add("named id", f"{what} id {found[0]!r}", count=len(own))
    return _numbers(own, names, what, findings), _numbers(references, names, what, findings)


def _is_text(column: Sequence[object], what: str, findings: Findings) -> bool:
    kinds = set(map(type, column))
    if str in kinds and kinds & {int, float}:
        text = next(one for one in column if isinstance(one, str))
        number = next(one for one in column if type(one) in (int, float))
        findings.add(
            "mixed",
            f"some {what} ids are text ({shown(text)}) and others are numbers ({shown(number)})",
            way_out="write all of them as whole numbers",
        )
    return str in kinds


def _numbers(column: Sequence[object], names: Mapping[str, int], what: str, findings: Findings) -> list[int | None]:
    if set(map(type, column)) <= {int}:
        exact: list[int | None] = list(column)  # type: ignore[arg-type]
        if not exact or (max(exact) <= LARGEST_ID and min(exact) >= -LARGEST_ID):  # type: ignore[type-var, operator]
            return exact
    return [_number(one, names, what, findings) for one in column]


def _number(one: object, names: Mapping[str, int], what: str, findings: Findings) -> int | None:
    if isinstance(one, str) and one in names:
        return names[one]
    if isinstance(one, str) and _WHOLE.fullmatch(one):
        findings.add("text id", f"{what} id {one!r}")
        return int(one)
    if isinstance(one, float) and math.isfinite(one) and one == int(one) and abs(one) <= _EXACT:
        findings.add("float id", f"{what} id {one}")
        return int(one)
    if type(one) is int and abs(one) <= LARGEST_ID:
        return one
    if _is_large(one):
        accepted = f"larger than accepted; an id is at most {LARGEST_ID:,}"
    else:
        accepted = "not a whole number; an id is a number or string of digits"
    findings.add("id", f"the {what} id {shown(one)} is {accepted}")
    return None


def _is_large(one: object) -> bool:
    """Whether a value is a whole number, and refused only for its size."""
    if isinstance(one, float):
        return math.isfinite(one) and one == int(one)
    return type(one) is int or (isinstance(one, str) and re.fullmatch(r"-?[0-9]+", one) is not None)


def read_size(entry: Mapping[str, Any], findings: Findings) -> tuple[int, int]:
    """Width and height of an image entry; (0, 0) if they are not known."""
    width, height = entry.get("width"), entry.get("height")
    if type(width) is int and type(height) is int and 0 < width <= LARGEST_SIZE and 0 < height <= LARGEST_SIZE:
        return width, height
    name = printable(entry.get("file_name"), limit=80)
    if width is None or height is None:
        findings.add("no size", name)
        return 0, 0
    sides = [_side(side) for side in (width, height)]
    if None in sides:
        findings.add(
            "size",
            f"the image {name} has the size {shown(width)} x {shown(height)}; a size is two whole numbers of pixels",
            way_out="correct the sizes, or leave them out if the boxes belong to the pictures as they are",
        )
        return 0, 0
    if isinstance(width, str) or isinstance(height, str):
        findings.add("text size", name)
    return sides[0] or 0, sides[1] or 0


def _side(value: object) -> int | None:
    if isinstance(value, str):
        value = int(value) if re.fullmatch(r"[0-9]{1,7}", value) else None
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    return value if type(value) is int and 0 < value <= LARGEST_SIZE else None


def read_boxes(
    column: Sequence[object], name: Callable[[int], str], findings: Findings
) -> tuple[FloatArray, BoolArray]:
    """Boxes (M, 4) as x y width height, and which of them are right; `name` is how a message names an entry."""
    right = np.ones(len(column), np.bool_)
    whole: list[Any] = list(column)
    if not (set(map(type, whole)) <= {list} and set(map(len, whole)) <= {4}) or not _numeric(whole):
        right = np.array([_is_box(one) for one in whole], np.bool_)
        whole = [one if good else [0, 0, 0, 0] for one, good in zip(whole, right, strict=True)]
    boxes = np.array(list(chain.from_iterable(whole)), np.float64).reshape(-1, 4)
    right &= (np.abs(boxes) <= LARGEST_COORDINATE).all(axis=1)  # False for NaN
    for index in np.flatnonzero(~right).tolist():
        findings.add(
            "box",
            f"{name(index)} has the box {shown(column[index])}; a box is four numbers: x, y, width, height, each from "
            f"-{LARGEST_COORDINATE:.0f} to {LARGEST_COORDINATE:.0f}",
        )
    return np.where(right[:, None], boxes, 0.0), right


def _numeric(boxes: Sequence[Sequence[object]]) -> bool:
    """Whether all numbers are floats or integers that a float can hold."""
    flat = list(chain.from_iterable(boxes))
    kinds = set(map(type, flat))
    if not kinds <= {int, float}:
        return False
    return int not in kinds or all(abs(one) <= LARGEST_COORDINATE for one in flat if type(one) is int)


def _is_box(box: object) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    return all(type(one) in (int, float) and abs(one) <= LARGEST_COORDINATE for one in box)


def read_crowds(column: Sequence[object], name: Callable[[int], str], findings: Findings) -> BoolArray:
    """Which objects are crowd regions, (M,)."""
    if set(map(type, column)) <= {int, bool, type(None)} and set(column) <= {0, 1, None}:
        return np.array(column, np.bool_)
    flags = np.zeros(len(column), np.bool_)
    for index, one in enumerate(column):
        if isinstance(one, str) and one in ("0", "1"):
            findings.add("crowd flag", name(index))
            flags[index] = one == "1"
        elif one is None or (isinstance(one, int | float) and one in (0, 1)):
            flags[index] = bool(one)
        else:
            findings.add("crowd", f"{name(index)} has iscrowd {shown(one)}; it is 0 or 1")
    return flags


def read_areas(
    column: Sequence[object], boxes: FloatArray, name: Callable[[int], str], findings: Findings
) -> FloatArray:
    """Areas in pixels, (M,). Where there is none (None), or none that makes sense, it is that of the box."""
    areas = boxes[:, 2] * boxes[:, 3]
    usable = np.array([type(one) in (int, float) and 0 <= one <= _LARGEST_AREA for one in column], np.bool_)  # type: ignore[operator]
    areas[usable] = [one for one, good in zip(column, usable, strict=True) if good]
    for index in np.flatnonzero(~usable).tolist():
        if column[index] is not ABSENT:
            findings.add("area", name(index))
    return areas


ABSENT = object()
"""stands for a field that an entry does not have, where null is something else"""


def positions(ids: Sequence[int | None], references: Sequence[int | None]) -> IntArray:
    """Index of each reference in `ids`; -1 if it is not there."""
    place: dict[int | None, int] = {one: index for index, one in enumerate(ids) if one is not None}
    return np.array([place.get(one, -1) for one in references], np.int64)


def shown(value: object, *, limit: int = 60) -> str:
    """A value of JSON as a message shows it: as JSON writes it, but text in single quotes."""
    try:
        return printable(_as_json(value), limit=limit)
    except (ValueError, RecursionError):  # thousands of digits, or too deep
        return "that is too long to show"


def _as_json(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_as_json, value[:_MOST_SHOWN]))}{', ...' * (len(value) > _MOST_SHOWN)}]"
    if isinstance(value, dict):
        items = list(value.items())[:_MOST_SHOWN]
        return f"{{{', '.join(f'{_as_json(key)}: {_as_json(one)}' for key, one in items)}}}"
    if value is None or isinstance(value, bool | float):
        return json.dumps(value)
    return repr(value)
