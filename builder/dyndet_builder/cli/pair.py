"""`dyndet pair`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from dynamicdet.errors import NotUsableError, TargetOutOfReachError
from dynamicdet.files import cache_folder, check_creatable, check_replaceable
from dynamicdet.text import printable
from dyndet_builder.cli.data_options import trust_option
from dyndet_builder.cli.pair_options import pair_options
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.targeting import TargetsParameter
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_bench.report.tables import Table as ReportTable
    from dyndet_builder.pairing.report.record import PairReport

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(path_type=Path)


@click.command("pair")
@click.argument("small", type=_FILE)
@click.argument("large", type=_FILE)
@click.option(
    "--images", type=_FOLDER, help="Folder of pictures without labels; with --data, the folder of the labelled ones."
)
@click.option(
    "--data",
    type=_FOLDER,
    help="Labelled pictures: a folder with images/ and annotations.json, a Roboflow export, or a COCO JSON file. "
    "Without labels, agreement with LARGE is measured instead of AP.",
)
@trust_option
@click.option("--also", type=_FILE, multiple=True, help="A further detector for comparison (repeatable).")
@click.option(
    "--also-spec", "also_specs", type=_FILE, multiple=True, help="detector.yaml of each --also, in their order."
)
@pair_options
@click.option(
    "--stream",
    type=_FOLDER,
    help="Folder of unlabelled pictures like those that will be served; the numbers are then weighted by their "
    "difficulties.",
)
@click.option(
    "--latency",
    metavar="NAME=TIME,...",
    help="Latencies that were measured elsewhere, of all detectors: small=1.5ms,large=9ms, and NAME=4ms for --also "
    "NAME.onnx.  [default: measured here]",
)
@click.option(
    "--target-latency",
    "latency_targets",
    type=TargetsParameter(),
    default=(),
    help="Show what the pair would give at a mean latency (12ms), a percentile (p95:15ms), or a share of the way from "
    "all-easy to all-hard (50%); several are separated by commas.",
)
@click.option(
    "--target-accuracy",
    "accuracy_targets",
    metavar="AP|SHARE",
    multiple=True,
    help="Show the latency at which the pair reaches an AP (49.5), or a share of LARGE's gain over SMALL (80%) "
    "(repeatable).",
)
@click.option(
    "--output", "-o", type=click.Path(file_okay=False, path_type=Path), default=Path("build/pair"), show_default=True,
    help="Folder of the report.",
)  # fmt: skip
@click.option(
    "--cache",
    type=_FOLDER,
    help="Folder that stores answers for a later run.  [default: $XDG_CACHE_HOME/dyndet/answers]",
)
@click.option("--no-cache", is_flag=True, help="Run all pictures, and store nothing.")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
    help="Seed of the router, the draws and the intervals.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    small: Path,
    large: Path,
    small_spec: Path | None,
    large_spec: Path | None,
    also_specs: tuple[Path, ...],
    latency: str | None,
    accuracy_targets: tuple[str, ...],
    output: Path,
    cache: Path | None,
    no_cache: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure whether routing between two ONNX detectors pays, before anything is deployed.

    SMALL answers every picture, LARGE the hard ones. The report says what to use. It shows accuracy over mean latency
    for the cascade, for each detector alone, and for other ways to choose the hard pictures. No server is needed.
    Answers are stored: an interrupted run continues, and a repeated one is fast.

    If a target is out of reach, everything is written and the exit status is 3. If LARGE gains nothing, it is 9.

    \b
    Examples:
      dyndet pair yolo11n.onnx yolo11x.onnx --data val --also yolo11m.onnx
      dyndet pair small.onnx large.onnx --images photos --target-latency 12ms
      dyndet pair small.onnx large.onnx --data val --latency small=1.5ms,large=9ms
    """
    from dyndet_builder.pairing.pair import pair
    from dyndet_builder.pairing.payoff.promises import parse_accuracy
    from dyndet_builder.pairing.preparing import PairOptions
    from dyndet_builder.pairing.report.write import JSON_NAME, targets_of, write_report
    from dyndet_builder.pairing.timing import parse_latencies

    check_creatable(output)
    check_replaceable(output, JSON_NAME)
    wanted = PairOptions(
        specs=(small_spec, large_spec, *also_specs),
        latencies=None if latency is None else parse_latencies(latency),
        accuracy_targets=tuple(map(parse_accuracy, accuracy_targets)),
        cache=None if no_cache else cache or cache_folder("answers"),
        **options,
    )
    with step_bars() as show:
        report = pair(small, large, wanted, progress=show)
    files = write_report(report, output)
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print(report)
        click.echo(f"Wrote {', '.join(printable(file) for file in files)}.")
    missed = targets_of(report)
    if missed:
        raise TargetOutOfReachError(" ".join(missed).rstrip("."))
    if report.frontier.router.points[0].kept is None:
        raise NotUsableError(f"{report.large.name} gains nothing over {report.small.name}")


def _print(report: PairReport) -> None:
    from dyndet_builder.pairing.report.tables import detectors_table, kept_table, promises_table
    from dyndet_builder.pairing.report.write import answer_of, resizing_of, router_of, scores_of

    console = Console()
    for warning in report.warnings:
        console.print(f"Warning: {warning}", style="yellow")
    console.print(answer_of(report), style="bold")
    for remark in report.verdict.remarks:
        console.print(f"{remark[0].upper()}{remark[1:]}.")
    if report.promises:
        console.print(_shown(promises_table(report)))
    console.print(_shown(detectors_table(report)))
    console.print(_shown(kept_table(report)))
    console.print()
    for line in (*router_of(report), scores_of(report), *resizing_of(report)):
        console.print(f"- {line}")


def _shown(table: ReportTable) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False, title=f"\n{table.title}", title_justify="left")
    for column in table.columns:
        head = f"{column.name}\n{column.unit}" if column.unit else column.name
        shown.add_column(head, justify="right" if column.is_figure else "left")
    for row in table.rows:
        shown.add_row(*row.texts)
    return shown
