"""`dyndet train`."""

from __future__ import annotations

import click

from dyndet_builder.cli.train import detectors, router


@click.group("train")
def command() -> None:
    """Train a dynamic detector: first both detectors together, then the router.

    DATA is a folder with images/ and annotations.json (COCO), such as `dyndet data cutpaste` builds, or a COCO JSON
    file with --images. It is checked before training begins; `dyndet data check DATA` only checks it.
    """


for _one in (detectors, router):
    command.add_command(_one.command)
