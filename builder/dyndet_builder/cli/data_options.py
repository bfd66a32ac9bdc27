"""Options of the commands that read a COCO data set."""

from __future__ import annotations

from pathlib import Path

import click

images_option = click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of the images.  [default: images/ beside the annotations, or where Roboflow and COCO have them]",
)
trust_option = click.option(
    "--trust-pictures",
    is_flag=True,
    help="Scale and turn the boxes of pictures that have another size than annotated.",
)
