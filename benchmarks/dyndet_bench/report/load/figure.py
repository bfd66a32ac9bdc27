"""The figure of a burst, with and without a threshold that follows the load, as a picture for a document."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dynamicdet.extras import missing_extra
from dynamicdet.files import whole_file
from dyndet_bench.load.record import Cell, LoadRecord
from dyndet_bench.report.svg import GRID, INK, MUTED, SERIES, log_if_wide

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
except ImportError as error:
    raise missing_extra("a plot needs matplotlib", "matplotlib", among=("bench",)) from error

_SIZE_INCHES, _DOTS_PER_INCH = (6.4, 6.0), 200
_FONT_POINTS = 12.0
_NAMES = {"following": "threshold follows the load", "plain": "plain queueing"}
_STYLES = {"following": SERIES[0], "plain": SERIES[1]}


def burst_cells(record: LoadRecord) -> dict[str, Cell]:
    """The cells of the highest burst by kind: with following, and plain queueing; empty without a burst."""
    bursts = [run for run in record.runs if run[0] == "burst"]
    if not bursts:
        return {}
    highest = max(bursts, key=lambda run: run[1] or 0.0)
    return {cell.kind: cell for cell in record.of(*highest) if cell.kind in _NAMES}


def draw_burst(record: LoadRecord) -> Figure:
    """Arrivals, p95 latency with the promise, and the share of hard images, one below the other."""
    cells = burst_cells(record)
    first = next(iter(cells.values()))
    figure = Figure(figsize=_SIZE_INCHES, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06), facecolor="white")
    load, latency, hard = figure.subplots(3, 1, sharex=True, height_ratios=(0.8, 1.4, 1))
    times = (np.arange(len(first.line.offered_per_s)) + 0.5) * first.line.window_s
    load.plot(times, first.line.offered_per_s, color=SERIES[-1].colour, lw=1.8)
    load.axhline(record.capacity.easy_per_s, color=MUTED, ls=":", lw=1.4)
    load.set_ylim(bottom=0)
    for kind, cell in cells.items():
        style = {"color": _STYLES[kind].colour, "ls": _STYLES[kind].dash, "lw": 2.2}
        latency.plot(times, _known(cell.line.p95_ms), label=_label(kind, cell), **style)
        hard.plot(times, [100 * one for one in _known(cell.line.hard_share)], **style)
    latency.axhline(record.promise.ms, color=SERIES[2].colour, ls=(0, (4, 2)), lw=1.8,
                    label=f"promise: {record.promise.statistic} at most {record.promise.ms:.0f} ms")  # fmt: skip
    shown = [one for cell in cells.values() for one in cell.line.p95_ms if one]
    if not log_if_wide(latency.yaxis, [*shown, record.promise.ms]):
        latency.set_ylim(bottom=0)
    hard.set_ylim(bottom=0)
    hard.set_xlabel("time (s)", color=INK, fontsize=_FONT_POINTS)
    for axes, label in ((load, "requests/s"), (latency, "p95 latency (ms)"), (hard, "hard images (%)")):
        _style(axes, label)
    figure.align_ylabels()
    figure.legend(loc="outside upper left", frameon=False, fontsize=_FONT_POINTS, labelcolor=INK, handlelength=2.4)
    return figure


def write_burst(record: LoadRecord, path: Path) -> Path:
    """Draw a burst into a .png or .svg file. Raises InputError if it cannot be written."""
    figure = draw_burst(record)
    with whole_file(path, durable=False) as temporary:
        figure.savefig(temporary, dpi=_DOTS_PER_INCH, format=path.suffix[1:].lower())
    return path


def _label(kind: str, cell: Cell) -> str:
    text = f"{_NAMES[kind]}: {100 * cell.within:.0f} % in time"
    return text if cell.ap is None else f"{text}, AP {cell.ap:.1f}"


def _known(values: tuple[float | None, ...]) -> list[float]:
    return [np.nan if one is None else one for one in values]


def _style(axes: Axes, label: str) -> None:
    axes.set_ylabel(label, color=INK, fontsize=_FONT_POINTS)
    axes.tick_params(color=MUTED, labelcolor=MUTED, labelsize=_FONT_POINTS - 1)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
