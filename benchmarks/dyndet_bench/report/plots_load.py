"""Plots of the effect of load on latency, and of where the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from dyndet_bench.measuring.load import Load
from dyndet_bench.report import findings
from dyndet_bench.report.facts import Facts, Measured, load_range, spread
from dyndet_bench.report.svg import (
    INK,
    PAPER,
    SERIES,
    Plot,
    Series,
    add_legend,
    finish,
    log_if_wide,
    new_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAR_HEIGHT, _FRAME_HEIGHT = 17.0, 90.0
"""CSS pixels of a bar, and of legend and axis around all bars."""
_HEADING, _GAP = 1.0, 0.4
"""The heading of a load and the gap below its bars, in bars."""
_BARS_IN_ONE_PLOT = 10
_PART_SERIES = (SERIES[1], SERIES[0], SERIES[2], SERIES[3])
"""Queue, compute, routing, network."""


def draw_splits(facts: Facts) -> tuple[Plot, ...]:
    """One stacked bar per cell, for closed and open loops; two plots side by side if there are many cells."""
    cells = [found for found in facts.measured if found.cell.split is not None]
    longest = max((sum(findings.split_parts(found.cell.split).values()) for found in cells), default=0.0)
    kinds = [[found for found in cells if found.load.open == is_open_loop] for is_open_loop in (False, True)]
    halves = [half for kind in kinds for half in _halves(kind) if half]
    return tuple(_split_plot(facts, half, longest, f"split-{index}") for index, half in enumerate(halves))


def _halves(cells: Sequence[Measured]) -> tuple[list[Measured], list[Measured]]:
    """The cells in two about equal parts; the cells of one load stay together."""
    first: list[Measured] = []
    second: list[Measured] = []
    for _, group in groupby(cells, key=lambda found: found.load):
        own = list(group)
        fits = len(cells) <= _BARS_IN_ONE_PLOT or len(first) + len(own) / 2 <= len(cells) / 2
        (first if fits and not second else second).extend(own)
    return first, second


def _split_plot(facts: Facts, cells: Sequence[Measured], longest: float, name: str) -> Plot:
    loads = sorted({found.load for found in cells})
    lines = len(cells) + (_HEADING + _GAP) * len(loads)
    figure, axes = new_axes("mean latency (ms)", "threshold", height=_FRAME_HEIGHT + _BAR_HEIGHT * lines)
    places = _places(axes, cells)
    starts = np.zeros(len(cells))
    for part, series in zip(findings.PARTS.values(), _PART_SERIES, strict=True):
        widths = np.array([findings.split_parts(found.cell.split)[part] for found in cells])
        axes.barh(
            places, widths, left=starts, height=0.78, fc=series.colour, hatch=series.hatch, ec=PAPER, lw=0.6, label=part
        )
        starts += widths
    axes.set_yticks(places, [facts.threshold_text(found.threshold) for found in cells])
    axes.set_ylim(lines - _GAP - 0.4, -0.6)
    axes.set_xlim(0, 1.04 * longest or 1.0)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    add_legend(figure, columns=4)
    title = f"Parts of the latency, {load_range(loads[0], loads[-1], 'to')}"
    return finish(figure, name=name, title=title, finding=findings.split(facts, cells))


def _places(axes: Axes, cells: Sequence[Measured]) -> list[float]:
    """The place of each bar, from the top; writes each load above its bars."""
    places: list[float] = []
    place = 0.0
    for load, group in groupby(cells, key=lambda found: found.load):
        axes.text(0.0, place, f" {load}", transform=axes.get_yaxis_transform(), color=INK, va="center")
        place += _HEADING
        for _ in group:
            places.append(place)
            place += 1.0
        place += _GAP
    return places


def draw_over_load(facts: Facts) -> tuple[Plot, ...]:
    """Median and 99th percentile over concurrency and over request rate, if several were measured."""
    plots: list[Plot] = []
    for is_open_loop, batch in sorted({(load.open, load.batch) for load in facts.loads}):
        cells = [found for found in facts.measured if _is_of(found.load, is_open_loop, batch)]
        if len({found.load for found in cells}) > 1:
            plots += [_over_load(facts, cells, field) for field in ("p50_ms", "p99_ms")]
    return tuple(plots)


def _is_of(load: Load, is_open_loop: bool, batch: int) -> bool:
    return load.open == is_open_loop and load.batch == batch


def _over_load(facts: Facts, cells: Sequence[Measured], field: str) -> Plot:
    load, statistic = cells[0].load, field.removesuffix("_ms")
    amount = "request rate (requests/s)" if load.open else "concurrency (requests in flight)"
    figure, axes = new_axes(amount, f"{statistic} latency (ms)")
    thresholds = sorted({found.threshold for found in cells}, reverse=True)
    shown = spread(thresholds, len(SERIES))
    for threshold, series in zip(shown, SERIES, strict=False):
        line = [found for found in cells if found.threshold == threshold]
        _plot_line(axes, line, field, series, f"threshold {facts.threshold_text(threshold)}")
    _set_common_limits(axes, cells)
    axes.set_xticks(sorted({found.load.amount for found in cells}))
    add_legend(figure)
    kind = "rate" if load.open else "concurrency"
    title = f"{statistic} over {'request rate' if load.open else 'concurrency'}"
    return finish(
        figure,
        name=f"load-{kind}-{load.batch}-{statistic}",
        title=title if load.batch == 1 else f"{title}, batches of {load.batch}",
        finding=findings.over_load(facts, cells, field),
        note=findings.omitted(len(thresholds), len(shown), "threshold"),
    )


def _set_common_limits(axes: Axes, cells: Sequence[Measured]) -> None:
    """The same latencies on the axes of median and tail, which stand side by side."""
    lowest, highest = min(found.latency.p50_ms for found in cells), max(found.latency.p99_ms for found in cells)
    if log_if_wide(axes.yaxis, (lowest, highest)):
        axes.set_ylim(lowest / 1.25, highest * 1.25)
    else:
        axes.set_ylim(0, highest * 1.06 or 1.0)


def _plot_line(axes: Axes, line: Sequence[Measured], field: str, series: Series, label: str) -> None:
    """One threshold over the loads."""
    amounts = [found.load.amount for found in line]
    values = [getattr(found.latency, field) for found in line]
    axes.plot(amounts, values, color=series.colour, ls=series.dash, marker=series.marker, ms=5, lw=1.7, label=label)
