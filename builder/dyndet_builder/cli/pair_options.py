"""Options of the commands that take two detectors: how each of them is described, and which classes are the same."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamicdet.files import cache_folder
from dyndet_builder.cli.data_options import trust_option

if TYPE_CHECKING:  # pydantic takes time to load, and most calls have no class map
    from dyndet_builder.pairing.classes import ClassPolicy

Command = Callable[..., Any]
_FILE = click.Path(dir_okay=False, path_type=Path)


def pair_options(command: Command) -> Command:
    """Add --small-spec, --large-spec, --classes and --class-map.

    The command gets `small_spec` and `large_spec`, paths or None, and one `classes`, a `ClassPolicy`.
    """

    @click.option(
        "--small-spec",
        type=_FILE,
        help="detector.yaml of the small detector.  [default: NAME.detector.yaml beside NAME.onnx, else what `dyndet "
        "inspect` finds]",
    )
    @click.option(
        "--large-spec",
        type=_FILE,
        help="detector.yaml of the large detector.  [default: NAME.detector.yaml beside NAME.onnx, else what `dyndet "
        "inspect` finds]",
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


def pair_source_options(command: Command) -> Command:
    """Add --small, --large, those of `pair_options`, --data, --trust-pictures and --latency, beside a checkpoint's.

    The command gets one `pair`, the `PairFiles`, or None if neither --small nor --large is given.
    """

    @click.option("--small", type=_FILE, help="ONNX file of the small detector of a pair, instead of a checkpoint.")
    @click.option("--large", type=_FILE, help="ONNX file of the large detector of a pair.")
    @click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="With --small and --large: COCO data set with labels, on which the router is fitted.  [default: --images, "
        "where the large detector's answers stand for labels]",
    )
    @click.option(
        "--latency",
        help="With --small and --large: latencies on the machine that will serve them, small=1.5ms,large=9ms, if the "
        "small detector is the slower one here.  [default: measured here]",
    )
    @trust_option
    @pair_options
    @functools.wraps(command)
    def with_source(*, small: Path | None, large: Path | None, **options: Any) -> Any:
        names = ("small_spec", "large_spec", "classes", "data", "trust_pictures", "latency")
        own = {name: options.pop(name) for name in names}
        if small is not None and large is not None:
            from dyndet_builder.pairing.export import PairFiles
            from dyndet_builder.pairing.timing import parse_latencies

            latency = own.pop("latency")
            own["latencies"] = None if latency is None else parse_latencies(latency)
            return command(pair=PairFiles(small=small, large=large, cache=cache_folder("answers"), **own), **options)
        if small is not None or large is not None:
            given, lacking = ("--small", "--large") if large is None else ("--large", "--small")
            raise click.UsageError(f"{given} needs {lacking}: a pair has two detectors")
        used = [name for name, value in own.items() if value not in (None, False, "same")]
        if used:
            raise click.UsageError(f"--{used[0].replace('_', '-')} needs --small and --large: it is for two detectors")
        return command(pair=None, **options)

    return with_source


def refuse_options_of_a_checkpoint(*names: str) -> None:
    """Raise UsageError if one of these options of the running command was given."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name.replace('_', '-')} is for a checkpoint; the files of --small and --large are used as they are"
            )


def _policy(classes: str | None, class_map: Path | None) -> ClassPolicy:
    from dyndet_builder.pairing.classes import read_class_map

    if class_map is None:
        return "shared" if classes == "shared" else "same"
    if classes is not None:
        raise click.UsageError("--classes and --class-map exclude each other: a class map names the classes itself")
    return read_class_map(class_map)
