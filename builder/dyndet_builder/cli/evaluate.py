"""`dyndet evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from dynamicdet.checkpoints import load
from dynamicdet.dataset import read_dataset
from dynamicdet.evaluation import DEFAULT_HARD_SHARES, Evaluation, evaluate


@click.command("evaluate")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with images/, annotations.json.")
@click.option(
    "--hard-share",
    "hard_shares",
    type=click.FloatRange(0, 1),
    multiple=True,
    help="Share of images for detector 2; may be repeated.  [default: 0, 0.1, 0.2, 0.5, 0.9, 1]",
)
@click.option(
    "--random-draws", type=click.IntRange(min=1), default=5, show_default=True, help="To average chance over."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(checkpoint: Path, data: Path, hard_shares: tuple[float, ...], random_draws: int, as_json: bool) -> None:
    """Measure COCO average precision of both routes and of mixes of them.

    The router's choice of hard images is set beside as many images chosen at random.

    \b
    Example:
      dyndet evaluate build/pico.safetensors --data benchmarks/demo/val
      dyndet evaluate build/pico.safetensors --data benchmarks/demo/val --hard-share 0.3 --json
    """
    model = load(checkpoint)
    images = read_dataset(data, model.input_size)
    result = evaluate(model, images, hard_shares=hard_shares or DEFAULT_HARD_SHARES, random_draws=random_draws)
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
        return
    console = Console(highlight=False)
    console.print(f"{result.images} images; AP all easy {result.easy.ap:.1f}, all hard {result.hard.ap:.1f}\n")
    console.print(_table(result))
    spread = ", ".join(f"{level} {value:.3f}" for level, value in result.difficulty_quantiles.items())
    console.print(f"\ndifficulty quantiles: {spread}")


def _table(result: Evaluation) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("hard images", "threshold", "AP", "AP50", "AP random", "gain kept"):
        table.add_column(name, justify="right")
    for point in result.points:
        kept = result.recovered(point)
        table.add_row(
            f"{point.hard_share:.1%}",
            f"{point.threshold:.4f}",
            f"{point.precision.ap:.1f}",
            f"{point.precision.ap50:.1f}",
            f"{point.random.ap:.1f}",
            "-" if kept is None else f"{kept:.0%}",
        )
    return table
