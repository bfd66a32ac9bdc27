"""What the commands that measure share: where measurements are stored, and what is said about missing ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from dynamicdet.errors import ServerError
from dynamicdet.files import cache_folder
from dyndet_bench.measuring.attempts import Missing
from dyndet_bench.measuring.journal import RESUMED_S, JournalFolder, Replayed
from dyndet_client.cli.terminal import Console

Command = Callable[..., Any]

_SHOWN = 5
"""missing measurements that are listed"""


def measurement_options(*, newest_s: float = RESUMED_S) -> Callable[[Command], Command]:
    """Add --measurements and --fresh; the command gets them as `journals`, and says on Ctrl-C where it continues.

    Measurements that are older than `newest_s` seconds are not used.
    """
    within = {24 * 3600.0: "a day", 3600.0: "an hour"}[newest_s]

    def add(command: Command) -> Command:
        @click.option(
            "--measurements",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder that stores each finished measurement, so that an interrupted command can continue within "
            f"{within}.  [default: ~/.cache/dyndet/measurements]",
        )
        @click.option("--fresh", is_flag=True, help="Measure everything again.")
        @functools.wraps(command)
        def with_journals(*, measurements: Path | None, fresh: bool, **options: Any) -> Any:
            folder = measurements or cache_folder("measurements")
            with continues_in(folder, fresh=fresh):
                return command(journals=JournalFolder(folder=folder, newest_s=newest_s, fresh=fresh), **options)

        return with_journals

    return add


@contextmanager
def continues_in(folder: Path, *, fresh: bool) -> Iterator[None]:
    """If Ctrl-C ends the work, say where the measurements are and what continues it."""
    try:
        yield
    except KeyboardInterrupt:
        same = "the same command without --fresh" if fresh else "the same command"
        click.echo(f"The finished measurements are in {folder}; {same} continues from them.", err=True)
        raise


def rounds_of(rounds: int, images: int) -> str:
    """How much was measured: `5 rounds of 40 images`."""
    return f"{rounds} round{'s' * (rounds != 1)} of {images} image{'s' * (images != 1)}"


def show_origin(console: Console, *, repeats: int, replayed: Replayed | None) -> None:
    """Say which measurements were repeated, and which an earlier run made."""
    from dyndet_bench.measuring.perf_run import repeats_text

    if repeats:
        console.print(repeats_text(repeats))
    if replayed is not None:
        console.print(str(replayed))


def check_complete(missing: Sequence[Missing], of: int, folder: Path) -> None:
    """Say on standard error what is missing, and why. Raises ServerError if anything is; `folder` has the others."""
    if not missing:
        return
    for one in missing[:_SHOWN]:
        click.echo(f"Missing: {one}", err=True)
    if len(missing) > _SHOWN:
        click.echo(f"Missing: {len(missing) - _SHOWN} more", err=True)
    are = "is" if len(missing) == 1 else "are"
    raise ServerError(
        f"{len(missing)} of {of} measurements {are} missing; the others are in {folder}, and the same command without "
        "--fresh measures only what is missing"
    )
