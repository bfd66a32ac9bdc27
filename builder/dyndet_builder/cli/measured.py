"""Shows a calibration on screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from dyndet_bench.measuring.machine import summary
from dyndet_builder.operating_points import Evidence, OperatingPoint, Reach
from dyndet_client.cli.terminal import Console


def show_measured(console: Console, points: Mapping[str, OperatingPoint], evidence: Evidence) -> None:
    """Print what was measured: one row per value for one point, one row per point for several."""
    for warning in evidence.warnings:
        console.print(f"Warning: {warning}", style="yellow")
    if len(points) == 1:
        (point,) = points.values()
        console.print(_one(point, evidence))
        return
    console.print(_several(points))
    drift = max(abs(point.easy_share - point.easy_share_calibrated) for point in points.values())  # type: ignore[operator]
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (("largest drift of the hard share", f"{drift:.1%}"), *_circumstances(evidence)):
        table.add_row(name, value)
    console.print(table)


def topology_sentence(topology: str, chosen_by: Mapping[str, Any] | None) -> str:
    """Which topology a repository has, and the measurements that led to it, if it was measured."""
    found = chosen_by or {}
    measured = found.get("measured", {})
    if topology not in measured:
        return f"Topology: {topology}."
    if len(found.get("compared", ())) > len(measured):  # instances and threads were compared as well
        best, *others = (f"{_way(one)} ({_means(one['means'])})" for one in found["compared"])
        return f"Topology: {best}, faster at {found['load']} than {', '.join(others)}."
    slower = (f", faster than {name} ({_means(one)})" for name, one in measured.items() if name != topology)
    return f"Topology: {topology} ({_means(measured[topology])}){''.join(slower)}."


def _way(compared: Mapping[str, Any]) -> str:
    return f"{compared['topology']} {compared['instances']} x {compared['threads'] or 'all'} threads"


def _means(means: Mapping[str, Any]) -> str:
    return f"easy {means['easy_ms']:.2f} ms, hard {means['hard_ms']:.2f} ms"


def _one(point: OperatingPoint, evidence: Evidence) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = (
        ("all images easy (lat1)", f"{evidence.easy.mean_ms:.2f} ms"),
        ("all images hard (lat2)", f"{evidence.hard.mean_ms:.2f} ms"),
        (f"target ({point.target})", _figure(point, point.goal)),
        ("threshold", f"{point.threshold:.4g}"),
        ("hard share", _hard_share(point)),
        (f"{_name(point)} reached", Text(_figure(point, point.reached), "bold")),
        ("error", Text(_error(point), "bold")),
        *((("promise under load", point.followed.promise),) if point.followed is not None else ()),
        *((("requests within the target", f"{point.goodput:.1%}"),) if point.goodput is not None else ()),
        *_circumstances(evidence),
    )
    for name, value in rows:
        table.add_row(name, value)
    return table


def _several(points: Mapping[str, OperatingPoint]) -> Table:
    heads = ("operating point", "goal", "reached", "error", "threshold", "hard", "within", "mean", "p95", "p99")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in heads:
        table.add_column(head, justify="left" if head == heads[0] else "right")
    for name, point in points.items():
        percentiles = point.percentiles_ms or {}
        table.add_row(
            name,
            _figure(point, point.goal),
            Text(_figure(point, point.reached), "bold"),
            _error(point),
            f"{point.threshold:.4g}",
            f"{1 - (point.easy_share or 0):.0%}",
            "" if point.goodput is None else f"{point.goodput:.0%}",
            f"{point.mean_ms:.1f} ms",
            f"{percentiles.get('p95', float('nan')):.1f} ms",
            f"{percentiles.get('p99', float('nan')):.1f} ms",
        )
    return table


def _circumstances(evidence: Evidence) -> tuple[tuple[str, str], ...]:
    from dyndet_bench.measuring.perf_run import repeats_text

    reach = evidence.reachable
    latencies = ", ".join(f"{name} {_span(reach[name])}" for name in ("mean", "p50", "p95", "p99"))
    rounds = f", {evidence.rounds_replayed} rounds from an earlier run" if evidence.rounds_replayed else ""
    return (
        ("achievable, ms", latencies),
        ("achievable, images/s", _span(reach["throughput"])),
        ("measured with", f"{evidence.held_out_images} held-out images, {evidence.load}{rounds}"),
        ("measured on", f"{summary(evidence.machine)}, {evidence.date}"),
        *((("repeats", repeats_text(evidence.repeats)),) if evidence.repeats else ()),
    )


def _span(reach: Reach) -> str:
    return f"{reach.easy:.1f} to {reach.hard:.1f}"


def _hard_share(point: OperatingPoint) -> str:
    counted, calibrated = point.easy_share or 0.0, point.easy_share_calibrated or 0.0
    return f"{1 - counted:.1%} of the held-out images, {1 - calibrated:.1%} of the calibration images"


def _error(point: OperatingPoint) -> str:
    if point.interval is None:
        return f"{point.error:+.1%}"
    low, high = point.interval
    return f"{point.error:+.1%} ({low:+.1%} to {high:+.1%})"


def _name(point: OperatingPoint) -> str:
    return {"mean": "latency"}.get(point.statistic or "", point.statistic or "")


def _figure(point: OperatingPoint, value: float | None) -> str:
    return "" if value is None else f"{value:.2f} ms" if point.unit == "ms" else f"{value:.1f}/s"
