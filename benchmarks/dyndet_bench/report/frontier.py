"""Draws what a router gains: AP over mean latency at one load, beside random routing, with a promise marked."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import BeforeValidator, ValidationError, model_validator

from dynamicdet.aliases import FloatArray
from dynamicdet.errors import InputError
from dynamicdet.extras import missing_extra
from dynamicdet.files import whole_file
from dynamicdet.records import Record, Share, read_bytes, reason_of
from dynamicdet.text import printable
from dyndet_bench.report.svg import INK, MUTED, SERIES, style_latency_axes
from dyndet_bench.report.tables import csv_columns
from dyndet_bench.report.text import percent
from dyndet_bench.sweep.record import Milliseconds, Percent, PerSecond

try:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox
except ImportError as error:
    raise missing_extra("a plot needs matplotlib", "matplotlib", among=("bench",)) from error

CELLS_NAME = "cells.csv"
_SIZE_INCHES, _DOTS_PER_INCH = (5.2, 4.3), 200
"""Text of 12 points stays readable when a phone shows the picture at two thirds."""
_FONT_POINTS = 12.0
_LARGEST = 16 << 20
"""bytes of a table"""
_COLUMNS = ("threshold", "concurrency", "batch", "mean_ms", "mean_low_ms", "mean_high_ms", "hard_share", "ap")
_ROUTER, _RANDOM, _PROMISE = SERIES[0], SERIES[1], SERIES[2]
_Place: TypeAlias = tuple[float, float, Literal["left", "center", "right"], Literal["top", "bottom"]]
"""of a name beside its point: right and up in points, and which of its sides are there"""
_BETWEEN: tuple[_Place, ...] = (
    (-8, 4, "right", "bottom"),
    (0, 7, "center", "bottom"),
    (8, -5, "left", "top"),
    (0, -7, "center", "top"),
    (8, 5, "left", "bottom"),
    (-8, 14, "right", "bottom"),
    (0, 17, "center", "bottom"),
    (8, -15, "left", "top"),
    (0, -17, "center", "top"),
)
_EASY_END: tuple[_Place, ...] = ((10, -3, "left", "top"), (10, 4, "left", "bottom"))
_HARD_END: tuple[_Place, ...] = ((6, -5, "left", "top"), (6, 5, "left", "bottom"), (-6, 5, "right", "bottom"))


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """One threshold at one load."""

    threshold: float
    hard_share: float
    mean_ms: float
    low_ms: float
    """ends of the 95 % interval of the mean"""
    high_ms: float
    ap: float
    """COCO AP, percent"""


def read_frontier(source: Path, *, concurrency: int = 1) -> tuple[FrontierPoint, ...]:
    """Read the cells of one closed loop from a sweep's folder or its cells.csv, from the easiest threshold on.

    Raises InputError if the file is not the table of a sweep, or if the load lacks AP or one of the two ends.
    """
    file = source / CELLS_NAME if source.is_dir() else source
    points = []
    for row in _read_cells(file):
        at_load = (row.concurrency, row.request_rate, row.batch) == (concurrency, None, 1)
        if at_load and row.ap is not None and row.mean_ms is not None and row.hard_share is not None:
            points.append(
                FrontierPoint(
                    threshold=row.threshold,
                    hard_share=row.hard_share,
                    mean_ms=row.mean_ms,
                    low_ms=row.mean_low_ms or row.mean_ms,
                    high_ms=row.mean_high_ms or row.mean_ms,
                    ap=row.ap,
                )
            )
    points.sort(key=lambda point: -point.threshold)
    if not points or points[0].threshold < 1 or points[-1].threshold > 0:
        raise InputError(
            f"{printable(file)} has no AP for thresholds 1 and 0 at concurrency {concurrency}, batch 1; "
            "`dyndet bench sweep --data VAL --concurrency N` measures both"
        )
    return tuple(points)


_Empty = BeforeValidator(lambda text: text or None)
"""an empty field: the value is not known"""


class _Row(Record):
    """What is used of a row of the table."""

    threshold: Share
    concurrency: Annotated[int | None, _Empty]
    request_rate: Annotated[PerSecond | None, _Empty]
    batch: int
    mean_ms: Annotated[Milliseconds | None, _Empty]
    mean_low_ms: Annotated[Milliseconds | None, _Empty]
    mean_high_ms: Annotated[Milliseconds | None, _Empty]
    hard_share: Annotated[Share | None, _Empty]
    ap: Annotated[Percent | None, _Empty]

    @model_validator(mode="after")
    def _interval_is_in_order(self) -> _Row:
        if self.mean_low_ms is not None and self.mean_high_ms is not None and self.mean_low_ms > self.mean_high_ms:
            raise ValueError("the ends of the interval are not in their order")
        return self


def _read_cells(file: Path) -> list[_Row]:
    """The rows of a table. Raises InputError for other columns, values out of range and cells that are there twice."""
    advice = f"`dyndet bench sweep` writes a {CELLS_NAME}"
    content = read_bytes(file, advice=advice, largest=_LARGEST)
    try:
        table = [line for line in csv.reader(io.StringIO(content.decode(), newline=""), strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{printable(file)} cannot be read: {printable(error, limit=300)}; {advice}") from error
    head, *lines = table or [[]]
    if not lines or len({*head}) < len(head) or not {*_COLUMNS} <= {*head} <= {*csv_columns()}:
        raise InputError(f"{printable(file)} is not the table of a sweep; {advice}")
    rows, known = [], set()
    for number, line in enumerate(lines, start=2):
        try:
            if len(line) != len(head):
                raise ValueError(f"{len(line)} values for {len(head)} columns")
            named = dict(zip(head, line, strict=True))
            row = _Row.model_validate({name: named.get(name, "") for name in _Row.model_fields})
        except (ValidationError, ValueError) as error:
            raise InputError(f"{printable(file)} is damaged in line {number}: {reason_of(error)}; {advice}") from error
        key = (row.threshold, row.concurrency, row.request_rate, row.batch)
        if key in known:
            raise InputError(f"{printable(file)} is damaged in line {number}: its cell is there twice; {advice}")
        known.add(key)
        rows.append(row)
    return rows


def draw_frontier(points: Sequence[FrontierPoint], *, promise_ms: float | None = None) -> Figure:
    """The router's curve from all-easy to all-hard, the straight line of random routing, and the promised latency."""
    figure = Figure(figsize=_SIZE_INCHES, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1), facecolor="white")
    axes = figure.add_subplot()
    handles: list[Artist | tuple[Artist, ...]] = [_draw_router(axes, points), _draw_random(axes, points[0], points[-1])]
    if promise_ms is not None:
        label = f"promised mean latency: {promise_ms:.2f} ms"
        handles.append(axes.axvline(promise_ms, color=_PROMISE.colour, ls=(0, (4, 2)), lw=2, label=label, zorder=1))
    style_latency_axes(axes, font_points=_FONT_POINTS, margins=(0.06, 0.14))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        frameon=False,
        fontsize=_FONT_POINTS,
        labelcolor=INK,
        handlelength=2.4,
    )
    _name_points(figure, axes, points, promise_ms)
    return figure


