"""`dyndet compose`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamicdet.text import printable
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.defaults import COMPOSED_IMAGES
from dyndet_builder.demo_assets import demo_picture

if TYPE_CHECKING:
    from dyndet_builder.composing.model import Batch, Routes


@click.command("compose")
@click.argument("bundle", type=click.Path(file_okay=False, path_type=Path))
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The ONNX file.")
@click.option(
    "--batch",
    type=click.Choice(("one", "any")),
    default="one",
    show_default=True,
    help="one: one image at a time; any: a batch of any size, whose easy and hard images are gathered.",
)
@click.option(
    "--routes",
    type=click.Choice(("branches", "rows")),
    help="How a route is left out: branches: with an `If`; rows: its tensors have no rows.  [default: branches, for a "
    "bundle in half precision rows]",
)
@click.option("--threshold", type=float, help="In force where a call gives none.  [default: 0.5]")
@click.option(
    "--operating-points",
    type=click.Path(dir_okay=False, path_type=Path),
    help="operating_points.json of a calibration, which has the threshold.",
)
@click.option("--operating-point", help="Name of one in that file.  [default: its default]")
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of images to compare with the bundle.  [default: the demo's, or noise without them]",
)
@click.option(
    "--compared-images",
    type=click.IntRange(1),
    default=COMPOSED_IMAGES,
    show_default=True,
    help="Most images to compare.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    bundle: Path,
    output: Path,
    batch: Batch,
    routes: Routes | None,
    threshold: float | None,
    operating_points: Path | None,
    operating_point: str | None,
    images: Path | None,
    compared_images: int,
    as_json: bool,
) -> None:
    """Write a bundle as one ONNX file that routes itself, for programs without a server.

    Inputs are `image`, fitted as for the bundle, and `threshold`, which can be left out; outputs are those of a served
    detector with `difficulty` and `route`. Only the branch that an image takes is computed. ONNX Runtime must give the
    same bits as with the graphs of the bundle; otherwise nothing is written. On a GPU, choose branches also for half
    precision.

    \b
    Examples:
      dyndet compose build/bundle -o detector.onnx
      dyndet compose build/bundle -o detector.onnx --operating-points build/models/dyndet/1/operating_points.json
      dyndet compose build/bundle -o detector.onnx --batch any --threshold 0.4 --images photos
    """
    from dyndet_builder.composing.compose import compose

    if images is None and (picture := demo_picture()) is not None:
        images = picture.parent
    with step_bars() as show:
        result = compose(
            bundle,
            output,
            batch=batch,
            routes=routes,
            threshold=threshold,
            operating_points=operating_points,
            operating_point=operating_point,
            images=images,
            compared_images=compared_images,
            progress=show,
        )
    if as_json:
        click.echo(json.dumps(asdict(result), indent=2, default=str))
        return
    named = "" if result.operating_point is None else f" (operating point {result.operating_point})"
    takes = "one image at a time" if batch == "one" else "a batch of any size"
    click.echo(
        f"Wrote {printable(output)}: {result.size_bytes / 1e6:.1f} MB, {takes}, threshold {result.threshold:g}{named}; "
        f"bit-equal to the bundle on {result.compared_images} images"
    )
