"""Options of the commands that name a release of NVIDIA's Triton image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dyndet_builder.pins import CURRENT, RELEASES, Release, find_release

_Command = TypeVar("_Command", bound=Callable[..., Any])


def release_options(*, of: str) -> Callable[[_Command], _Command]:
    """Add `--triton-version` and `--allow-known-holes`; `of` says which image they are about."""

    def add(command: _Command) -> _Command:
        version = click.option(
            "--triton-version",
            metavar="YY.MM",
            help=f"Triton release of {of}: {', '.join(RELEASES)}.  [default: {CURRENT.name}]",
        )
        consent = click.option(
            "--allow-known-holes", is_flag=True, help="Accept a Triton release with published vulnerabilities."
        )
        return version(consent(command))

    return add


def release_given(name: str | None, *, allow_known_holes: bool) -> Release:
    """The release of the options; prints a warning about its known holes. Raises InputError as `find_release` does."""
    release = find_release(name, allow_known_holes=allow_known_holes)
    if release.warning is not None:
        click.echo(f"Warning: {release.warning}.", err=True)
    return release
