"""`dyndet bench load`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from dynamicdet.errors import InputError
from dynamicdet.files import check_creatable
from dynamicdet.text import printable
from dyndet_bench.load.arrivals import BASE, KINDS, PROFILES, Kind, ProfileName, read_trace
from dyndet_bench.load.plan import LEVELS, LoadPlan
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_builder.cli.measurements import check_complete, measurement_options, show_origin
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.targeting import Numbers
from dyndet_client.cli.steps import duration
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_bench.load.record import Cell, LoadRecord

_CAPACITY_S, _SETTLE_S = 8.0, 2.0
"""of each loop that gives the capacity, and of the pause between two runs; less if the levels are short"""


@click.command("load")
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path),
              help="Folder of real images to send.  [default: those of --data]")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="COCO validation set whose images are sent, to score "
              "every answer.")  # fmt: skip
@click.option("--output", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("build/load"),
              show_default=True, help="Folder for load.json and the reports.")  # fmt: skip
@click.option("--profile", "profiles", type=click.Choice(PROFILES), multiple=True,
              help="How the rate changes over time (repeatable).  [default: steady]")  # fmt: skip
@click.option("--trace", type=click.Path(path_type=Path), help="CSV or JSON lines of arrivals, in seconds from the "
              "start, in place of a profile.")  # fmt: skip
@click.option("--levels", type=Numbers(float), default=(), help="Heights of the profile, as multiples of the measured "
              f"all-easy capacity.  [default: steady {','.join(f'{one:g}' for one in LEVELS['steady'])}; burst 3; ramp "
              "2; step and sinus 1.5]")  # fmt: skip
@click.option("--base", type=float, default=BASE, show_default=True,
              help="Rate before and after a burst, step or peak, as a multiple of the capacity.")  # fmt: skip
@click.option("--seconds", type=float, default=60.0, show_default=True, help="Length of a level.")
@click.option("--promise", help="Promised percentile, such as p95:90ms.  [default: that of the operating point, or p95 "
              "of 10 x the mean latency of the easy route]")  # fmt: skip
@click.option("--operating-point", help="The point that follows the load.  [default: the default point]")
@click.option("--system", "systems", type=click.Choice(KINDS), multiple=True,
              help="What to measure (repeatable).  [default: all]")  # fmt: skip
@click.option("--thresholds", type=Numbers(float), default=(), help="Fixed thresholds to compare with.  [default: that "
              "of the operating point, one with half as many hard images, and 1]")  # fmt: skip
@click.option("--model", help="Name of the detector, if REPOSITORY holds several.")
@click.option("--max-images", type=click.IntRange(1), default=200, show_default=True, help="Images that are sent in "
              "turn.")  # fmt: skip
@click.option("--generators", type=click.IntRange(1), help="Processes that send.  [default: by the rate]")
@click.option("--cancel-share", type=float, default=0.0, show_default=True, help="Share of requests that are sent over "
              "HTTP and given up.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the arrivals.")
@measurement_options()
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(
    repository: Path,
    images: Path | None,
    data: Path | None,
    output: Path,
    profiles: tuple[ProfileName, ...],
    trace: Path | None,
    levels: tuple[float, ...],
    base: float,
    seconds: float,
    promise: str | None,
    operating_point: str | None,
    systems: tuple[Kind, ...],
    thresholds: tuple[float, ...],
    model: str | None,
    max_images: int,
    generators: int | None,
    cancel_share: float,
    seed: int,
    journals: JournalFolder,
    as_json: bool,
) -> None:
    """Measure what happens under load: with a threshold that follows it, with plain queueing, with fixed thresholds.

    Requests arrive at random times (Poisson), whether or not earlier ones were answered. Latency counts from when a
    request was due. All systems get the same arrivals from one server, which serves a copy of REPOSITORY. With --data,
    every answer is scored with the truth.

    Each finished cell is stored. If you repeat the command within a day, it measures only what is missing. Exit status
    6: some measurements failed twice; they are listed.

    \b
    Examples:
      dyndet bench load build/demo/model_repository --data benchmarks/demo/val
      dyndet bench load build/demo/model_repository --data benchmarks/demo/val --profile burst --seconds 40
      dyndet bench load build/demo/model_repository --images photos --system following --levels 1.5 --seconds 600 \\
        --cancel-share 0.05
    """
    if trace is not None and profiles:
        raise InputError("give either --trace or --profile")
    if images is None and data is None:
        raise InputError("give --images, a folder of images to send, or --data, a COCO data set")
    plan = LoadPlan(
        profiles=profiles or ("steady",),
        levels=levels,
        seconds=seconds,
        base=base,
        trace=None if trace is None else read_trace(trace),
        thresholds=thresholds,
        kinds=tuple(dict.fromkeys(systems)) or KINDS,
        cancel_share=cancel_share,
        processes=generators,
        seed=seed,
        capacity_s=min(_CAPACITY_S, seconds / 4),
        settle_s=min(_SETTLE_S, seconds / 20),
    )
    from dyndet_bench.report.load.write import write_load_report  # what it draws with may be missing
    from dyndet_builder.under_load.serving import measure_under_load, parse_promise

    promised = None if promise is None else parse_promise(promise)
    check_creatable(output)
    with step_bars() as show:
        record = measure_under_load(
            repository,
            plan=plan,
            images=images,
            data=data,
            model=model,
            operating_point=operating_point,
            promise=promised,
            max_images=max_images,
            journals=journals,
            ready=lambda: click.echo(f"This takes about {duration(60 * plan.minutes())}.", err=True),
            progress=show,
        )
    written = write_load_report(record, output)
    if as_json:
        click.echo(record.model_dump_json(indent=2))
    else:
        _print(record, written)
    check_complete(record.missing, len(record.missing) + len(record.cells), journals.folder)


def _print(record: LoadRecord, written: Sequence[Path]) -> None:
    from dyndet_bench.report.load.text import alerts, crash_sentence, memory_sentence, sentences

    console = Console()
    survived = (crash_sentence(record), memory_sentence(record.cells))
    for line in (*sentences(record), *survived, *(f"Warning: {alert}" for alert in alerts(record))):
        console.print(line, soft_wrap=True)
    console.print(_table(record))
    show_origin(console, repeats=0, replayed=record.replayed)
    console.print(f"Wrote {printable(written[0].parent)}: {', '.join(path.name for path in written)}.", soft_wrap=True)


def _table(record: LoadRecord) -> Table:
    heads = ("load", "system", "in time", "goodput", "p50", "p95", "p99", "hard", "degraded", "refused", "AP")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in heads:
        table.add_column(head, justify="left" if head in heads[:2] else "right", no_wrap=True)
    for cell in record.cells:
        load = cell.profile if cell.level is None else f"{cell.profile} {cell.level:g} x"
        table.add_row(load, cell.system, *_values(cell, record))
    return table


def _values(cell: Cell, record: LoadRecord) -> tuple[str, ...]:
    return (
        f"{cell.within:.1%}" + ("" if cell.valid else "*"),
        f"{cell.goodput_per_s / record.capacity.easy_per_s:.2f} x",
        *("-" if one is None else f"{one:.0f}" for one in (cell.p50_ms, cell.p95_ms, cell.p99_ms)),
        *("-" if one is None else f"{one:.0%}" for one in (cell.hard_share, cell.degraded_share)),
        f"{cell.refused / max(1, cell.offered):.0%}",
        "" if cell.ap is None else f"{cell.ap:.1f}",
    )
