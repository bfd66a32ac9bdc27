"""Draws a dynamic detector beside static ones: AP over mean latency, both measured on one server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynamicdet.errors import InputError
from dynamicdet.extras import missing_extra
from dynamicdet.files import whole_file
from dyndet_bench.frontier.along import frontier_of
from dyndet_bench.frontier.record import DynamicPoint, FrontierRecord, StaticPoint
from dyndet_bench.report.svg import (
    INK,
    MUTED,
    PAPER,
    SERIES,
    Plot,
    add_legend,
    finish,
    new_axes,
    style_latency_axes,
)
from dyndet_bench.report.text import legend, percent

try:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
except ImportError as error:
    raise missing_extra("a plot needs matplotlib", "matplotlib") from error

SUFFIXES = (".png", ".svg")
_SIZE_INCHES, _DOTS_PER_INCH = (6.4, 4.9), 200
_FONT_POINTS, _PAGE_POINTS = 12.0, 11.0
_LONGEST_NAME = 24
_DYNAMIC, _STATIC, _RANDOM, _PROMISE = SERIES[0], SERIES[1], SERIES[4], SERIES[2]


def draw_static_frontier(record: FrontierRecord) -> Figure:
    """The dynamic curve, the static detectors and the line through the best of them, random routing, a promise."""
    figure = Figure(figsize=_SIZE_INCHES, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1), facecolor="white")
    axes = figure.add_subplot()
    handles = _fill(axes, record, size=_FONT_POINTS)
    style_latency_axes(axes, font_points=_FONT_POINTS, margins=(0.14, 0.12))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=2,
        frameon=False,
        fontsize=_FONT_POINTS,
        labelcolor=INK,
        handlelength=2.4,
    )
    return figure


def static_plot(record: FrontierRecord, finding: str) -> Plot:
    """The same for a report's page."""
    figure, axes = new_axes("mean latency (ms)", "COCO AP (%)")
    _fill(axes, record, size=_PAGE_POINTS)
    axes.margins(x=0.14, y=0.12)
    add_legend(figure)
    return finish(figure, name="frontier-static", title="Dynamic and static detectors", finding=finding)


def _fill(axes: Axes, record: FrontierRecord, *, size: float) -> list[Artist]:
    handles = [_draw_dynamic(axes, record.dynamic), _draw_static(axes, record.static), _draw_random(axes, record)]
    if record.promise_ms is not None:
        label = f"promised mean: {record.promise_ms:.2f} ms"
        dashes = (0, (4, 2))
        handles.append(axes.axvline(record.promise_ms, color=_PROMISE.colour, ls=dashes, lw=2, label=label, zorder=1))
    _name(axes, record, size - 1.5)
    return handles


def write_static_frontier(record: FrontierRecord, path: Path) -> None:
    """Draw a frontier into a .png or .svg file. Raises InputError, also if the file cannot be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"a plot is a {' or '.join(SUFFIXES)} file, not {path.name}")
    figure = draw_static_frontier(record)
    with whole_file(path, durable=False) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format=path.suffix[1:].lower())


def _draw_dynamic(axes: Axes, points: Sequence[DynamicPoint]) -> Artist:
    low, high = ([getattr(point.ap, end) for point in points] for end in ("low", "high"))
    ms = [point.latency_ms.mean.value for point in points]
    axes.fill_between(ms, low, high, color=_DYNAMIC.colour, alpha=0.12, lw=0, zorder=1)
    (line,) = axes.plot(
        ms,
        [point.ap.value for point in points],
        color=_DYNAMIC.colour,
        marker="o",
        ms=7,
        lw=2.2,
        label="dynamic, by threshold",
        zorder=4,
    )
    return line


def _draw_static(axes: Axes, points: Sequence[StaticPoint]) -> Artist:
    ms, ap = (np.array(values) for values in zip(*((p.latency_ms.mean.value, p.ap.value) for p in points), strict=True))
    axes.plot(*frontier_of(ms, ap), color=_STATIC.colour, ls=_STATIC.dash, lw=2.0, zorder=2)
    return axes.errorbar(
        ms,
        ap,
        xerr=_errors([point.latency_ms.mean for point in points]),
        yerr=_errors([point.ap for point in points]),
        color=_STATIC.colour,
        ls="none",
        marker="s",
        ms=7,
        elinewidth=1.0,
        ecolor=MUTED,
        capsize=2.5,
        label="static (95 % intervals)",
        zorder=3,
    )  # type: ignore[return-value]


def _errors(intervals: Sequence[object]) -> list[list[float]]:
    return [
        [one.value - one.low for one in intervals],  # type: ignore[attr-defined]
        [one.high - one.value for one in intervals],  # type: ignore[attr-defined]
    ]


def _draw_random(axes: Axes, record: FrontierRecord) -> Artist:
    """A coin in place of the router: mean latency mixes in proportion to the share of hard images."""
    easy, hard = (record.dynamic[end].latency_ms.mean.value for end in (0, -1))
    (line,) = axes.plot(
        [easy + point.hard_share * (hard - easy) for point in record.dynamic],
        [point.random_ap for point in record.dynamic],
        color=_RANDOM.colour,
        ls=":",
        lw=1.8,
        label="random routing",
        zorder=2,
    )
    return line


def _name(axes: Axes, record: FrontierRecord, size: float) -> None:
    """Name the static detectors, and the dynamic points by their shares of hard images."""
    for point in record.dynamic:
        at = (point.latency_ms.mean.value, point.ap.value)
        if point is record.dynamic[-1]:
            _annotate(axes, "all hard", at, (4, 8), ("left", "bottom"), size)
        else:
            text = "all easy" if point is record.dynamic[0] else f"{percent(point.hard_share)} hard"
            _annotate(axes, text, at, (-8, 5), ("right", "bottom"), size)
    for one in record.static:
        text = legend(one.name, _LONGEST_NAME)
        _annotate(axes, text, (one.latency_ms.mean.value, one.ap.value), (8, -6), ("left", "top"), size)


def _annotate(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[int, int], sides: tuple[str, str], size: float
) -> None:
    axes.annotate(
        text,
        at,
        xytext=offset,
        textcoords="offset points",
        ha=sides[0],
        va=sides[1],
        color=INK,
        fontsize=size,
        parse_math=False,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.75},
        zorder=5,
    )
