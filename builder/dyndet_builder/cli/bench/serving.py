"""`dyndet bench serving`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from dynamicdet.files import cache_folder
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_bench.measuring.machine import summary
from dyndet_builder.cli.measurements import check_complete, measurement_options, rounds_of, show_origin
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.demo_assets import demo_picture
from dyndet_builder.repository.options import RenderOptions
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_bench.comparisons.serving import Mix, ServingRecord
    from dyndet_builder.serving import ServingComparison


@click.command("serving")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder of real images to send.")
@click.option("--data", type=click.Path(path_type=Path), help="COCO data set; adds average precision.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The bundle's checkpoint; adds PyTorch.")
@click.option("--hard-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.3, show_default=True)
@click.option(
    "--concurrency",
    type=click.IntRange(2),
    default=8,
    show_default=True,
    help="Second load, after concurrency 1.",
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--max-images", type=click.IntRange(1), default=40, show_default=True, help="Images per run.")
@click.option("--watchdog", is_flag=True, help="Watch the server as `dyndet serve` does.")
@measurement_options()
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(
    bundle: Path,
    images: Path,
    data: Path | None,
    checkpoint: Path | None,
    hard_share: float,
    concurrency: int,
    rounds: int,
    max_images: int,
    watchdog: bool,
    journals: JournalFolder,
    as_json: bool,
) -> None:
    """Compare the ways to serve one bundle.

    One embedded server serves the topologies bls and fused, a BLS model in the style of Triton's examples, an ensemble
    of both detectors, and an ensemble of detector 1 alone. The reference is ONNX Runtime in a loop: the three graphs,
    the same with one pool of threads, and one file that routes itself. All of them are measured in turn, in rounds.

    Each measurement is stored. If you repeat the command within a day, it measures only what is missing. Exit status 6:
    some measurements failed twice; they are listed.

    \b
    Example:
      dyndet bench serving build/demo/bundle --images benchmarks/demo/val/images --data benchmarks/demo/val
    """
    from dyndet_builder.serving import compare_serving

    options = RenderOptions(warmup_image=demo_picture())
    with step_bars() as show:
        result = compare_serving(
            bundle,
            images=images,
            data=data,
            checkpoint=checkpoint,
            options=options,
            cache=cache_folder("detections"),
            hard_share=hard_share,
            concurrency=concurrency,
            rounds=rounds,
            max_images=max_images,
            watchdog=watchdog,
            journals=journals,
            progress=show,
        )
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
    else:
        _print(result)
    record = result.record
    check_complete(record.missing, record.rounds * len(record.cells), journals.folder)


def _print(result: ServingComparison) -> None:
    from dyndet_bench.comparisons.serving import MIXES

    console = Console()
    console.print(_table(result))
    record = result.record
    seen = record.circumstances
    console.print(
        f"In brackets: the ratio to the first row. {rounds_of(record.rounds, record.images)}, "
        f"{summary(seen.machine)}; {seen.date}",
    )
    beside = ", ".join(
        f"{ratio:.2f} x {_names(record)[mix]}"
        for mix in MIXES
        if (cell := record.cell("fused", mix, 1)) is not None and (ratio := cell.pool_ratio) is not None
    )
    if beside:
        console.print(f"fused beside ONNX Runtime with one pool, in the same round: {beside}")
    if any(0 < cell.rounds < record.rounds for cell in record.cells):
        console.print("* fewer rounds than the others")
    show_origin(console, repeats=record.repeats, replayed=record.replayed)


def _table(result: ServingComparison) -> Table:
    from dyndet_bench.comparisons.serving import MIXES

    record = result.record
    names = _names(record)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for mix in MIXES:
        table.add_column(f"concurrency 1\n{names[mix]}, ms", justify="right", no_wrap=True)
    for mix in MIXES:
        table.add_column(f"concurrency {record.concurrency}\n{names[mix]}, /s", justify="right", no_wrap=True)
    table.add_column(f"concurrency {record.concurrency}\np99, ms", justify="right", no_wrap=True)
    table.add_column("AP", justify="right")
    for system in record.systems:
        latencies = [_figure(record, system, mix, 1) for mix in MIXES]
        throughputs = [_figure(record, system, mix, record.concurrency) for mix in MIXES]
        mixed = record.cell(system, "mixed", record.concurrency)
        p99 = "-" if mixed is None else "missing" if mixed.p99_ms is None else f"{mixed.p99_ms:.0f}"
        table.add_row(system, *latencies, *throughputs, p99, _accuracy(result, system))
    return table


def _names(record: ServingRecord) -> dict[Mix, str]:
    return {"easy": "easy", "hard": "hard", "mixed": f"{record.hard_share:.0%} hard"}


def _figure(record: ServingRecord, system: str, mix: Mix, concurrency: int) -> str:
    cell = record.cell(system, mix, concurrency)
    if cell is None:
        return "-"
    if cell.p50_ms is None:
        return "missing"
    value = f"{cell.p50_ms:.2f}" if concurrency == 1 else f"{cell.throughput_per_s:.1f}"
    ratio = "?" if cell.ratio is None else f"{cell.ratio:.2f}"
    return f"{value} ({ratio}){'' if cell.rounds == record.rounds else '*'}"


def _accuracy(result: ServingComparison, system: str) -> str:
    """Of the mix that it can serve: a static one has one route."""
    from dyndet_bench.comparisons.serving import MIXES

    mixes = [mix for mix in MIXES if result.record.cell(system, mix, 1) is not None]
    mix: Mix = mixes[0] if len(mixes) == 1 else "mixed"
    return f"{result.accuracy[mix]:.1f}" if mix in result.accuracy else "-"
