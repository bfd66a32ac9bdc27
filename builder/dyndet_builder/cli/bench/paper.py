"""`dyndet bench paper`."""

from __future__ import annotations

import json

import click
from rich.table import Table

from dyndet_bench.measuring.journal import JournalFolder
from dyndet_bench.sweep.paper import FITTED_ROWS
from dyndet_builder.cli.measurements import check_complete, measurement_options, show_origin
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.paper import SOURCE, PaperComparison, compare_with_paper
from dyndet_client.cli.terminal import Console


@click.command("paper")
@click.option("--no-gpu", is_flag=True, help="Do not measure, even if there is a GPU.")
@measurement_options()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(no_gpu: bool, journals: JournalFolder, as_json: bool) -> None:
    """Print the paper's table of trade-offs beside our values.

    GFLOPs are computed from the networks. The latency model of `dyndet calibrate`, fitted to two rows of the paper,
    predicts FPS. If there is a GPU, FPS are also measured: fp16, one image at a time, random weights, without NMS.

    Each measurement is stored. If you repeat the command within a day, it measures only what is missing. Exit status 6:
    some networks could not be measured; they are listed.

    \b
    Example:
      dyndet bench paper --json
    """
    with step_bars() as show:
        result = compare_with_paper(gpu=not no_gpu, journals=journals, progress=show)
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
    else:
        _print(result)
    check_complete(result.missing, len(result.models), journals.folder)


def _print(result: PaperComparison) -> None:
    console = Console()
    console.print(_paper_table(result))
    console.print(f"\npaper: {SOURCE}")
    low, high = FITTED_ROWS
    console.print(f"latency model: lat1 and lat2 fitted to the rows marked * ({low} and {high} % hard)")
    for model in result.models:
        console.print(f"  {model.paper.name}: lat1 {model.fitted.lat1_ms:.2f} ms, lat2 {model.fitted.lat2_ms:.2f} ms")
    console.print(f"ours: {result.gpu or 'not measured (no GPU)'}")
    show_origin(console, repeats=0, replayed=result.replayed)


def _paper_table(result: PaperComparison) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("model")
    headers = ("hard\n%", "GFLOPs\npaper", "GFLOPs\nours", "\n", "FPS\npaper", "FPS\nmodel", "\n", "FPS\nours")
    for header in headers:
        table.add_column(header, justify="right")
    absent = "-" if result.gpu is None else "missing"
    for model in result.models:
        for index, row in enumerate(model.rows):
            measured = absent if row.measured_fps is None else f"{row.measured_fps:.1f}"
            table.add_row(
                model.paper.name if index == 0 else "",
                str(row.paper.hard_percent),
                f"{row.paper.gflops:.1f}",
                f"{row.gflops:.1f}",
                f"{row.gflops / row.paper.gflops - 1:+.1%}",
                str(row.paper.fps),
                f"{row.predicted_fps:.1f}",
                "*" if row.fitted else f"{row.predicted_fps / row.paper.fps - 1:+.1%}",
                measured,
            )
    return table
