"""The plots of a pair's report: accuracy over mean latency, and the kept gain over the hard share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynamicdet.extras import missing_extra
from dynamicdet.files import whole_file
from dyndet_bench.report.svg import (
    INK,
    MUTED,
    PAPER,
    SERIES,
    Plot,
    Series,
    add_legend,
    drawing,
    finish,
    log_if_wide,
    new_axes,
)
from dyndet_bench.report.text import legend, milliseconds, percent
from dyndet_builder.pairing.payoff.frontier import Curve
from dyndet_builder.pairing.report.record import PairReport

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter
except ImportError as error:
    raise missing_extra("a report needs matplotlib", "matplotlib", among=("bench",)) from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

_ROUTER, _RANDOM, _ORACLE, _RULE, _SINGLE = SERIES
_LONGEST = 24
_DOTS_PER_INCH = 200
_HEIGHT = 330.0
_BINS = 20
_CLOSE = 0.1
"""difference in accuracy, percent, that a plot hardly shows"""
_GAP = 4
"""dots between the axis and the leftmost name"""


def draw_plots(report: PairReport) -> tuple[Plot, ...]:
    """Every plot, each with a sentence computed from what it shows."""
    with drawing():
        return (_over_latency(report), _over_share(report), _difficulties(report))


def write_picture(report: PairReport, path: Path) -> None:
    """Write accuracy over mean latency as a .png. Raises InputError if it cannot be written."""
    with drawing():
        figure, axes = new_axes("mean latency (ms)", _label(report), height=_HEIGHT)
        figure.set_facecolor("white")
        _draw_frontier(figure, axes, report)
        with whole_file(path, durable=False) as temporary:
            figure.savefig(temporary, dpi=_DOTS_PER_INCH, format="png")


def _over_latency(report: PairReport) -> Plot:
    figure, axes = new_axes("mean latency (ms)", _label(report), height=_HEIGHT)
    _draw_frontier(figure, axes, report)
    title = f"{report.measure[0].upper()}{report.measure[1:]} over mean latency"
    note = "The band holds 95 % of the resampled pictures. The coin sends its pictures straight to the large detector."
    return finish(figure, name="pair-frontier", title=title, finding=_finding(report), note=note)


def _label(report: PairReport) -> str:
    return "COCO AP (%)" if report.measure == "AP" else "agreement with the large detector (%)"


def _draw_frontier(figure: Figure, axes: Axes, report: PairReport) -> None:
    frontier = report.frontier
    points = frontier.router.points
    latencies = [point.latency_ms for point in points]
    low, high = ([getattr(point.accuracy, end) for point in points] for end in ("low", "high"))
    axes.fill_between(latencies, low, high, color=_ROUTER.colour, alpha=0.15, lw=0)
    for curve, series, width in _shown(report):
        axes.plot(
            [point.latency_ms for point in curve.points],
            [point.accuracy.value for point in curve.points],
            color=series.colour,
            ls=series.dash,
            lw=width,
            marker=series.marker if curve is frontier.router else "",
            ms=3.5,
            label=_named(curve),
        )
    names = []
    for one in frontier.singles:
        axes.errorbar(
            [one.latency_ms],
            [one.accuracy.value],
            yerr=[[one.accuracy.value - one.accuracy.low], [one.accuracy.high - one.accuracy.value]],
            ls="",
            marker=_SINGLE.marker,
            ms=7,
            color=INK,
            elinewidth=0.8,
            capsize=2,
        )
        cascade = frontier.cascade_at(one.latency_ms)
        is_below = cascade is not None and cascade.accuracy.value > one.accuracy.value + _CLOSE
        names.append(
            axes.annotate(
                legend(one.name, _LONGEST),
                (one.latency_ms, one.accuracy.value),
                xytext=(7, -14) if is_below else (-7, 5),  # where no curve passes but the oracle's, or the coin's
                textcoords="offset points",
                ha="left" if is_below else "right",
                color=INK,
            )
        )
    axes.plot([], [], ls="", marker=_SINGLE.marker, ms=7, color=INK, label="one detector alone")
    log_if_wide(axes.xaxis, [*latencies, *(one.latency_ms for one in frontier.singles)])
    axes.margins(x=0.14, y=0.08)
    add_legend(figure)
    _make_room(figure, axes, names)


def _make_room(figure: Figure, axes: Axes, names: Sequence[Annotation]) -> None:
    """Begin the latency axis so far to the left that no name crosses it."""
    for _ in range(3):  # a wider range moves the points, and their names with them
        figure.draw_without_rendering()
        left = min((one.get_window_extent().x0 for one in names), default=axes.bbox.x0)
        if left < axes.bbox.x0:
            axes.set_xlim(left=axes.transData.inverted().transform((left - _GAP, axes.bbox.y0))[0])


def _shown(report: PairReport) -> list[tuple[Curve, Series, float]]:
    """The curves in the order of the legend; of the free rules only the best."""
    frontier = report.frontier
    found = [(frontier.router, _ROUTER, 2.2)]
    if frontier.best_rule is not None and frontier.router.name != frontier.best_rule.name:
        found.append((frontier.best_rule, _RULE, 1.5))
    found += [(one, _ORACLE, 1.5) for one in frontier.curves if one.kind == "oracle"]
    found += [(one, _RANDOM, 1.5) for one in frontier.curves if one.kind == "random"]
    return found


def _named(curve: Curve) -> str:
    names = {"oracle": "oracle", "random": "coin", "router": f"cascade: {legend(curve.name, _LONGEST)}"}
    return names.get(curve.kind, f"best rule: {legend(curve.name, _LONGEST)}")


def _finding(report: PairReport) -> str:
    return f"{report.verdict.sentence}."


def _over_share(report: PairReport) -> Plot:
    figure, axes = new_axes("hard share (%)", "kept gain (%)", height=_HEIGHT)
    for curve, series, width in _shown(report):
        known = [(point.hard_share, point.kept) for point in curve.points if point.kept is not None]
        shares, kept = [share for share, _ in known], [one.value for _, one in known]
        axes.plot(shares, kept, color=series.colour, ls=series.dash, lw=width, label=_named(curve))
        if curve is report.frontier.router:
            low, high = [one.low for _, one in known], [one.high for _, one in known]
            axes.fill_between(shares, low, high, color=series.colour, alpha=0.15, lw=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=""))
    axes.set_ylim(-0.3, 2.0)
    add_legend(figure)
    kept_at = [(share, report.frontier.router.kept_at(share)) for share in (0.2, 0.5)]
    texts = [f"{percent(kept)} of the gain with {percent(share)} hard" for share, kept in kept_at if kept is not None]
    finding = f"The cascade keeps {' and '.join(texts)}." if texts else "There is no gain to keep."
    return finish(figure, name="pair-kept", title="What routing keeps of the gain", finding=finding)


def _difficulties(report: PairReport) -> Plot:
    figure, axes = new_axes("difficulty (0 easy, 1 hard)", "pictures", height=_HEIGHT)
    values = report.difficulties[np.isfinite(report.difficulties)]
    axes.hist(values, bins=_BINS, range=(0.0, 1.0), color=MUTED, alpha=0.45, edgecolor=PAPER, lw=0.6)
    if report.stream is not None:
        weights = np.full(report.stream.pictures, values.size / report.stream.pictures)
        axes.hist(
            report.stream.difficulties,
            bins=_BINS,
            range=(0.0, 1.0),
            weights=weights,
            histtype="step",
            color=_ROUTER.colour,
            lw=1.8,
            label="stream, scaled",
        )
    label = f"threshold: {report.border_threshold:.3f}"
    axes.axvline(report.border_threshold, color=_RANDOM.colour, ls=_RANDOM.dash, lw=1.9, label=label)
    add_legend(figure)
    finding = (
        f"Half of the {report.pictures} pictures have a difficulty above {np.median(values):.3f}; "
        f"{report.small.name} takes {milliseconds(report.small.latency.mean_ms)}, "
        f"{report.large.name} {milliseconds(report.large.latency.mean_ms)}."
    )
    return finish(figure, name="pair-difficulties", title="Difficulty of the pictures", finding=finding)
