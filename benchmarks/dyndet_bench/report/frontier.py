"""Draws what a router gains: AP over mean latency at one load, beside random routing, with a promise marked."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.errors import InputError, MissingExtraError
from dynamicdet.files import whole_file
from dyndet_bench.report.svg import GRID, INK, MUTED, SERIES
from dyndet_bench.report.text import percent

try:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
except ImportError as error:
    raise MissingExtraError("a plot needs matplotlib; `pip install 'dyndet[bench]'` installs it") from error

CELLS_NAME = "cells.csv"
_SIZE_INCHES, _DOTS_PER_INCH = (5.2, 4.3), 200
"""Text of 12 points stays readable when a phone shows the picture at two thirds."""
_FONT_POINTS = 12.0
_COLUMNS = ("threshold", "concurrency", "batch", "mean_ms", "mean_low_ms", "mean_high_ms", "hard_share", "ap")
_ROUTER, _RANDOM, _PROMISE = SERIES[0], SERIES[1], SERIES[2]


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
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} cannot be read ({error}); `dyndet bench sweep` writes it") from error
    if not rows or not set(_COLUMNS) <= set(rows[0]):
        raise InputError(f"{file} is not the table of a sweep; `dyndet bench sweep` writes a {CELLS_NAME}")
    chosen = [row for row in rows if (row["concurrency"], row["batch"]) == (str(concurrency), "1") and row["ap"]]
    try:
        points = sorted((_point(row) for row in chosen if row["mean_ms"]), key=lambda point: -point.threshold)
    except ValueError as error:
        raise InputError(f"{file} is damaged: {error}") from error
    if not points or points[0].threshold < 1 or points[-1].threshold > 0:
        raise InputError(
            f"{file} has no AP for thresholds 1 and 0 at concurrency {concurrency}, batch 1; "
            "`dyndet bench sweep --data VAL --concurrency N` measures both"
        )
    return tuple(points)


def _point(row: dict[str, str]) -> FrontierPoint:
    mean = float(row["mean_ms"])
    return FrontierPoint(
        threshold=float(row["threshold"]),
        hard_share=float(row["hard_share"]),
        mean_ms=mean,
        low_ms=float(row["mean_low_ms"] or mean),
        high_ms=float(row["mean_high_ms"] or mean),
        ap=float(row["ap"]),
    )


def draw_frontier(points: Sequence[FrontierPoint], *, promise_ms: float | None = None) -> Figure:
    """The router's curve from all-easy to all-hard, the straight line of random routing, and the promised latency."""
    figure = Figure(figsize=_SIZE_INCHES, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1), facecolor="white")
    axes = figure.add_subplot()
    handles: list[Artist | tuple[Artist, ...]] = [_draw_router(axes, points), _draw_random(axes, points[0], points[-1])]
    if promise_ms is not None:
        label = f"promised mean latency: {promise_ms:.2f} ms"
        handles.append(axes.axvline(promise_ms, color=_PROMISE.colour, ls=(0, (4, 2)), lw=2, label=label, zorder=1))
    _name_points(axes, points, promise_ms)
    _style(axes)
    figure.legend(
        handles=handles,
        loc="outside upper left",
        frameon=False,
        fontsize=_FONT_POINTS,
        labelcolor=INK,
        handlelength=2.4,
    )
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


def _name_points(axes: Axes, points: Sequence[FrontierPoint], promise_ms: float | None) -> None:
    """Name each point by its share of hard images; the ends by their routes, with their AP."""
    for point in points:
        if point is points[0]:
            text, offset, sides = f"all easy: {point.ap:.1f}", (10, -3), ("left", "top")
        elif point is points[-1]:
            text, offset, sides = f"all hard: {point.ap:.1f}", (6, -5), ("left", "top")
        elif promise_ms is not None and point.mean_ms > promise_ms:
            text, offset, sides = f"{percent(point.hard_share)} hard", (6, 6), ("center", "bottom")
        else:
            text, offset, sides = f"{percent(point.hard_share)} hard", (-8, 4), ("right", "bottom")
        axes.annotate(
            text,
            (point.mean_ms, point.ap),
            xytext=offset,
            textcoords="offset points",
            ha=sides[0],
            va=sides[1],
            color=INK,
            fontsize=_FONT_POINTS - 0.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )


def _style(axes: Axes) -> None:
    axes.set_xlabel("mean latency (ms)", color=INK, fontsize=_FONT_POINTS)
    axes.set_ylabel("COCO AP (%)", color=INK, fontsize=_FONT_POINTS)
    axes.tick_params(color=MUTED, labelcolor=MUTED, labelsize=_FONT_POINTS)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.margins(x=0.06, y=0.14)


def write_frontier(source: Path, path: Path, *, concurrency: int = 1, promise_ms: float | None = None) -> None:
    """Draw the frontier of a sweep into a .png or .svg file. Raises InputError, also if the file cannot be written."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"a plot is a .png or .svg file, not {path.name}")
    figure = draw_frontier(read_frontier(source, concurrency=concurrency), promise_ms=promise_ms)
    with whole_file(path, durable=False) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format=path.suffix[1:].lower())
