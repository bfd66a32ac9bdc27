"""Plots of a load record: what happens over the load, and what happened over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynamicdet.aliases import FloatArray
from dyndet_bench.load.record import Cell, LoadRecord
from dyndet_bench.report.load.text import run_title
from dyndet_bench.report.svg import MUTED, SERIES, Plot, Series, add_legend, finish, log_if_wide, new_axes
from dyndet_bench.report.text import legend, milliseconds, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_NAME = 24
_STEADY_SHOWN = 2
"""steady levels with time lines: the last ones"""
_TALL = 250.0


def over_load(record: LoadRecord) -> tuple[Plot, ...]:
    """Share in time, latency, goodput and AP over the steady load; none if there are fewer than two levels."""
    cells = [cell for cell in record.cells if cell.profile == "steady"]
    if len({cell.level for cell in cells}) < 2:
        return ()
    promise = record.promise
    found = [
        _over(record, cells, "Requests in time", "in time (% of all requests)", lambda cell: 100 * cell.within,
              _in_time(cells), lines=(100 * promise.share,), name="within"),
        _over(record, cells, f"{promise.statistic} latency", f"{promise.statistic} latency (ms)",
              lambda cell: getattr(cell, f"{promise.statistic}_ms", cell.p95_ms),
              f"The dotted line is the promise, {milliseconds(promise.ms)}.", lines=(promise.ms,), name="latency",
              log=True),
        _over(record, cells, "Goodput", "in time (requests/s)", lambda cell: cell.goodput_per_s,
              "Answers in time, a second. The dotted line is the all-easy capacity.",
              lines=(record.capacity.easy_per_s,), name="goodput"),
    ]  # fmt: skip
    if any(cell.ap is not None for cell in cells):
        found.append(_precision(record, cells))
    return tuple(found)


def time_lines(record: LoadRecord) -> tuple[tuple[str, tuple[Plot, ...]], ...]:
    """Headings with the time lines of one level: load, latency, threshold and share of hard images."""
    steady = [run for run in record.runs if run[0] == "steady"][-_STEADY_SHOWN:]
    runs = [run for run in record.runs if run[0] != "steady" or run in steady]
    return tuple(
        (run_title(*run), _lines_of(record, record.of(*run), f"line-{number}")) for number, run in enumerate(runs)
    )


def styles(record: LoadRecord) -> dict[str, Series]:
    """How each system is drawn, on the whole page."""
    return dict(zip(record.systems, SERIES, strict=False))


def _over(
    record: LoadRecord,
    cells: Sequence[Cell],
    title: str,
    label: str,
    value: Callable[[Cell], float | None],
    finding: str,
    *,
    lines: Sequence[float],
    name: str,
    log: bool = False,
) -> Plot:
    figure, axes = new_axes("load (× all-easy capacity)", label)
    for system, series in styles(record).items():
        own = [(cell.level, value(cell)) for cell in cells if cell.system == system]
        _draw(axes, own, series, legend(system, _LONGEST_NAME))
    for line in lines:
        axes.axhline(line, color=MUTED, ls=":", lw=1.4)
    if not (log and log_if_wide(axes.yaxis, _drawn(axes))):
        axes.set_ylim(bottom=0)
    add_legend(figure)
    return finish(figure, name=f"load-{name}", title=title, finding=finding)


def _precision(record: LoadRecord, cells: Sequence[Cell]) -> Plot:
    figure, axes = new_axes("load (× all-easy capacity)", "COCO AP of the answers (%)")
    for system, series in styles(record).items():
        own = [(cell.level, cell.ap) for cell in cells if cell.system == system]
        _draw(axes, own, series, legend(system, _LONGEST_NAME))
    best = [(one.level, one.ap) for one in record.hindsight if one.profile == "steady"]
    _draw(axes, best, SERIES[-1], "best fixed, simulated", hollow=True)
    add_legend(figure)
    return finish(
        figure,
        name="load-ap",
        title="Accuracy",
        finding="AP of the answers that were given. Open circles: the best fixed threshold that keeps the promise, "
        "found afterwards by simulation.",
    )


def _draw(
    axes: Axes, points: Sequence[tuple[float | None, float | None]], series: Series, label: str, *, hollow: bool = False
) -> None:
    known = sorted((x, y) for x, y in points if x is not None and y is not None)
    if not known:
        return
    x, y = zip(*known, strict=True)
    if hollow:
        axes.plot(x, y, color=series.colour, ls="none", marker="o", ms=8, mfc="none", label=label)
    else:
        axes.plot(x, y, color=series.colour, ls=series.dash, marker=series.marker, ms=5, lw=1.7, label=label)


def _in_time(cells: Sequence[Cell]) -> str:
    top = max(cell.level or 0.0 for cell in cells)
    parts = [f"{cell.system} {percent(cell.within)}" for cell in cells if cell.level == top]
    return f"At {top:g} × capacity: {', '.join(parts)}."


def _lines_of(record: LoadRecord, cells: Sequence[Cell], name: str) -> tuple[Plot, ...]:
    promise = record.promise
    first = cells[0]
    figure, axes = new_axes("time (s)", "arrivals (requests/s)", height=_TALL)
    _line(axes, _times(first), first.line.offered_per_s, SERIES[-1], "arrivals")
    axes.axhline(record.capacity.easy_per_s, color=MUTED, ls=":", lw=1.4)
    axes.set_ylim(bottom=0)
    load = finish(
        figure,
        name=f"{name}-load",
        title="Load",
        finding="The same arrivals for every system. The dotted line is the all-easy capacity.",
    )
    latency = _timed(record, cells, f"{name}-latency", "Latency", "p95 latency (ms)", "p95_ms",
                     f"p95 of half a second. The dotted line is the promise, {milliseconds(promise.ms)}.",
                     line=promise.ms, log=True)  # fmt: skip
    threshold = _sampled(record, cells, f"{name}-threshold")
    hard = _timed(record, cells, f"{name}-hard", "Hard images", "hard (share of answers)", "hard_share",
                  "The share of the answers that detector 2 gave, in half a second.")  # fmt: skip
    return (load, latency, threshold, hard)


def _timed(
    record: LoadRecord,
    cells: Sequence[Cell],
    name: str,
    title: str,
    label: str,
    field: str,
    finding: str,
    *,
    line: float | None = None,
    log: bool = False,
) -> Plot:
    figure, axes = new_axes("time (s)", label, height=_TALL)
    for cell in cells:
        series = styles(record).get(cell.system)
        if series is not None:
            _line(axes, _times(cell), getattr(cell.line, field), series, legend(cell.system, _LONGEST_NAME))
    if line is not None:
        axes.axhline(line, color=MUTED, ls=":", lw=1.4)
    if not (log and log_if_wide(axes.yaxis, _drawn(axes))):
        axes.set_ylim(bottom=0)
    add_legend(figure)
    return finish(figure, name=name, title=title, finding=finding)


def _sampled(record: LoadRecord, cells: Sequence[Cell], name: str) -> Plot:
    figure, axes = new_axes("time (s)", "threshold", height=_TALL)
    for cell in cells:
        series = styles(record).get(cell.system)
        if series is not None:
            at = np.array([np.nan if one is None else one for one in cell.line.sample_s])
            inside = [bool(0 <= one <= cell.seconds) for one in at]
            values = [one if ok else None for one, ok in zip(cell.line.threshold, inside, strict=True)]
            _line(axes, at, values, series, legend(cell.system, _LONGEST_NAME))
    axes.set_ylim(-0.03, 1.03)
    add_legend(figure)
    return finish(figure, name=name, title="Threshold", finding="The threshold in force, by the server's metrics.")


def _drawn(axes: Axes) -> list[float]:
    """All values of the lines."""
    values = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axes.lines])
    return [float(value) for value in values[np.isfinite(values) & (values > 0)]]


def _times(cell: Cell) -> FloatArray:
    return (np.arange(len(cell.line.offered_per_s)) + 0.5) * cell.line.window_s


def _line(axes: Axes, x: FloatArray, y: Sequence[float | None], series: Series, label: str) -> None:
    values = np.array([np.nan if one is None else one for one in y], np.float64)
    axes.plot(x, values, color=series.colour, ls=series.dash, lw=1.5, label=label)
