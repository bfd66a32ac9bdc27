"""The tables of a report, made once for HTML and Markdown, and the cells as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from dyndet_bench.report.facts import Facts, Measured
from dyndet_bench.report.findings import PARTS
from dyndet_bench.report.text import MISSING, column_texts, plain, spreadsheet
from dyndet_bench.sweep.record import Accuracy, Cell, Latency, Split

_QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)


@dataclass(frozen=True, kw_only=True)
class Column:
    """Head of a column; it contains the unit of all values."""

    name: str
    unit: str = ""
    is_figure: bool = True


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line; a `note` replaces the columns that `texts` leaves open."""

    texts: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Texts in rows and columns, ready to print."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


_Filled = tuple[Column, tuple[str, ...]]


def _figures(name: str, unit: str, values: Sequence[float | None], decimals: int | None = None) -> _Filled:
    return Column(name=name, unit=unit), column_texts(values, decimals)


def _texts(name: str, values: Sequence[str | None], *, is_figure: bool = False) -> _Filled:
    texts = tuple(plain(value) if value else MISSING for value in values)
    return Column(name=name, is_figure=is_figure), texts


def _table(title: str, filled: Sequence[_Filled], *, always: int = 1) -> Table:
    """Columns without content are left out, except for the first `always`."""
    kept = [
        (column, texts)
        for index, (column, texts) in enumerate(filled)
        if index < always or any(text != MISSING for text in texts)
    ]
    rows = zip(*(texts for _, texts in kept), strict=True)
    return Table(title=title, columns=tuple(column for column, _ in kept), rows=tuple(Row(texts=row) for row in rows))


def points_table(facts: Facts) -> Table:
    """The calibrated operating points."""
    points = facts.sweep.points
    return _table(
        "Operating points",
        (
            _texts("point", [point.name for point in points]),
            _texts("threshold", [facts.threshold_text(point.threshold) for point in points], is_figure=True),
            _texts("target", [point.target for point in points], is_figure=True),
            _texts("reached", [point.reached for point in points], is_figure=True),
            _signed("error", [_percent(point.error) for point in points]),
            _figures("95 % interval", "± %", [_percent(point.interval) for point in points], 1),
            _figures("hard share", "%", [_percent(point.hard_share) for point in points], 1),
            _figures("within promise", "%", [_percent(point.goodput) for point in points], 1),
            _texts("load", [point.load for point in points]),
        ),
    )


def cells_table(facts: Facts, *, short: bool = False) -> Table:
    """All cells, failed ones with their reason; `short` keeps the columns for a first look."""
    cells = [found.cell for found in facts.measured]
    accuracies = [found.accuracy for found in facts.measured]
    latencies = [found.latency for found in facts.measured]
    statistics = ("mean_ms", "p99_ms") if short else ("mean_ms", "p50_ms", "p95_ms", "p99_ms")
    filled = [
        *_places(facts, facts.measured),
        _figures("hard share", "%", [_percent(cell.hard_share) for cell in cells], 1),
        _figures("AP", "%", [known.ap if known else None for known in accuracies], 1),
        *(_statistic(latencies, field) for field in statistics),
        _figures("throughput", "images/s", [cell.throughput_per_s for cell in cells]),
    ]
    return _with_failures(_table("All cells", filled, always=2), facts)


def details_table(facts: Facts) -> Table:
    """What is seldom needed of a cell: its intervals, p90, and how much was measured."""
    cells = [found.cell for found in facts.measured]
    filled = [
        *_places(facts, facts.measured),
        _interval("mean, 95 % interval", "ms", [cell.mean_interval for cell in cells]),
        _statistic([found.latency for found in facts.measured], "p90_ms"),
        _interval(
            "throughput, 95 % interval",
            "images/s",
            [(cell.throughput_low_per_s, cell.throughput_high_per_s) for cell in cells],
        ),
        _figures("requests", "", [cell.requests for cell in cells], 0),
        _figures("repeats", "", [cell.repeats or None for cell in cells], 0),
    ]
    return _table("Intervals and numbers of requests", filled, always=2)


def sent_table(facts: Facts) -> Table | None:
    """At request rates, the latencies that perf_analyzer reports; None if nothing else was measured there."""
    found = [one for one in facts.measured if one.cell.open_loop is not None and one.cell.latency is not None]
    if not found:
        return None
    latencies = [one.cell.latency for one in found]
    filled = [
        *_places(facts, found),
        *(_statistic(latencies, field) for field in _STATISTICS),
        _interval("mean, 95 % interval", "ms", [(one.cell.mean_low_ms, one.cell.mean_high_ms) for one in found]),
    ]
    return _table("Request rates, counted from when perf_analyzer sent the request", filled, always=2)


def _places(facts: Facts, found: Sequence[Measured]) -> list[_Filled]:
    """The columns that say which cell it is."""
    return [
        _texts("load", [str(one.load) for one in found]),
        _texts("threshold", [facts.threshold_text(one.threshold) for one in found], is_figure=True),
    ]


_STATISTICS = tuple(Latency.model_fields)


