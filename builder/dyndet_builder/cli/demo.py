"""`dyndet demo`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
from rich.table import Table

from dyndet_builder.cli.measured import show_measured
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.targeting import TargetsParameter, accept_option
from dyndet_builder.demo import Answer, demo
from dyndet_builder.targets import Target
from dyndet_client.cli.terminal import Console


@click.command("demo")
@click.option("--target-latency", "targets", type=TargetsParameter(), default="50%", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("build/demo"), show_default=True)
@accept_option
def command(targets: tuple[Target, ...], output: Path, accept_ill_conditioned: bool) -> None:
    """Build the demo model for a latency target, serve it, and detect objects in a few images.

    This needs a clone of the repository, which contains the demo's checkpoint and images.

    \b
    Example:
      dyndet demo --target-latency 30%
    """
    with step_bars() as show:
        result, answers = demo(output, targets=targets, progress=show, accept_ill_conditioned=accept_ill_conditioned)
    console = Console()
    console.print()
    console.print(_pictures_table(answers))
    console.print(f"Annotated images: {answers[0].saved.parent}\n", soft_wrap=True)
    show_measured(console, result.points, result.evidence)
    console.print(
        "\nNext steps:\n"
        "  source .venv/bin/activate\n"
        f"  dyndet serve {result.repository} --grpc-port 8001     # in another terminal\n"
        "  dyndet detect YOUR.jpg --url 127.0.0.1:8001\n"
        "  dyndet-build --target-latency 30% -o build/faster     # fewer images go to detector 2\n"
        "  dyndet-build --help                                   # your own checkpoint and images",
        soft_wrap=True,
    )


def _pictures_table(answers: list[Answer]) -> Table:
    table = Table("image", "route", "difficulty", "objects", box=None, header_style="bold", pad_edge=False)
    for answer in answers:
        found = answer.detections
        counted = ", ".join(f"{count} {name}" for name, count in Counter(found.names).items())
        table.add_row(answer.picture.name, found.route, f"{found.difficulty:.2f}", counted or "none")
    return table
