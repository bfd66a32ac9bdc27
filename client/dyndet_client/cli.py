"""`dyndet detect`: pictures in, annotated pictures or JSON lines out."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dynamicdet.errors import InputError
from dynamicdet.images import UInt8Array, read_image
from dyndet_client.codec import Options
from dyndet_client.detections import Detections
from dyndet_client.detector import Detector

BAD_PICTURES = 2
"""Exit status where at least one picture could not be read; the others were answered."""

_JPEG_LIMIT = 65_000  # longer sides do not fit into a JPEG

_EXAMPLES = """
\b
Examples:
  dyndet detect street.jpg
  dyndet detect photos/*.jpg --url 127.0.0.1:8001 --output annotated
  dyndet detect street.jpg --threshold 0.3 --json | jq .route

A picture that cannot be read is named on the error output and does not stop the others; the exit status is then 2.
"""


@click.command(name="detect", epilog=_EXAMPLES)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("--url", default="127.0.0.1:8001", show_default=True, help="The server's gRPC address.")
@click.option("--model", default="dyndet", show_default=True, help="Name of the served detector.")
@click.option("--threshold", type=float, help="Pictures more difficult than this (0 to 1) take the hard route.")
@click.option("--operating-point", metavar="NAME", help="Use the threshold that was calibrated under this name.")
@click.option("--min-score", type=float, default=0.25, show_default=True, help="Leave out objects below this score.")
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds to wait for each answer.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for the annotated pictures (NAME-detected.jpg)  [default: detections; with --json none].",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per picture instead of a table.")
@click.pass_context
def command(
    context: click.Context,
    images: tuple[Path, ...],
    url: str,
    model: str,
    threshold: float | None,
    operating_point: str | None,
    min_score: float,
    timeout: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Detect objects in pictures through a running server, draw them and save the annotated pictures."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such pictures get an error of ours
    folder = Path("detections") if output is None and not as_json else output
    Options(threshold=threshold, operating_point=operating_point, min_score=min_score)  # refused before any work
    table = _new_table(with_files=folder is not None)
    routes: Counter[str] = Counter()
    errors = Console(stderr=True)
    with Detector(url, model, timeout=timeout) as detector:
        files = None if folder is None else _OutputFiles(folder, images)
        for path in _with_progress(images, errors):
            try:
                pixels = read_image(path)
            except InputError as error:
                errors.print(f"Error: {error}", markup=False, highlight=False, soft_wrap=True)
                continue
            found = detector.detect(pixels, threshold=threshold, operating_point=operating_point, min_score=min_score)
            saved = None if files is None else files.save(path, found, pixels)
            routes[found.route] += 1
            if as_json:
                record = {"image": str(path), **found.to_dict()}
                click.echo(json.dumps(record if saved is None else {**record, "saved_as": str(saved)}))
            else:
                _add_row(table, path, found, saved)
    if not as_json and routes:
        console = Console()
        console.print(table)
        counted = ", ".join(f"{count} {route}" for route, count in sorted(routes.items()))
        pictures = "1 picture" if routes.total() == 1 else f"{routes.total()} pictures"
        console.print(f"{pictures} answered: {counted}", highlight=False)
    if routes.total() < len(images):
        context.exit(BAD_PICTURES)


class _OutputFiles:
    """Names and writes annotated pictures; never over a picture that was given, never half a file."""

    def __init__(self, folder: Path, inputs: Sequence[Path]) -> None:
        self._folder = folder
        self._taken = {_identity(path) for path in inputs}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(f"cannot write into the folder {folder}: {error.strerror or error}") from error

    def save(self, source: Path, found: Detections, pixels: UInt8Array) -> Path:
        picture = found.draw(pixels)
        kind = "JPEG" if max(picture.size) <= _JPEG_LIMIT else "PNG"
        target = self._free_name(source.stem, ".jpg" if kind == "JPEG" else ".png")
        try:
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    picture.save(file, kind, quality=92, subsampling=0)
                Path(name).chmod(0o644)
                Path(name).replace(target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise InputError(f"cannot write {target}: {error.strerror or error}") from error
        return target

    def _free_name(self, stem: str, suffix: str) -> Path:
        number = 1
        while True:
            target = self._folder / f"{stem}-detected{'' if number == 1 else f'-{number}'}{suffix}"
            if _identity(target) not in self._taken:
                self._taken.add(_identity(target))
                return target
            number += 1


def _identity(path: Path) -> str:
    return os.path.realpath(path)


def _with_progress(images: Sequence[Path], console: Console) -> Iterator[Path]:
    if len(images) < 2 or not console.is_terminal:
        yield from images
        return
    columns = (TextColumn("detecting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(images)


def _new_table(*, with_files: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("picture", "route", "difficulty", "objects", *(("saved as",) if with_files else ())):
        table.add_column(name, justify="right" if name == "difficulty" else "left", overflow="fold")
    return table


def _add_row(table: Table, path: Path, found: Detections, saved: Path | None) -> None:
    objects = _counted(found.names) or "none"
    cells = [str(path), found.route, f"{found.difficulty:.3f}", objects]
    table.add_row(*cells, *([] if saved is None else [str(saved)]))


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common())
