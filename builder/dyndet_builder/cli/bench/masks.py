"""`dyndet bench masks`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_bench.measuring.machine import summary
from dyndet_builder.cli.measurements import check_complete, measurement_options, rounds_of, show_origin
from dyndet_builder.cli.progress import step_bars
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_bench.comparisons.masks import MaskCostRecord


@click.command("masks")
@click.argument("repository", required=False, type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder of real images to send.")
@click.option("--url", help="gRPC address of a server.  [default: one is started that serves REPOSITORY]")
@click.option("--model", help="Name of the served model.  [default: the detector of REPOSITORY, or else dyndet]")
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True)
@click.option("--max-images", type=click.IntRange(1), default=40, show_default=True, help="Images per round.")
@measurement_options()
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(
    repository: Path | None,
    images: Path,
    url: str | None,
    model: str | None,
    rounds: int,
    max_images: int,
    journals: JournalFolder,
    as_json: bool,
) -> None:
    """Compare requests that ask for masks with requests that do not.

    Both are sent alternately on both routes. The result shows what masks cost in time and in bytes.

    Each round is stored. If you repeat the command within a day, it measures only what is missing. Exit status 2: the
    detector has no masks. Exit status 6: some rounds failed twice.

    \b
    Example:
      dyndet bench masks build/models --images photos
    """
    from dyndet_bench.comparisons.masks import measure_mask_cost
    from dyndet_builder.repository.fingerprint import repository_sha256
    from dyndet_builder.repository.marker import detector_of
    from dyndet_builder.repository.rendered import read_rendered
    from dyndet_builder.server.triton import TritonServer
    from dyndet_client.codec import no_masks

    if (repository is None) == (url is None):
        raise InputError("give either a model repository, which is then served, or the --url of a server")
    pictures_in(images)  # raises its error now, before a server starts
    model = detector_of(repository, model)
    if repository is not None and not read_rendered(repository, model=model).bundle.has_masks:
        raise no_masks(model)  # before a server starts
    with ExitStack() as stack:
        show = stack.enter_context(step_bars())
        if url is None:
            assert repository is not None
            journals = journals.about(repository=repository_sha256(repository))
            show("start the server", 0, 1)
            url = stack.enter_context(TritonServer(repository)).grpc_url
            show("start the server", 1, 1)
        record = measure_mask_cost(
            url, model=model, images=images, rounds=rounds, max_images=max_images, journals=journals, progress=show
        )
    if as_json:
        click.echo(record.model_dump_json(indent=2))
    else:
        console = Console()
        console.print(_table(record))
        pasting = "" if record.paste_ms is None else f"pasting one mask takes {record.paste_ms:.2f} ms more; "
        console.print(
            f"topology {record.topology}, {record.image_bytes / 1e3:.0f} kB of pixels sent; {pasting}"
            f"{rounds_of(record.rounds, record.images)}; {summary(record.circumstances.machine)}; "
            f"{record.circumstances.date}",
        )
        show_origin(console, repeats=0, replayed=record.replayed)
    check_complete(record.missing, rounds, journals.folder)


def _table(record: MaskCostRecord) -> Table:
    names = ("route", "with masks, ms", "without, ms", "ratio", "range of the rounds", "answer, bytes", "without")
    table = Table(*names, box=None, header_style="bold")
    for route, cost in (("easy", record.easy), ("hard", record.hard)):
        table.add_row(
            route,
            f"{cost.with_ms:.2f}",
            f"{cost.without_ms:.2f}",
            f"{cost.ratio:.3f}",
            f"{cost.ratio_low:.2f} to {cost.ratio_high:.2f}",
            f"{cost.with_bytes:,}",
            f"{cost.without_bytes:,}",
        )
    return table
