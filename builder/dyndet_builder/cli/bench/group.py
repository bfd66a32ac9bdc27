"""`dyndet bench`."""

from __future__ import annotations

import click

from dyndet_builder.cli.bench import client, compare, frontier, load, masks, overhead, paper, plot, serving, sweep


@click.group("bench")
def command() -> None:
    """Measure a served detector."""


for _one in (sweep, plot, frontier, load, serving, client, masks, overhead, paper, compare):
    command.add_command(_one.command)
