"""`dyndet follow`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from dynamicdet.text import printable
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_builder.operating_points import OperatingPoint
    from dyndet_builder.repository.under_load import UnderLoad


@click.command("follow")
@click.argument("repository", type=click.Path(file_okay=False, path_type=Path))
@click.option("--model", help="Name of the detector, if REPOSITORY holds several.")
@click.option("--point", help="Operating point to change.  [default: the default one]")
@click.option("--on/--off", "enabled", default=None, help="Whether the threshold follows the load.")
@click.option("--promise", help="Latency to keep under load, such as p95:90ms.")
@click.option("--floor", type=float, help="Lowest threshold in force.  [default: that of the operating point]")
@click.option("--ceiling", type=float, help="Highest threshold in force; 1 lets all images be easy.  [default: 1]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    repository: Path,
    model: str | None,
    point: str | None,
    enabled: bool | None,
    promise: str | None,
    floor: float | None,
    ceiling: float | None,
    as_json: bool,
) -> None:
    """Show or change how the thresholds of a detector follow the load.

    A threshold that follows the load rises while a promised latency cannot be kept otherwise, so that fewer images need
    detector 2, and falls again afterwards. Without options, the command shows what is in force. A running server that
    reads REPOSITORY takes up a change at once.

    \b
    Examples:
      dyndet follow build/models
      dyndet follow build/models --off
      dyndet follow build/models --point 12ms --promise p95:90ms --ceiling 0.9
    """
    from dyndet_builder.repository.under_load import Changes, follow_load, read_under_load

    changes = Changes(enabled=enabled, promise=promise, floor=floor, ceiling=ceiling)
    if changes.any:
        found = follow_load(repository, changes, model=model, point=point)
    elif point is not None:
        raise click.UsageError("--point needs a change: --on, --off, --promise, --floor or --ceiling")
    else:
        found = read_under_load(repository, model=model)
    if as_json:
        click.echo(json.dumps(_record(found), indent=2))
        return
    Console().print(_table(found))
    if changes.any:
        click.echo(f"Wrote {printable(found.file)}; a running server that reads it takes it up at once.")


def _table(found: UnderLoad) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("operating point", "promise", "threshold", "ceiling", "follows"):
        table.add_column(head, justify="left" if head in ("operating point", "follows") else "right")
    for name, point in found.points.points.items():
        shown = f"{printable(name)} (default)" if name == found.points.default else printable(name)
        table.add_row(shown, *_row(point))
    return table


def _row(point: OperatingPoint) -> tuple[str, ...]:
    follow = point.follow_load
    if follow is None:
        return "none", f"{point.threshold:.4g}", "", "no"
    return follow.promise, f"{point.floor:.4g}", f"{follow.ceiling:.4g}", "yes" if follow.enabled else "no"


def _record(found: UnderLoad) -> dict[str, object]:
    return {
        "model": found.model,
        "default": found.points.default,
        "points": {
            name: {
                "threshold": point.threshold,
                "follow_load": None if point.follow_load is None else point.follow_load.model_dump(),
            }
            for name, point in found.points.points.items()
        },
    }
