"""`dyndet bench overhead`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from dynamicdet.pictures import pictures_in
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_bench.measuring.machine import summary
from dyndet_builder.cli.measurements import check_complete, measurement_options, rounds_of, show_origin
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.targeting import check_metrics_url, metrics_url_option
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_bench.comparisons.overhead import OverheadRecord


@click.command("overhead")
@click.argument("repository", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.Path(path_type=Path), required=True, help="Folder of real images to send and to run."
)
@click.option("--url", help="gRPC address of a server that serves REPOSITORY.  [default: one is started]")
@metrics_url_option
@click.option("--model", help="Name of the detector, if REPOSITORY holds several.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--max-images", type=click.IntRange(1), default=40, show_default=True, help="Images per run.")
@measurement_options()
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(
    repository: Path,
    images: Path,
    url: str | None,
    metrics_url: str | None,
    model: str | None,
    rounds: int,
    max_images: int,
    journals: JournalFolder,
    as_json: bool,
) -> None:
    """Compare a served answer with bare ONNX Runtime calls.

    Both run the same stages on the same images.

    Each measurement is stored. If you repeat the command within a day, it measures only what is missing. Exit status 6:
    some measurements failed twice; they are listed.

    \b
    Example:
      dyndet bench overhead build/models --images benchmarks/demo/val/images
    """
    from dyndet_bench.comparisons.overhead import measure_overhead
    from dyndet_builder.repository.fingerprint import repository_sha256
    from dyndet_builder.repository.rendered import read_rendered
    from dyndet_builder.server.triton import TritonServer

    check_metrics_url(metrics_url, url)
    pictures_in(images)  # raises its error now, before a server starts
    rendered = read_rendered(repository, model=model)
    with ExitStack() as stack:
        show = stack.enter_context(step_bars())
        if url is None:
            show("start the server", 0, 1)
            server = stack.enter_context(TritonServer(repository))
            show("start the server", 1, 1)
            url, metrics_url = server.grpc_url, server.metrics_url
        record = measure_overhead(
            url,
            graphs=rendered.cpu_graphs,
            threads=rendered.options.threads,
            metrics_url=metrics_url,
            images=images,
            model=rendered.model,
            rounds=rounds,
            max_images=max_images,
            journals=journals.about(repository=repository_sha256(repository)),
            progress=show,
        )
    if as_json:
        click.echo(record.model_dump_json(indent=2))
    else:
        console = Console()
        console.print(_overhead_table(record))
        seen = record.circumstances
        console.print(f"{rounds_of(record.rounds, record.images)}; {summary(seen.machine)}; {seen.date}")
        show_origin(console, repeats=record.repeats, replayed=record.replayed)
    check_complete(record.missing, 2 * record.rounds, journals.folder)


def _overhead_table(record: OverheadRecord) -> Table:
    table = Table("route", "served, ms", "bare, ms", "ratio", "range of the rounds", box=None, header_style="bold")
    for name, route in (("easy", record.easy), ("hard", record.hard)):
        if route is None:
            table.add_row(name, "missing")
            continue
        spread = f"{route.ratio_low:.2f} to {route.ratio_high:.2f}"
        if route.rounds < record.rounds:
            spread += f" ({route.rounds} of {record.rounds} rounds)"
        table.add_row(name, f"{route.served_ms:.2f}", f"{route.bare_ms:.2f}", f"{route.ratio:.3f}", spread)
    return table
