"""Options of the commands that take two detectors: how each of them is described, and which classes are the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # pydantic takes time to load, and most calls have no class map
    from dyndet_builder.pairing.classes import ClassPolicy

Command = Callable[..., Any]
_FILE = click.Path(dir_okay=False, path_type=Path)


def pair_options(command: Command) -> Command:
    """Add --small-spec, --large-spec, --classes and --class-map.

    The command gets `small_spec` and `large_spec`, paths or None, and one `classes`, a `ClassPolicy`.
    """

    @click.option(
        "--small-spec", type=_FILE, help="detector.yaml of the small detector.  [default: what `dyndet inspect` finds]"
    )
    @click.option(
        "--large-spec", type=_FILE, help="detector.yaml of the large detector.  [default: what `dyndet inspect` finds]"
    )
    @click.option(
        "--classes",
        type=click.Choice(("same", "shared")),
        help="same: refuse detectors with different classes; shared: use the classes that both have.  [default: same]",
    )
    @click.option(
        "--class-map",
        type=_FILE,
        help="YAML or JSON file of public class names with the names in each detector, `vehicle: {small: [car, truck], "
        "large: vehicle}`.",
    )
    @functools.wraps(command)
    def with_pair(*, classes: str | None, class_map: Path | None, **options: Any) -> Any:
        return command(classes=_policy(classes, class_map), **options)

    return with_pair


def _policy(classes: str | None, class_map: Path | None) -> ClassPolicy:
    from dyndet_builder.pairing.classes import read_class_map

    if class_map is None:
        return "shared" if classes == "shared" else "same"
    if classes is not None:
        raise click.UsageError("--classes and --class-map exclude each other: a class map names the classes itself")
    return read_class_map(class_map)
