"""`dyndet inspect`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.bundle.spec import DetectorSpec
from dyndet_builder.cli.detector_options import detector_options
from dyndet_builder.cli.inspect_probe import ProbeOptions, probe_options, run_probe, show_probe
from dyndet_builder.detectors.layers import Given, Question
from dyndet_builder.detectors.sources.recipes import RECIPE_HELP
from dyndet_builder.quoting import shell
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_builder.detectors.inspect import Inspection

_MOST_NAMES = 8


@click.command("inspect")
@click.argument("file", metavar="FILE.onnx", type=click.Path(path_type=Path))
@detector_options
@probe_options
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Write the description to this file, usually NAME.detector.yaml beside NAME.onnx.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: Path, given: Given, probing: ProbeOptions | None, output: Path | None, as_json: bool) -> None:
    """Show what is known about a detector in an ONNX file, from which source, and what is not.

    Options answer the open questions, and win over what was found. --probe tries the usual ways to prepare pictures.
    When all is known, -o writes a detector.yaml. Other commands find it if it is NAME.detector.yaml beside NAME.onnx.

    \b
    Examples:
      dyndet inspect yolo11n.onnx
      dyndet inspect rfdetr.onnx --recipe rf-detr --classes coco -o rfdetr.detector.yaml
      dyndet inspect yolox.onnx --classes coco --probe --images photos -o yolox.detector.yaml
    """
    from dyndet_builder.detectors.inspect import inspect, open_questions
    from dyndet_builder.detectors.spec_file import write_spec

    _check_ending("-o", output, (".yaml", ".yml"))
    _check_ending("--sheet", None if probing is None else probing.sheet, (".png",))
    found, probed = inspect(file, given=given), None
    if probing is not None:
        found, probed = run_probe(file, found, given=given, options=probing)
    if as_json:
        probe = {} if probed is None else {"probe": probed.as_json()}
        click.echo(json.dumps(_as_json(file, found) | probe, indent=2))
    else:
        _show(file, found)
        if probed is not None:
            show_probe(probed)
    if output is not None:
        if found.spec is None:
            raise InputError(f"{printable(output)} is not written: {open_questions(file, found.questions)}")
        write_spec(found.spec, output)
        if not as_json:
            click.echo(f"\nWrote {printable(output)}.")


def _check_ending(option: str, written: Path | None, endings: tuple[str, ...]) -> None:
    """Raise InputError for a file of another kind: a slip must not replace a detector, or a picture."""
    if written is not None and written.suffix.lower() not in endings:
        raise InputError(f"{option} writes a file that ends in {' or '.join(endings)}, not {printable(written)}")


def _as_json(file: Path, found: Inspection) -> dict[str, Any]:
    return {
        "file": str(file),
        "facts": json.loads(found.facts.as_json()),
        "spec": None if found.spec is None else found.spec.model_dump(mode="json"),
        "reasons": found.reasons,
        "questions": [asdict(one) for one in found.questions],
        "usual_recipe": found.usual_recipe,
        "findings": [asdict(one) for one in found.findings],
    }


def _show(file: Path, found: Inspection) -> None:
    from dyndet_builder.detectors.spec_file import ENDING

    console = Console()
    facts = found.facts
    weights = sum(facts.weights.values()) / 1e6
    console.print(
        Text.assemble(
            (str(file), "bold"),
            f": {weights:.2f} M weights, opset {facts.opset}",
            f", from {facts.producer}\n" if facts.producer else "\n",
        )
    )
    if found.draft is not None:
        console.print(_values(found.draft, {one.field for one in found.questions}))
    for title, lines in (
        ("Why", [Text(one) for one in found.reasons]),
        ("To know", [Text(one.text, "yellow" if one.is_warning else "") for one in found.findings]),
        ("Open questions", [_asked(one) for one in found.questions]),
    ):
        if lines:
            console.print(Text(f"\n{title}", "bold"))
            for line in lines:
                console.print(Text("- ").append_text(line))
    if found.usual_recipe is not None:
        usual = found.usual_recipe
        console.print(
            Text.assemble("- usual for such files: ", (f"--recipe {usual}", "bold"), f" ({RECIPE_HELP[usual]})")
        )
    console.print()
    if not found.questions:
        console.print("All that is needed is known.")
        return
    beside = file.with_name(file.stem + ENDING)
    console.print(
        f"Answer with these options, and write the answers down with `-o {shell(beside)}`. `--probe --images DIR` "
        "compares ways to prepare pictures. A ? marks what is only likely."
    )


def _asked(question: Question) -> Text:
    choices = f" {' or '.join(question.choices)}" if question.choices else ""
    likely = f" (likely: {question.likely})" if question.likely is not None else ""
    return Text.assemble(question.text, ": ", (f"{question.option}{choices}", "bold"), likely)


def _values(spec: DetectorSpec, asked: set[str]) -> Table:
    """What is known, and a question mark at what is only likely."""
    given, output = spec.input, spec.output
    mean, std = (", ".join(f"{one:g}" for one in values) for values in (given.mean, given.std))
    borders = f", {given.place}, borders {given.pad}" if given.resize == "letterbox" else ""
    rows = (
        ("input.name", "input", f"{given.name}, {given.dtype} {given.layout}, batch {given.batch}"),
        ("input.size", "size", f"{given.size[0]} x {given.size[1]} (height x width)"),
        ("input.colour", "colours", given.colour),
        ("input.scale", "pixels", f"divided by {given.divide_by:g}, mean {mean}, std {std}"),
        ("input.resize", "resizing", f"{given.resize}{borders}, filter {given.filter}"),
        ("output.family", "family", f"{output.family} ({', '.join(output.tensors.values())})"),
        ("output.unit", "boxes", f"{output.boxes}, {output.unit}"),
        ("output.activation", "scores", f"activation {output.activation}, background {output.background}"),
        ("class_names", "classes", _classes(spec)),
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    for field, name, value in rows:
        is_open = field in asked or (field == "output.activation" and "output.background" in asked)
        table.add_row(name, Text(f"{value}  ?" if is_open else value, "yellow" if is_open else ""))
    return table


def _classes(spec: DetectorSpec) -> str:
    names = spec.class_names
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{len(names)}: {', '.join(names[:_MOST_NAMES])}{more}"
