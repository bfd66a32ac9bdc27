"""`dyndet tune`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from dynamicdet.errors import InputError
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_bench.measuring.load import Load
from dyndet_bench.measuring.statistic import Statistic
from dyndet_builder.cli.measurements import measurement_options, show_origin
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.defaults import REPLAYED_S
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_builder.calibration.tune import Tuning


@click.command("tune")
@click.argument("repository", type=click.Path(file_okay=False, path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder of real images to send.")
@click.option("--model", help="Name of the detector, if REPOSITORY holds several.")
@click.option("--concurrency", type=int, help="Requests in flight.  [default: 8]")
@click.option("--request-rate", type=float, help="Requests per second with Poisson arrivals, instead of --concurrency.")
@click.option("--batch", type=int, default=1, show_default=True, help="Images per request.")
@click.option(
    "--statistic", default="mean", show_default=True, help="Statistic that decides: mean, p50 to p99.9, throughput."
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each setting per comparison."
)
@click.option("--max-images", type=click.IntRange(1), default=64, show_default=True, help="Images per run.")
@measurement_options(newest_s=REPLAYED_S)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    repository: Path,
    images: Path,
    model: str | None,
    concurrency: int | None,
    request_rate: float | None,
    batch: int,
    statistic: str,
    rounds: int,
    max_images: int,
    journals: JournalFolder,
    as_json: bool,
) -> None:
    """Find the fastest instances, threads and batching for a load on this machine, and render REPOSITORY with them.

    The search is bounded. It serves up to four settings at once and measures them in turn; the winner meets the next
    settings. The last comparison is the winner against the defaults. Calibrate afterwards, because latencies of another
    setting say nothing about the new one. If you repeat an interrupted search within an hour, it continues where it
    stopped.

    \b
    Examples:
      dyndet tune build/models --images photos
      dyndet tune build/models --images photos --concurrency 16 --statistic p99
    """
    from dyndet_builder.calibration.tune import tune

    if concurrency is not None and request_rate is not None:
        raise InputError("--concurrency and --request-rate exclude each other: give one of them")
    load = Load(concurrency=8 if concurrency is None else concurrency, request_rate=request_rate, batch=batch)
    with step_bars() as show:
        result = tune(
            repository,
            images=images,
            model=model,
            load=load,
            statistic=Statistic(statistic),
            rounds=rounds,
            max_images=max_images,
            journals=journals,
            progress=show,
        )
    if as_json:
        click.echo(json.dumps(asdict(result), indent=2))
        return
    console = Console()
    console.print(_table(result))
    console.print(f"decided by {result.statistic} at {result.load}, threshold {result.threshold:.4g}")
    show_origin(console, repeats=sum(one.repeats for one in result.tried), replayed=result.replayed)
    if result.written:
        console.print(
            f"{repository} is rendered with {result.best.setting}. Next: dyndet serve it, then dyndet calibrate",
            soft_wrap=True,
        )
    else:
        console.print(f"{repository} already has the best of these settings; it is unchanged.", soft_wrap=True)


def _table(result: Tuning) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("setting")
    for header in ("mean, ms", "p99, ms", "images/s"):
        table.add_column(header, justify="right")
    for one in result.tried:
        name = str(one.setting) + (
            "  <- best" if one is result.tried[-1] and one.setting == result.best.setting else ""
        )
        table.add_row(name, f"{one.mean_ms:.2f}", f"{one.p99_ms:.2f}", f"{one.throughput_per_s:.1f}")
    ratio = result.best.throughput_per_s / result.default.throughput_per_s
    table.add_row("")
    table.add_row(f"best / default ({result.default.setting})", "", "", f"x {ratio:.2f}")
    return table
