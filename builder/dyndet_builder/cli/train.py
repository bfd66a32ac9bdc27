"""`dyndet train`."""

from __future__ import annotations

import click

from dyndet_builder.cli.train_detectors import detectors
from dyndet_builder.cli.train_router import router


@click.group("train")
def command() -> None:
    """Train a dynamic detector: first both detectors together, then the router.

    DATA is a folder with images/ and annotations.json (COCO), such as `dyndet data cutpaste` builds, or a COCO JSON
    file with --images. It is checked before training begins; `dyndet data check DATA` only checks it.
    """


command.add_command(detectors)
command.add_command(router)
