"""`dyndet bench plot`."""

from __future__ import annotations

from pathlib import Path

import click

from dynamicdet.errors import InputError
from dyndet_bench.measuring.statistic import MEAN
from dyndet_builder.targets import parse_target


@click.command("plot")
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="The .png or .svg file to write.")
@click.option("--promise", help="Promised mean latency to mark, such as 12ms.")
@click.option("--concurrency", type=click.IntRange(1), default=1, show_default=True, help="Load whose cells are drawn.")
def command(sweep: Path, output: Path, promise: str | None, concurrency: int) -> None:
    """Draw AP over mean latency of one load.

    SWEEP is a folder that `dyndet bench sweep --data VAL` wrote, or its cells.csv. The plot shows the router's curve
    from all-easy to all-hard, random routing for comparison, and the promised latency.

    \b
    Example:
      dyndet bench plot docs/demo-report --promise 12.03ms -o docs/ap-over-latency.png
    """
    from dyndet_bench.report.frontier import write_frontier  # needs matplotlib, which the other commands do not

    write_frontier(sweep, output, concurrency=concurrency, promise_ms=promised_milliseconds(promise))
    click.echo(f"Wrote {output}.")


def promised_milliseconds(promise: str | None) -> float | None:
    """The value of an option --promise. Raises InputError for what is no mean latency."""
    if promise is None:
        return None
    target = parse_target(promise)
    if target.statistic != MEAN or target.of_range:
        raise InputError(f"--promise takes a mean latency such as 12ms, got {promise!r}")
    return target.value
