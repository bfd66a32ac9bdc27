"""`dyndet demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from dynamicdet.pictures import pictures_in
from dyndet_builder.cli.measured import show_measured
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.targeting import TargetsParameter, accept_option
from dyndet_builder.demo_assets import demo_images
from dyndet_builder.targets import Target
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:  # it needs what the demo installs, and `--help` does not
    from dyndet_builder.demo_pictures import Showing, Side


@click.command("demo")
@click.option("--target-latency", "targets", type=TargetsParameter(), default="50%", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("build/demo"), show_default=True)
@accept_option
def command(targets: tuple[Target, ...], output: Path, accept_ill_conditioned: bool) -> None:
    """Build the demo model for a latency target, serve it, and show what it finds in six images.

    The images are chosen by their difficulty alone. A contact sheet shows each of them as detector 1 sees it, as both
    detectors see it, and with its labels.

    This needs a clone of the repository, which contains the demo's checkpoint and images.

    \b
    Example:
      dyndet demo --target-latency 30%
    """
    images = demo_images()  # first: where they are missing, no package helps
    from dyndet_builder.demo import SHEET_NAME, demo

    with step_bars() as show:
        result, showing = demo(output, targets=targets, progress=show, accept_ill_conditioned=accept_ill_conditioned)
    console = Console()
    console.print()
    show_measured(console, result.points, result.evidence)
    console.print()
    console.print(_pictures_table(showing))
    console.print(f"\nLook at these images, with both answers beside the truth: {output / SHEET_NAME}", soft_wrap=True)
    console.print(
        "\nNext steps:\n"
        "  source .venv/bin/activate\n"
        f"  dyndet try {result.repository}     # your own pictures, in a browser\n"
        f"  dyndet serve {result.repository} --grpc-port 8001     # in another terminal\n"
        f"  dyndet detect {_typed(pictures_in(images)[0])} --url 127.0.0.1:8001\n"
        "  dyndet-build --target-latency 30% -o build/faster     # fewer images go to detector 2\n"
        "  dyndet-build --help                                   # your own checkpoint and images",
        soft_wrap=True,
    )


def _typed(path: Path) -> Path:
    """The path as one types it in this folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _pictures_table(showing: Showing) -> Table:
    heads = ("image", "difficulty", "route", "detector 1", "both", "verdict")
    table = Table(*heads, box=None, header_style="bold", pad_edge=False)
    for shown in showing.shown:
        table.add_row(
            shown.picture.name,
            f"{shown.difficulty:.2f}",
            "hard" if shown.is_hard else "easy",
            _found(shown.easy),
            _found(shown.hard),
            shown.verdict,
        )
    return table


def _found(side: Side) -> str:
    return f"{side.matches.hits} of {side.matches.objects}"
