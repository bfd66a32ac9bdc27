"""`dyndet bench`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from dyndet_bench.machine import summary
from dyndet_bench.overhead import OverheadRecord, measure_overhead
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.server import TritonServer


@click.group("bench")
def command() -> None:
    """Measure a served detector."""


@command.command("overhead")
@click.argument("repository", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.Path(path_type=Path), required=True, help="Folder of real pictures to send and to run."
)
@click.option("--url", help="gRPC address of a server that serves REPOSITORY.  [default: one is started]")
@click.option("--model", default="dyndet", show_default=True, help="Name of the served model.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--max-images", type=click.IntRange(1), default=40, show_default=True, help="Pictures of one run.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def overhead(
    repository: Path, images: Path, url: str | None, model: str, rounds: int, max_images: int, as_json: bool
) -> None:
    """Compare a served answer with the bare ONNX Runtime calls of the same stages.

    \b
    Example:
      dyndet bench overhead build/models --images benchmarks/demo/val/images
    """
    with ExitStack() as stack:
        if url is None:
            url = stack.enter_context(TritonServer(repository)).grpc_url
        show = stack.enter_context(step_bars())
        record = measure_overhead(
            url,
            repository=repository,
            images=images,
            model=model,
            rounds=rounds,
            max_images=max_images,
            progress=show,
        )
    if as_json:
        click.echo(record.model_dump_json(indent=2))
        return
    console = Console(highlight=False)
    console.print(_table(record))
    seen = record.circumstances
    console.print(f"{record.rounds} rounds of {record.images} pictures; {summary(seen.machine)}; {seen.date}")


def _table(record: OverheadRecord) -> Table:
    table = Table("route", "served, ms", "bare, ms", "ratio", "of single rounds", box=None, header_style="bold")
    for name, route in (("easy", record.easy), ("hard", record.hard)):
        spread = f"{route.ratio_low:.2f} to {route.ratio_high:.2f}"
        table.add_row(name, f"{route.served_ms:.2f}", f"{route.bare_ms:.2f}", f"{route.ratio:.3f}", spread)
    return table
