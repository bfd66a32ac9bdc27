"""`dyndet data`: builds data sets of real images, and checks any."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from dynamicdet.cores import usable_cores
from dynamicdet.datasets.check import CheckedData, check_data
from dynamicdet.datasets.cutpaste import Summary, build, check_output, download, locate
from dynamicdet.files import cache_folder
from dynamicdet.text import printable
from dyndet_builder.cli.data_options import images_option, trust_option
from dyndet_builder.cli.progress import step_bars
from dyndet_client.cli.terminal import Console


@click.group("data")
def command() -> None:
    """Build data sets of real images, and check any data set before training."""


@command.command("cutpaste")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--train-images", type=click.IntRange(min=0), default=8000, show_default=True, help="Training images.")
@click.option("--val-images", type=click.IntRange(min=0), default=500, show_default=True, help="Validation images.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed gives the same images."
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Folder for downloaded packages.  [default: ~/.cache/dyndet/debian]",
)
@click.option(
    "--sources", type=click.Path(path_type=Path), help="Folder with the unpacked packages; nothing is downloaded."
)
@click.option("--workers", type=click.IntRange(min=1), default=min(2, usable_cores()), help="Number of processes.")
@click.option("--overwrite", is_flag=True, help="Replace the data set in OUTPUT.")
def cutpaste(
    output: Path,
    train_images: int,
    val_images: int,
    seed: int,
    cache: Path | None,
    sources: Path | None,
    workers: int,
    overwrite: bool,
) -> None:
    """Paste cut-outs of objects on photographs.

    The result has COCO annotations with boxes and masks. The photographs come from Debian packages (about 320 MB).
    apt-get downloads them into a cache; nothing is installed. OUTPUT receives train/ and val/, each with images/ and
    annotations.json. The backgrounds of val/ and a quarter of its cut-outs are in no training image.

    \b
    Example:
      dyndet data cutpaste build/cutpaste
      dyndet data cutpaste build/small --train-images 500 --val-images 50 --seed 1
    """
    check_output(output, overwrite=overwrite)
    with step_bars() as show:
        roots = (sources,) if sources else download(cache or cache_folder("debian"), progress=show)
        summaries = build(
            output,
            locate(roots),
            train_images=train_images,
            val_images=val_images,
            seed=seed,
            workers=workers,
            overwrite=overwrite,
            progress=show,
        )
    Console().print(_table(summaries))


@command.command("check")
@click.argument("data", type=click.Path(path_type=Path))
@images_option
@click.option("--fast", is_flag=True, help="Read only the headers of the images; damage further on is not found.")
@trust_option
@click.option("--masks", is_flag=True, help="Check for a detector with masks: each object needs a sound segmentation.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(data: Path, images: Path | None, fast: bool, trust_pictures: bool, masks: bool, as_json: bool) -> None:
    """Check COCO annotations and all their images.

    Exit status 2 means that they cannot be used. DATA is a folder with images/ and annotations.json, a Roboflow export
    in COCO format, or a COCO JSON file. All splits of an export are checked. The table lists all faults, which are
    fatal, and what dyndet handles. Faults of masks are fatal only with --masks.

    \b
    Example:
      dyndet data check build/cutpaste/train
      dyndet data check coco/annotations/instances_val2017.json --images coco/val2017 --fast
    """
    with step_bars() as show:
        found = check_data(data, images, fast=fast, trust_pictures=trust_pictures, masks=masks, progress=show)
    errors = [one.error for one in found if one.error is not None]
    if as_json:
        click.echo(json.dumps({"usable": not errors, "data": [one.as_json() for one in found]}, indent=2))
    else:
        for one in found:
            _print(one, named=len(found) > 1)
    if errors:
        raise errors[0]


def _print(checked: CheckedData, *, named: bool) -> None:
    console = Console()
    if named:
        console.print(f"{printable(checked.place.annotations)}:")
    console.print(checked.summary.sentences()[0])
    if not checked.findings:
        return
    table = Table("", "count", "what", box=None, header_style="bold", pad_edge=False)
    table.add_column("first example")
    for one in checked.findings:
        kind = "fatal" if one.fatal else "handled"
        table.add_row(kind, f"{one.count:,}", one.what, Text("".join(one.examples[:1])))
    console.print(table)


def _table(summaries: tuple[Summary, ...]) -> Table:
    table = Table(header_style="bold")
    for head in ("split", "images", "easy", "hard", "objects", "MB", "folder"):
        table.add_column(head, justify="left" if head in ("split", "folder") else "right")
    for one in summaries:
        counts = (one.images, one.easy_images, one.images - one.easy_images, one.objects)
        table.add_row(one.split, *(str(count) for count in counts), f"{one.megabytes:.1f}", str(one.folder))
    return table
