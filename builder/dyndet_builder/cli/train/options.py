"""What both commands of `dyndet train` read: their common options, and the data set."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import click

from dynamicdet.aliases import silent
from dynamicdet.datasets.dataset import CocoDataset, read_dataset
from dynamicdet.datasets.layout import Split
from dynamicdet.training.recipe import Accelerator
from dyndet_builder.cli.progress import step_bars

PATH = click.Path(path_type=Path)

cache_option = click.option("--cache", type=PATH, help="Folder that stores the decoded images for the next run.")
accelerator_option = click.option(
    "--accelerator", type=click.Choice(get_args(Accelerator)), default="auto", show_default=True
)
workers_option = click.option(
    "--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Processes that prepare batches."
)


def read_data(
    data: Path,
    size: int,
    images: Path | None,
    cache: Path | None,
    trust_pictures: bool,
    *,
    split: Split = "train",
    masks: bool = False,
    shown: bool = True,
) -> CocoDataset:
    """The data set, with masks if a detector learns them; its summary is printed."""
    with step_bars() if shown else nullcontext(silent) as show:
        read = read_dataset(
            data,
            size,
            images=images,
            cache=cache,
            split=split,
            trust_pictures=trust_pictures,
            masks=masks,
            progress=show,
        )
    if shown:
        for line in read.summary.sentences():
            click.echo(line)
    return read