def _draw_router(axes: Axes, points: Sequence[FrontierPoint]) -> ErrorbarContainer:
    return axes.errorbar(
        [point.mean_ms for point in points],
        [point.ap for point in points],
        xerr=[
            [max(0.0, point.mean_ms - point.low_ms) for point in points],
            [max(0.0, point.high_ms - point.mean_ms) for point in points],
        ],
        color=_ROUTER.colour,
        marker="o",
        ms=7,
        lw=2.2,
        elinewidth=1.0,
        ecolor=MUTED,
        capsize=2.5,
        label="router (with 95 % intervals)",
        zorder=3,
    )


def _draw_random(axes: Axes, easy: FrontierPoint, hard: FrontierPoint) -> Artist:
    """A coin in place of the router: mean latency and, nearly, AP mix in proportion to the share of hard images."""
    (line,) = axes.plot(
        [easy.mean_ms, hard.mean_ms],
        [easy.ap, hard.ap],
        color=_RANDOM.colour,
        ls=":",
        lw=2.2,
        label="random routing",
    )
    return line


def _name_points(figure: Figure, axes: Axes, points: Sequence[FrontierPoint], promise_ms: float | None) -> None:
    """Name each point by its share of hard images; the ends by their routes, with their AP.

    A name stands where it hides least: it tries some places around its point.
    """
    figure.draw_without_rendering()  # before it, nothing in the axes has its place
    drawn, taken = _drawn(axes, points, promise_ms), list[Bbox]()
    for point in points:
        text, places = f"{percent(point.hard_share)} hard", _BETWEEN
        if point is points[0]:
            text, places = f"all easy: {point.ap:.1f}", _EASY_END
        elif point is points[-1]:
            text, places = f"all hard: {point.ap:.1f}", _HARD_END
        name = axes.annotate(
            text,
            (point.mean_ms, point.ap),
            xytext=(0, 0),
            textcoords="offset points",
            color=INK,
            fontsize=_FONT_POINTS - 0.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
        boxes = [_placed(name, place) for place in places]
        hidden = [_hidden(box, drawn, taken) for box in boxes]
        best = hidden.index(min(hidden))
        _placed(name, places[best])
        taken.append(boxes[best])


def _placed(name: Annotation, place: _Place) -> Bbox:
    """Puts the name there; returns what it covers, in pixels."""
    name.xyann, sides = place[:2], place[2:]
    name.set(ha=sides[0], va=sides[1])
    return name.get_window_extent().padded(4.0)


def _hidden(box: Bbox, drawn: FloatArray, taken: Sequence[Bbox]) -> float:
    """How much of the curves and of other names a name in this box would hide."""
    inside = ((drawn > box.min) & (drawn < box.max)).all(axis=1)
    return float(inside.sum()) + 1e6 * sum(box.overlaps(other) for other in taken)


def _drawn(axes: Axes, points: Sequence[FrontierPoint], promise_ms: float | None) -> FloatArray:
    """Places close together on the curve, on its intervals and on the other two lines, (N, 2) in pixels."""
    low, high = axes.get_ylim()
    pieces = [((one.mean_ms, one.ap), (other.mean_ms, other.ap)) for one, other in pairwise(points)]
    pieces += [((point.low_ms, point.ap), (point.high_ms, point.ap)) for point in points]
    pieces.append(((points[0].mean_ms, points[0].ap), (points[-1].mean_ms, points[-1].ap)))
    pieces += [] if promise_ms is None else [((promise_ms, low), (promise_ms, high))]
    ends = axes.transData.transform(np.array(pieces).reshape(-1, 2)).reshape(-1, 2, 2)
    lengths = np.hypot(*(ends[:, 1] - ends[:, 0]).T)
    return np.concatenate(
        [np.linspace(first, last, 2 + int(length)) for (first, last), length in zip(ends, lengths, strict=True)]
    )


def write_frontier(source: Path, path: Path, *, concurrency: int = 1, promise_ms: float | None = None) -> None:
    """Draw the frontier of a sweep into a .png or .svg file. Raises InputError, also if the file cannot be written."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"a plot is a .png or .svg file, not {path.name}")
    figure = draw_frontier(read_frontier(source, concurrency=concurrency), promise_ms=promise_ms)
    with whole_file(path, durable=False) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format=path.suffix[1:].lower())
