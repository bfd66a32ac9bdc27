"""Plots of average precision over its cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dyndet_bench.measuring.load import Load
from dyndet_bench.report import findings
from dyndet_bench.report.facts import Facts, Measured, spread
from dyndet_bench.report.svg import INK, SERIES, Plot, add_legend, finish, log_if_wide, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Cost = tuple[float, float | None, float | None]
"""A value and the interval around it, if it is known."""


def draw_frontiers(facts: Facts) -> tuple[Plot, ...]:
    """AP over latency, for closed and open loops, and AP over throughput, for closed loops only."""
    loads = [load for load in facts.loads if len(facts.with_accuracy(load)) > 1]
    closed = [load for load in loads if not load.open]
    opened = [load for load in loads if load.open]
    busy = [load for load in closed if all(_has_throughput(found) for found in facts.with_accuracy(load))]
    plots = []
    if closed:
        plots.append(_over_latency(facts, closed, "frontier-latency", "AP over latency"))
    if busy:
        plots.append(_over_throughput(facts, busy))
    if opened:
        plots.append(_over_latency(facts, opened, "frontier-rate", "AP over latency, by request rate"))
    return tuple(plots)


def _has_throughput(found: Measured) -> bool:
    return found.cell.throughput_per_s is not None


def _over_latency(facts: Facts, loads: Sequence[Load], name: str, title: str) -> Plot:
    shown = spread(loads, len(SERIES))
    figure = _frontier(facts, shown, _latency, "mean latency (ms)")
    note = findings.omitted(len(loads), len(shown), "load")
    return finish(figure, name=name, title=title, finding=findings.frontier_latency(facts, shown), note=note)


def _over_throughput(facts: Facts, loads: Sequence[Load]) -> Plot:
    shown = spread(loads, len(SERIES))
    return finish(
        _frontier(facts, shown, _throughput, "throughput (images/s)"),
        name="frontier-throughput",
        title="AP over throughput",
        finding=findings.frontier_throughput(facts, shown),
        note=findings.omitted(len(loads), len(shown), "load"),
    )


def _latency(found: Measured) -> _Cost:
    return found.latency.mean_ms, *found.cell.mean_interval


def _throughput(found: Measured) -> _Cost:
    cell = found.cell
    return cell.throughput_per_s or 0.0, cell.throughput_low_per_s, cell.throughput_high_per_s


def _frontier(facts: Facts, loads: Sequence[Load], cost: Callable[[Measured], _Cost], x_label: str) -> Figure:
    figure, axes = new_axes(x_label, "COCO AP (%)")
    everything: list[float] = []
    for load, series in zip(loads, SERIES, strict=False):
        cells = facts.with_accuracy(load)
        costs = [cost(found) for found in cells]
        middles = [middle for middle, _, _ in costs]
        everything += middles
        heights = [found.accuracy.ap for found in cells if found.accuracy]
        axes.errorbar(
            middles,
            heights,
            xerr=_around(costs),
            color=series.colour,
            ls=series.dash,
            marker=series.marker,
            ms=4.5,
            lw=1.7,
            elinewidth=1.1,
            label=str(load),
        )
        _mark_ends(axes, cells, middles, heights)
    for end, marker, _ in _ENDS:
        axes.plot([], [], ls="", marker=marker, ms=8, mfc="none", mec=INK, label=end)
    log_if_wide(axes.xaxis, everything)
    axes.margins(y=0.12)
    add_legend(figure)
    return figure


def _around(costs: Sequence[_Cost]) -> list[list[float]]:
    """Distances to the lower and the upper ends of the intervals; 0 without an interval."""
    below = [max(0.0, middle - (middle if low is None else low)) for middle, low, _ in costs]
    above = [max(0.0, (middle if high is None else high) - middle) for middle, _, high in costs]
    return [below, above]


def _is_all_easy(threshold: float) -> bool:
    return threshold >= 1.0


def _is_all_hard(threshold: float) -> bool:
    return threshold <= 0.0


_ENDS = (
    ("all easy (threshold 1)", "s", _is_all_easy),
    ("all hard (threshold 0)", "D", _is_all_hard),
)


def _mark_ends(axes: Axes, cells: Sequence[Measured], xs: Sequence[float], ys: Sequence[float]) -> None:
    for _, marker, is_end in _ENDS:
        for found, x, y in zip(cells, xs, ys, strict=True):
            if is_end(found.threshold):
                axes.plot([x], [y], ls="", marker=marker, ms=11, mfc="none", mec=INK)
