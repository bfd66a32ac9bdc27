"""`dyndet evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.table import Table

from dynamicdet.errors import NotUsableError
from dynamicdet.files import cache_folder
from dynamicdet.networks.architectures import ARCHITECTURES
from dyndet_builder.cli.data_options import images_option, trust_option
from dyndet_builder.cli.progress import step_bars
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dynamicdet.evaluation.points import RoutePrecision
    from dyndet_builder.evaluation.evaluate import EvaluationReport
    from dyndet_builder.evaluation.static import StaticReport


@click.command("evaluate")
@click.argument("source", type=click.Path(path_type=Path), required=False)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder with images/ and annotations.json, a Roboflow export (its valid/ or test/), or a COCO JSON file.",
)
@images_option
@trust_option
@click.option("--url", help="gRPC address of a server, instead of SOURCE.")
@click.option("--model", default="dyndet", show_default=True, help="Name of the served model.")
@click.option(
    "--architecture",
    type=click.Choice(tuple(ARCHITECTURES)),
    help="Architecture of a published checkpoint; other files contain it.",
)
@click.option(
    "--hard-share",
    "hard_shares",
    type=float,
    multiple=True,
    help="Share of hard images, 0 to 1 (repeatable).  [default: 0, 0.1, 0.2, 0.5, 0.9, 1]",
)
@click.option(
    "--threshold", "thresholds", type=float, multiple=True, help="Threshold of the router, 0 to 1 (repeatable)."
)
@click.option(
    "--random-draws",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Draws that random routing is averaged over.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random draws.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Folder that stores detections for a later run.  [default: $XDG_CACHE_HOME/dyndet/detections]",
)
@click.option("--no-cache", is_flag=True, help="Run all images, and store nothing.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw AP over the hard share into this .png or .svg file."
)
@click.option(
    "--card", type=click.Path(path_type=Path), help="Write a model card with these results into this Markdown file."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    source: Path | None,
    data: Path,
    images: Path | None,
    trust_pictures: bool,
    url: str | None,
    model: str,
    architecture: str | None,
    hard_shares: tuple[float, ...],
    thresholds: tuple[float, ...],
    random_draws: int,
    seed: int,
    cache: Path | None,
    no_cache: bool,
    plot: Path | None,
    card: Path | None,
    as_json: bool,
) -> None:
    """Measure COCO average precision of both routes and of mixes of them.

    SOURCE is a checkpoint file or a bundle folder; --url and --model select a detector on a Triton server instead.
    Every image takes each route once, whatever the number of thresholds. The router is compared with random routing
    and, for checkpoints, with an oracle that knows both detectors' losses. If detector 2 gains nothing, or the router
    is not better than chance, the results are printed and the exit status is 9. A static checkpoint has one route and
    one average precision. A detector that gives masks is judged by boxes and by masks, if the data set has
    segmentations.

    \b
    Examples:
      dyndet evaluate build/pico.safetensors --data benchmarks/demo/val --plot ap.png
      dyndet evaluate build/bundle --data benchmarks/demo/val --hard-share 0.3 --threshold 0.47 --card CARD.md
      dyndet evaluate --url 127.0.0.1:8001 --model dyndet --data benchmarks/demo/val --json
    """
    from dynamicdet.networks.checkpoints import static_name
    from dyndet_builder.evaluation.evaluate import evaluate
    from dyndet_builder.evaluation.static import evaluate_static

    if source is not None and source.is_file() and static_name(source) is not None:
        _refuse_options_of_routes()
        with step_bars() as show:
            static = evaluate_static(source, data=data, images=images, trust_pictures=trust_pictures, progress=show)
        _print_static(static, as_json=as_json)
        return
    with step_bars() as show:
        report = evaluate(
            source,
            data=data,
            images=images,
            trust_pictures=trust_pictures,
            url=url,
            model=model,
            architecture=architecture,
            hard_shares=hard_shares,
            thresholds=thresholds,
            random_draws=random_draws,
            seed=seed,
            cache=None if no_cache else cache or cache_folder("detections"),
            plot=plot,
            card=card,
            progress=show,
        )
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print(report)
    shortcomings = report.evaluation.shortcomings()
    if shortcomings:
        raise NotUsableError("; ".join(shortcomings))


def _refuse_options_of_routes() -> None:
    """Raise UsageError if the command has an option that only makes sense for two routes."""
    context = click.get_current_context()
    names = ("url", "architecture", "hard_shares", "thresholds", "random_draws", "seed", "plot", "card")
    given = [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        option = next(one for one in context.command.params if one.name == given[0]).opts[0]
        raise click.UsageError(f"a static detector has one route, so {option} does not apply to it; leave it out")


def _print_static(report: StaticReport, *, as_json: bool) -> None:
    from dynamicdet.evaluation.evaluate import LEAST_AP

    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        result = report.evaluation
        console = Console(soft_wrap=True)
        console.print(f"{report.source} ({report.architecture}) on {report.data}, {result.images} images", markup=False)
        console.print(f"AP {result.precision.ap:.1f}, AP50 {result.precision.ap50:.1f}, {result.pass_s:.1f} s")
    if report.evaluation.precision.ap < LEAST_AP:
        raise NotUsableError(f"the detector finds next to nothing (AP {report.evaluation.precision.ap:.1f})")


def _print(report: EvaluationReport) -> None:
    console = Console()
    result = report.evaluation
    console.print(f"{report.source} on {report.data}, {result.images} images")
    for note in report.notes:
        console.print(note)
    if result.masks is None:
        _print_precision(console, "AP", result)
    else:
        _print_precision(console, "box AP", result)
        console.print()
        _print_precision(console, "mask AP", result.masks)
    spread = ", ".join(f"{level} {value:.3f}" for level, value in result.difficulty_quantiles.items())
    console.print(f"difficulty quantiles: {spread}")
    for remark in result.remarks():
        console.print(remark)
    console.print(_times(report))
    for path in (report.plot, report.card):
        if path is not None:
            console.print(f"Wrote {path}.", soft_wrap=True)


def _print_precision(console: Console, what: str, precision: RoutePrecision) -> None:
    """Of the boxes or of the masks."""
    console.print(f"{what} all easy {precision.easy.ap:.1f}, all hard {precision.hard.ap:.1f}\n")
    console.print(_table(precision))
    means = ", ".join(f"{name} {ap:.1f}" for name, ap in precision.mean_ap().items() if ap is not None)
    console.print(f"\nmean {what} over all hard shares: {means}")


def _table(result: RoutePrecision) -> Table:
    with_oracle = all(point.oracle is not None for point in result.points)
    choices = ("router", "random", *(("oracle",) if with_oracle else ()))
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = [f"{what}\n{one}" for what in ("AP", "gap") for one in choices]
    for name in ("hard\nimages", "threshold", "AP50\nrouter", *columns):
        table.add_column(name, justify="right")
    for point in result.points:
        precisions = [one for one in (point.precision, point.random, point.oracle) if one is not None]
        kept = [result.recovered(one) for one in precisions]
        table.add_row(
            f"{point.hard_share:.1%}",
            f"{point.threshold:.4f}",
            f"{point.precision.ap50:.1f}",
            *(f"{one.ap:.1f}" for one in precisions),
            *("-" if share is None else f"{share:.0%}" for share in kept),
        )
    table.caption = "gap: share of the gain from all easy to all hard"
    table.caption_justify = "left"
    return table


def _times(report: EvaluationReport) -> str:
    seconds = report.evaluation.seconds
    passes = f"both routes {seconds.passes:.1f} s"
    if report.from_cache:
        passes += " (in an earlier run, whose detections were stored)"
    if seconds.losses:
        passes += f", losses {seconds.losses:.1f} s"
    ratio = "" if seconds.ratio is None else f": together {seconds.ratio:.2f} x the routes alone"
    return f"{passes}, scoring {seconds.scoring:.1f} s for {seconds.thresholds} thresholds{ratio}"
