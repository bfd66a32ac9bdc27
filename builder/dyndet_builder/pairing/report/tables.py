"""The tables of a pair's report, for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dyndet_bench.report.tables import Column, Row, Table
from dyndet_bench.report.text import MISSING, number, percent, plain
from dyndet_builder.pairing.payoff.frontier import Accuracy, Curve, Point
from dyndet_builder.pairing.payoff.promises import Promise
from dyndet_builder.pairing.report.record import SHARES, PairReport


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> Table:
    """A table whose first `words` columns are texts; the unit of a head follows a `|`."""
    columns = []
    for place, head in enumerate(heads):
        name, _, unit = head.partition("|")
        columns.append(Column(name=name, unit=unit, is_figure=place >= words))
    return Table(title=title, columns=tuple(columns), rows=tuple(Row(texts=tuple(map(plain, row))) for row in rows))


def detectors_table(report: PairReport) -> Table:
    """Each detector alone."""
    alone = {one.name: one.accuracy for one in report.frontier.singles}
    return _table(
        "Each detector alone",
        ("detector", "role", report.measure + "|%", "95 % interval|%", "mean|ms", "median|ms", "objects"),
        [
            (
                one.name,
                one.role,
                f"{alone[one.name].value:.1f}",
                interval(alone[one.name]),
                number(one.latency.mean_ms),
                number(one.latency.median_ms),
                f"{one.objects:.1f}",
            )
            for one in report.detectors
        ],
        words=2,
    )


def kept_table(report: PairReport) -> Table:
    """Share of the gain that each way to choose keeps."""
    heads = ("chosen by", *(f"{percent(share)} hard" for share in SHARES))
    rows = []
    for curve in report.frontier.curves:
        kept = [curve.kept_at(share) for share in SHARES]
        texts = [MISSING if one is None else f"{100 * one:.0f}" for one in kept]
        rows.append((_chooser(curve), *texts))
    return _table(f"Kept gain in {report.measure}, percent, by hard share", heads, rows)


def _chooser(curve: Curve) -> str:
    names = {"router": curve.name, "rule": f"rule {curve.name}", "random": "coin", "oracle": "oracle (knows labels)"}
    return names[curve.kind]


def cascade_table(report: PairReport) -> Table:
    """The cascade at every hard share."""
    return _table(
        "The cascade",
        ("hard|%", "threshold", "mean|ms", report.measure + "|%", "95 % interval|%", "kept gain|%", "95 % interval|%"),
        [_cascade_row(point) for point in report.frontier.router.points],
        words=0,
    )


def _cascade_row(point: Point) -> tuple[str, ...]:
    kept = point.kept
    return (
        f"{100 * point.hard_share:.0f}",
        MISSING if point.threshold is None else f"{point.threshold:.4f}",
        number(point.latency_ms),
        f"{point.accuracy.value:.1f}",
        interval(point.accuracy),
        MISSING if kept is None else f"{100 * kept.value:.0f}",
        MISSING if kept is None else f"{100 * kept.low:.0f} to {100 * kept.high:.0f}",
    )


def promises_table(report: PairReport) -> Table:
    """What the pair would give for each target."""
    return _table(
        "Targets",
        ("target", "met", "threshold", "hard|%", "mean|ms", report.measure + "|%", "95 % interval|%"),
        [_promise_row(one) for one in report.promises],
        words=2,
    )


def _promise_row(one: Promise) -> tuple[str, ...]:
    point = one.point
    met = "yes" if one.met else "no"
    if point is None:
        return (one.target, met, *(MISSING for _ in range(5)))
    return (
        one.target,
        met,
        MISSING if point.threshold is None else f"{point.threshold:.4f}",
        f"{100 * point.hard_share:.1f}",
        number(point.latency_ms),
        f"{point.accuracy.value:.1f}",
        interval(point.accuracy),
    )


def interval(accuracy: Accuracy) -> str:
    """The ends of an interval, percent."""
    return f"{accuracy.low:.1f} to {accuracy.high:.1f}"
