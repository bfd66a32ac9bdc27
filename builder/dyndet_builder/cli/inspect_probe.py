"""`dyndet inspect --probe`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.bundle.spec import DetectorSpec
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.defaults import PROBE_PICTURES
from dyndet_builder.detectors.layers import Given
from dyndet_builder.detectors.probing.variants import FIELDS, OPTIONS, Field, is_way_of, settled
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_builder.detectors.inspect import Inspection
    from dyndet_builder.detectors.probe import Probe
    from dyndet_builder.detectors.probing.ranking import Ranking


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """What the options of a probe say."""

    images: Path | None
    data: Path | None
    other: Path | None
    pictures: int
    sheet: Path | None


def probe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a probe; it gets them as the argument `probing`, None without `--probe`."""

    @click.option(
        "--probe",
        "wanted",
        is_flag=True,
        help="Try the usual ways to prepare pictures, and rank them; needs --images or --data.",
    )
    @click.option("--images", type=click.Path(path_type=Path), help="Folder of pictures for the probe.")
    @click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="Labelled pictures, which are better evidence: a COCO data set, as for `dyndet pair`.",
    )
    @click.option(
        "--with",
        "other",
        metavar="OTHER.onnx",
        type=click.Path(path_type=Path),
        help="With --images: another detector, fully described, whose objects stand for labels.",
    )
    @click.option(
        "--pictures",
        type=click.IntRange(1, 5000),
        default=PROBE_PICTURES,
        show_default=True,
        help="Most pictures to try.",
    )
    @click.option(
        "--sheet",
        type=click.Path(path_type=Path),
        help="PNG that shows what each variant finds.  [default: NAME.probe.png beside FILE.onnx]",
    )
    @functools.wraps(function)
    def wrapped(*arguments: Any, wanted: bool, sheet: Path | None, **options: Any) -> Any:
        names = ("images", "data", "other", "pictures")
        said = {name: options.pop(name) for name in names}
        if not wanted and (sheet or any(said[name] for name in names[:3])):
            raise InputError("--images, --data, --with and --sheet belong to --probe; give that too")
        probing = ProbeOptions(sheet=sheet, **said) if wanted else None
        return function(*arguments, probing=probing, **options)

    return wrapped


def run_probe(file: Path, found: Inspection, *, given: Given, options: ProbeOptions) -> tuple[Inspection, Probe]:
    """Probe what is not known about the input, or all of it if everything is said to be known.

    The inspection comes back with what the probe made clear. What was known before stays; a probe that finds another
    way says so beside it. Raises InputError if too little is known for a trial.
    """
    from dyndet_builder.detectors.inspect import inspect, spec_for
    from dyndet_builder.detectors.probe import probe

    if found.draft is None:
        named = ", ".join(f"{one.field} ({one.option})" for one in found.questions)
        raise InputError(f"{printable(file)} cannot be probed before this is known: {named}")
    asked = {one.field for one in found.questions}
    if "class_names" in asked and (options.data is not None or options.other is not None):
        what = "labels" if options.data is not None else "the objects of another detector"
        raise InputError(f"{what} need the class names of {printable(file)}; give --classes")
    other = None if options.other is None else (options.other, spec_for(options.other))
    unknown: list[Field] = [field for field in FIELDS if f"input.{field}" in asked]
    with step_bars() as show:
        result = probe(
            file,
            found.draft,
            images=options.images,
            data=options.data,
            other=other,
            vary=unknown or FIELDS,
            pictures=options.pictures,
            sheet=options.sheet or file.with_name(f"{file.stem}.probe.png"),
            progress=show,
        )
    if not unknown:
        return found, replace(result, known=_beside(result.ranking, found.draft))
    sure = settled(result.ranking.close_variants, found.draft, unknown) if result.ranking.finds_something else {}
    said = replace(given.said, source="the options and the probe", **{**sure, **given.said.says})
    return inspect(file, given=replace(given, said=said)), result


def _beside(ranking: Ranking, spec: DetectorSpec) -> str:
    """What is known without the probe, and what the probe says about it; it must not win in silence."""
    own = next((row for row in ranking.rows if is_way_of(spec, row.variant)), None)
    if own is None or not ranking.finds_something:
        return "What is known without the probe stays as it is"
    said = f"Known without the probe (see Why): {own.variant.text}"
    if own.variant in ranking.close_variants:
        return f"{said}; the probe does not speak against it"
    best = ranking.rows[0].variant
    options = " and ".join(OPTIONS[field] for field in FIELDS if best.value_of(field) != own.variant.value_of(field))
    return (
        f"{said}; the probe finds more with {best.text}. What was known stays, so look at the contact sheet, and say "
        f"otherwise with {options}"
    )


def show_probe(found: Probe) -> None:
    """Print the ranked variants, and what they mean."""
    console = Console()
    console.print(Text(f"\nProbe of {found.ranking.pictures} pictures", "bold"))
    console.print(_table(found.ranking))
    for sentence in found.sentences:
        console.print(Text(f"- {sentence}."))
    if found.sheet is not None:
        console.print(f"Contact sheet: {found.sheet}", soft_wrap=True)


def _table(ranking: Ranking) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    measured = {"AP": "AP", "agreement": "agreement", "scores": "scores"}[ranking.measure]
    for name in ("colour", "pixels", "resizing"):
        table.add_column(name)
    extra = [] if ranking.measure == "scores" else ["scores"]
    if ranking.measure == "AP":
        extra = ["AP50", *extra, *(["agreement"] if ranking.rows[0].agreement is not None else [])]
    for name in (measured, *extra, "behind", "5 to 95 %", ""):
        table.add_column(name, justify="right")
    for row in ranking.rows:
        low, high = row.behind_range
        shown = {"AP50": row.ap50, "scores": row.score_sum, "agreement": row.agreement}
        is_best = row is ranking.rows[0]
        table.add_row(
            *(row.variant.value_of(field) for field in FIELDS),
            f"{row.value:.1f}",
            *(f"{shown[name]:.1f}" for name in extra),
            "" if is_best else f"{row.behind:.1f}",
            "" if is_best else f"{low:.1f} to {high:.1f}",
            "close" if not is_best and row.is_close else "",
            style="bold" if is_best else "",
        )
    return table
