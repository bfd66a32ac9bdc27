"""`dyndet info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import Tensor, read_bundle
from dyndet_builder.cli.pair_bundle import show_pair
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dynamicdet.networks.info import NetworkInfo

_HARD_SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)
_TWICE = "2 FLOPs a MAC"  # papers of two-stage detectors call a MAC a FLOP


@click.command("info")
@click.argument("source", metavar="NAME|FILE|BUNDLE")
@click.option("--classes", "num_classes", type=click.IntRange(min=1), help="Classes of a named network.  [default: 80]")
@click.option("--input-size", type=click.IntRange(min=1), help="Side of the square input, pixels.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(source: str, num_classes: int | None, input_size: int | None, as_json: bool) -> None:
    """Show parameters, GFLOPs of both routes and the features that cross stages; or what a bundle holds.

    NAME is a dynamic network (dy-yolov7, dy-yolov7-x, dy-yolov7-w6, dy-yolov7-pico; of two stages: dy-faster-rcnn-r50,
    dy-mask-rcnn-swin-t, dy-mask-rcnn-pico) or a static one (yolov7-pico-s, yolov7-pico-m, yolov7-pico-l). FILE is a
    checkpoint. BUNDLE is the folder of a bundle: its stages, and of a pair also its detectors and its router.

    \b
    Examples:
      dyndet info dy-yolov7-w6
      dyndet info runs/pico.safetensors --json
      dyndet info build/bundle
    """
    from dynamicdet.networks.info import info

    if not source:
        raise click.UsageError("NAME, FILE or BUNDLE is empty")
    if Path(source).is_dir():
        if num_classes is not None or input_size is not None:
            raise click.UsageError("a bundle has its own classes and input size; leave out --classes and --input-size")
        _show_bundle(Path(source), as_json=as_json)
        return
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
    if result.static:
        console.print(f"{result.easy_gflops:.2f} GFLOPs ({_TWICE}); a static detector, without a router")
        return
    console.print(_gflops_table(result))
    console.print()
    console.print(_features_table(result))
    for stage in ("head1", "detector2"):
        console.print(f"backbone1 -> {stage}: {result.crossing_bytes(stage) / 1e6:.2f} MB per image")


def _show_bundle(folder: Path, *, as_json: bool) -> None:
    bundle = read_bundle(folder)
    if as_json:
        click.echo(bundle.model_dump_json(indent=2))
        return
    console = Console()
    if bundle.kind == "pair":
        show_pair(console, bundle)
    else:
        console.print(
            f"{printable(bundle.name)}: {printable(bundle.architecture)}, {bundle.fit}, {len(bundle.class_names)} "
            f"classes, {bundle.precision}",
            markup=False,
        )
    table = Table("stage", "reads", "gives", "opset", "MB", box=None, header_style="bold", pad_edge=False)
    for name, stage in bundle.stages.items():
        size = (folder / stage.file).stat().st_size / 1e6
        reads, gives = (", ".join(map(_tensor, tensors)) for tensors in (stage.inputs, stage.outputs))
        table.add_row(name, reads, gives, str(bundle.opset_of(name)), f"{size:.1f}")
    console.print(table)


def _tensor(tensor: Tensor) -> str:
    return f"{tensor.name} {'x'.join(map(str, tensor.shape))}"


def _gflops_table(result: NetworkInfo) -> Table:
    table = Table("hard images", f"GFLOPs ({_TWICE})", "GMACs", box=None, header_style="bold", pad_edge=False)
    notes = {0.0: "  (easy route)", 1.0: "  (hard route)"}
    for share in _HARD_SHARES:
        gflops = result.gflops_at(share)
        table.add_row(f"{share:.0%}", f"{gflops:.2f}", f"{gflops / 2:.2f}{notes.get(share, '')}")
    return table


def _features_table(result: NetworkInfo) -> Table:
    table = Table("feature", "C x H x W", "MB (float32)", "read by", box=None, header_style="bold", pad_edge=False)
    for feature in result.features:
        shape = " x ".join(map(str, feature.shape))
        table.add_row(feature.name, shape, f"{feature.bytes / 1e6:.2f}", ", ".join(feature.read_by))
    return table
