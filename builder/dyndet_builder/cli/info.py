"""`dyndet info`."""

from __future__ import annotations

import json

import click
from rich.table import Table
from rich.text import Text

from dynamicdet.networks.info import NetworkInfo, info
from dyndet_client.cli.terminal import Console

_HARD_SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)


@click.command("info")
@click.argument("source", metavar="NAME|FILE")
@click.option("--classes", "num_classes", type=click.IntRange(min=1), help="Classes of a named network.  [default: 80]")
@click.option("--input-size", type=click.IntRange(min=1), help="Side of the square input, pixels.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(source: str, num_classes: int | None, input_size: int | None, as_json: bool) -> None:
    """Show parameters, GFLOPs of both routes and the features that cross stages.

    NAME is a network (dy-yolov7, dy-yolov7-x, dy-yolov7-w6, dy-yolov7-pico). FILE is a checkpoint.

    \b
    Examples:
      dyndet info dy-yolov7-w6
      dyndet info runs/pico.safetensors --json
    """
    result = info(source, num_classes=num_classes, input_size=input_size)
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=2))
        return
    console = Console()
    console.print(
        Text.assemble(
            (result.architecture, "bold"),
            f", {result.input_size} x {result.input_size}, {result.num_classes} classes: "
            f"{result.parameters / 1e6:.2f} M parameters ({result.deployed_parameters / 1e6:.2f} M deployed)\n",
        )
    )
    console.print(_gflops_table(result))
    console.print()
    console.print(_features_table(result))
    for stage in ("head1", "detector2"):
        console.print(f"backbone1 -> {stage}: {result.crossing_bytes(stage) / 1e6:.2f} MB per image")


def _gflops_table(result: NetworkInfo) -> Table:
    table = Table("hard images", "GFLOPs", box=None, header_style="bold", pad_edge=False)
    notes = {0.0: "  (easy route)", 1.0: "  (hard route)"}
    for share in _HARD_SHARES:
        table.add_row(f"{share:.0%}", f"{result.gflops_at(share):.2f}{notes.get(share, '')}")
    return table


def _features_table(result: NetworkInfo) -> Table:
    table = Table("feature", "C x H x W", "MB (float32)", "read by", box=None, header_style="bold", pad_edge=False)
    for feature in result.features:
        shape = " x ".join(map(str, feature.shape))
        table.add_row(feature.name, shape, f"{feature.bytes / 1e6:.2f}", ", ".join(feature.read_by))
    return table