def _statistic(latencies: Sequence[Latency | None], field: str) -> _Filled:
    values = [None if latency is None else getattr(latency, field) for latency in latencies]
    return _figures(field.removesuffix("_ms"), "ms", values)


def _with_failures(table: Table, facts: Facts) -> Table:
    """The table with the failed cells at its end: their place, and why they have no values."""
    failed = tuple(
        Row(
            texts=(str(cell.load), facts.threshold_text(cell.threshold)),
            note=f"not measured: {plain(cell.error or 'no reason was recorded')}",
        )
        for cell in facts.failed
    )
    reason = (Column(name="reason", is_figure=False),) if failed and not facts.measured else ()
    return Table(title=table.title, columns=table.columns + reason, rows=table.rows + failed)


def split_table(facts: Facts) -> Table:
    """The parts of each cell's latency."""
    found = [(item, item.cell.split) for item in facts.measured if item.cell.split is not None]
    columns = [
        _texts("load", [str(item.load) for item, _ in found]),
        _texts("threshold", [facts.threshold_text(item.threshold) for item, _ in found], is_figure=True),
        *(_figures(name, "ms", [getattr(split, field) for _, split in found], 2) for field, name in PARTS.items()),
    ]
    return _table("Parts of the mean latency", columns)


def accuracy_table(facts: Facts) -> Table:
    """Average precision of each threshold, from the easiest to the hardest."""
    known: list[Accuracy] = sorted(facts.sweep.accuracy, key=lambda accuracy: -accuracy.threshold)
    columns = [
        _texts("threshold", [facts.threshold_text(accuracy.threshold) for accuracy in known], is_figure=True),
        _figures("hard share", "%", [_percent(accuracy.hard_share) for accuracy in known], 1),
        _figures("AP", "%", [accuracy.ap for accuracy in known], 1),
        _figures("AP at IoU 0.50", "%", [accuracy.ap50 for accuracy in known], 1),
        _figures("AP of masks", "%", [accuracy.mask_ap for accuracy in known], 1),
    ]
    return _table("Accuracy of each threshold", columns)


def routes_table(facts: Facts) -> Table:
    """Quantiles of each route's latency."""
    found = facts.sweep.routes
    columns = [_texts("route", list(found)), _figures("mean", "ms", [route.mean_ms for route in found.values()])]
    for quantile in _QUANTILES:
        values = [float(np.percentile(route.quantiles_ms, quantile)) for route in found.values()]
        columns.append(_figures(f"p{quantile}", "ms", values))
    columns.append(_figures("requests", "", [route.requests for route in found.values()], 0))
    return _table("Latency of single requests by route", columns)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _signed(name: str, values: Sequence[float | None]) -> _Filled:
    texts = tuple(MISSING if value is None else f"{value:+.1f}" for value in values)
    return Column(name=name, unit="%"), texts


def _interval(name: str, unit: str, bounds: Sequence[tuple[float | None, float | None]]) -> _Filled:
    low, high = (column_texts([bound[side] for bound in bounds]) for side in (0, 1))
    texts = tuple(MISSING if MISSING in pair else f"{pair[0]}–{pair[1]}" for pair in zip(low, high, strict=True))
    return Column(name=name, unit=unit), texts


def cells_csv(facts: Facts) -> str:
    """One row per cell in full precision, the columns named as in `sweep.json`; what is not known is empty."""
    file = io.StringIO()
    fields = _every_csv_field()
    writer = csv.writer(file)  # RFC 4180: lines end in CR LF, and fields with either are quoted
    writer.writerow(csv_columns())
    for cell in facts.cells:
        known = facts.accuracy(cell.threshold)
        precision = [known.ap, known.ap50] if known else ["", ""]
        writer.writerow([str(cell.load), *(spreadsheet(value(cell)) for value in fields.values()), *precision])
    return file.getvalue()


def csv_columns() -> tuple[str, ...]:
    """The columns of `cells_csv`."""
    return (_LOAD, *_every_csv_field(), *_ACCURACY)


_LOAD = "load"
"""in words, as in the reports and on screen"""
_ACCURACY = ("ap", "ap50")
_NESTED: dict[str, tuple[str, type[BaseModel]]] = {
    "latency": ("", Latency),
    "split": ("", Split),
    "open_loop": ("open_loop_", Latency),
}


def _every_csv_field() -> dict[str, Callable[[Cell], object]]:
    return {name: value for field in Cell.model_fields for name, value in _csv_fields(field).items()}


def _csv_fields(field: str) -> dict[str, Callable[[Cell], object]]:
    """Columns that one field of a cell becomes, each with how it is read."""
    if field in ("raw", "missing"):
        return {field: lambda cell: ";".join(getattr(cell, field))}
    if field not in _NESTED:
        return {field: lambda cell: getattr(cell, field)}
    prefix, model = _NESTED[field]
    return {f"{prefix}{part}": _nested_value(field, part) for part in model.model_fields}


def _nested_value(field: str, part: str) -> Callable[[Cell], object]:
    def value(cell: Cell) -> object:
        outer = getattr(cell, field)
        return None if outer is None else getattr(outer, part)

    return value
