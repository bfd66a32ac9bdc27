"""The plots of a report, each with a sentence computed from what it shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dyndet_bench.report import findings
from dyndet_bench.report.facts import Facts, spread
from dyndet_bench.report.plots_accuracy import draw_frontiers
from dyndet_bench.report.plots_load import draw_over_load, draw_splits
from dyndet_bench.report.svg import MUTED, PAPER, SERIES, Plot, add_legend, drawing, finish, new_axes
from dyndet_bench.report.text import legend, milliseconds

_BINS = 20
_ROUTES_TITLE = "Latency of single requests by route"
_ROUTE_NAMES = {"easy": "easy: detector 1 alone", "hard": "hard: both detectors"}


@dataclass(frozen=True, kw_only=True)
class Plots:
    """All plots of a report; a group is empty if its data is missing."""

    frontiers: tuple[Plot, ...]
    routes: tuple[Plot, ...]
    difficulties: tuple[Plot, ...]
    splits: tuple[Plot, ...]
    loads: tuple[Plot, ...]


def draw_plots(facts: Facts) -> Plots:
    """Draw every plot for which the sweep has values."""
    with drawing():
        return Plots(
            frontiers=draw_frontiers(facts),
            routes=_routes(facts),
            difficulties=_difficulties(facts),
            splits=draw_splits(facts),
            loads=draw_over_load(facts),
        )


def _routes(facts: Facts) -> tuple[Plot, ...]:
    found = {route: latencies for route, latencies in facts.sweep.routes.items() if latencies.quantiles_ms}
    if not found:
        return ()
    note = ""
    figure, axes = new_axes("latency (ms)", "requests within this latency (%)")
    slowest = max(latencies.quantiles_ms[-1] for latencies in found.values())
    tail = max(float(np.percentile(latencies.quantiles_ms, 99)) for latencies in found.values())
    for (route, latencies), series in zip(found.items(), SERIES, strict=False):
        shares = np.linspace(0.0, 100.0, len(latencies.quantiles_ms))
        axes.plot(
            latencies.quantiles_ms, shares, color=series.colour, ls=series.dash, lw=1.9, label=_ROUTE_NAMES[route]
        )
    if slowest > 1.6 * tail:
        axes.set_xlim(right=1.2 * tail)
        note = f"The axis ends before the slowest request, {milliseconds(slowest)}."
    axes.set_ylim(0, 101)
    add_legend(figure)
    return (finish(figure, name="routes", title=_ROUTES_TITLE, finding=findings.routes(facts), note=note),)


def _difficulties(facts: Facts) -> tuple[Plot, ...]:
    values = np.array(facts.sweep.difficulties, np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return ()
    named = [(point.name, point.threshold) for point in facts.sweep.points]
    unnamed = [("", threshold) for threshold in reversed(facts.thresholds) if 0.0 < threshold < 1.0]
    lines = spread(named or unnamed, len(SERIES))
    figure, axes = new_axes("difficulty (0 easy, 1 hard)", "images")
    axes.hist(np.clip(values, 0.0, 1.0), bins=_BINS, range=(0.0, 1.0), color=MUTED, alpha=0.45, edgecolor=PAPER, lw=0.6)
    for (name, threshold), series in zip(lines, SERIES, strict=False):
        label = f"{legend(name, 16) or 'threshold'}: {facts.threshold_text(threshold)}"
        axes.axvline(threshold, color=series.colour, ls=series.dash, lw=1.9, label=label)
    axes.set_xlim(-0.01, 1.01)
    if lines:
        add_legend(figure)
    finding = findings.difficulties(facts, lines)
    return (finish(figure, name="difficulties", title="Difficulty of the images", finding=finding),)
