"""Shows a calibration on screen."""

from __future__ import annotations

from rich.table import Table

from dyndet_bench.machine import summary
from dyndet_builder.operating_points import Evidence, OperatingPoint


def measured_table(point: OperatingPoint, evidence: Evidence) -> Table:
    """What was measured: one row per figure."""
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = (
        ("lat1, every image easy", f"{evidence.easy.mean_ms:.2f} ms"),
        ("lat2, every image hard", f"{evidence.hard.mean_ms:.2f} ms"),
        (f"target ({point.target})", f"{point.target_ms:.2f} ms"),
        ("threshold", f"{point.threshold:.4g}"),
        ("easy share", f"{point.easy_share:.1%}"),
        ("latency reached", f"[bold]{point.latency_ms:.2f} ms[/]"),
        ("error", f"[bold]{point.error:+.1%}[/]"),
        ("measured with", f"{evidence.held_out_images} held-out images, {evidence.concurrency} at a time"),
        ("measured on", f"{summary(evidence.machine)}, {evidence.date}"),
    )
    for name, value in rows:
        table.add_row(name, value)
    return table
