"""`dyndet detect`: pictures and videos in, annotated ones or JSON lines out."""

from __future__ import annotations

import itertools
import json
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias, get_args

import click
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import DyndetError, InputError, MissingExtraError, ServerError
from dynamicdet.masks import pycocotools_mask
from dynamicdet.text import printable
from dyndet_client.cli.durations import read_duration
from dyndet_client.cli.headers import read_headers
from dyndet_client.cli.output import OutputFiles, Summary
from dyndet_client.cli.sources import Picture, Source, expected_count, find_sources, read_pictures
from dyndet_client.cli.steps import step_lines
from dyndet_client.cli.terminal import Bars, Console
from dyndet_client.codec import Options
from dyndet_client.detections import Detections
from dyndet_client.detector import Detector
from dyndet_client.errors import OverloadedError
from dyndet_client.session import NAME_ONE
from dyndet_client.settings import Tls, TransportChoice

BAD_PICTURES = 2
"""Exit status where at least one picture or video could not be read; the others were answered."""
REFUSED = ServerError.exit_code
"""Exit status where the overloaded server refused at least one picture or frame; the others were answered."""

_EXAMPLES = """
\b
Examples:
  dyndet detect street.jpg
  dyndet detect photos/ --recursive --url 127.0.0.1:8001 --output annotated
  dyndet detect clip.mp4 --every 5 --concurrency 8
  dyndet detect street.jpg --threshold 0.3 --json | jq .route
  dyndet detect photos/ --masks
  dyndet detect clip.mp4 --deadline 70ms --priority 5 --tenant camera-3

If a file cannot be read, the command names it on the error output, continues with the other files, and exits with
status 2. It does the same with status 6 for an image that an overloaded server refuses.
"""


@click.command(name="detect", epilog=_EXAMPLES)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option(
    "--url",
    "urls",
    multiple=True,
    default=("127.0.0.1:8001",),
    show_default=True,
    help="Address of the server: HOST:PORT, or grpc://, grpcs://, http:// or https:// with HOST[:PORT]. Give it again "
    "for each replica, or dns:///NAME:PORT for all that a name stands for.",
)
@click.option("--model", default="dyndet", show_default=True, help="Name of the served detector.")
@click.option("--threshold", type=float, help="Images with a larger difficulty (0 to 1) take the hard route.")
@click.option("--operating-point", metavar="NAME", help="Name of a calibrated threshold.")
@click.option("--min-score", type=float, default=0.25, show_default=True, help="Drop objects below this score.")
@click.option(
    "--masks",
    is_flag=True,
    help="Ask for a mask of each object, and draw it; JSON has it as COCO's run lengths. The model must have masks.",
)
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds to wait for each answer.")
@click.option(
    "--deadline",
    metavar="DURATION",
    help="How long after sending an answer is of use, such as 70ms. A server without that much time answers by the "
    "easy route, or refuses.  [default: the promise of the operating point, if it follows the load]",
)
@click.option(
    "--priority",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="0 to 9; of the requests that wait, the server takes up those with the highest first.",
)
@click.option("--tenant", metavar="NAME", help="For whom the requests are, where the server has budgets for tenants.")
@click.option("--concurrency", type=int, default=4, show_default=True, help="Requests in flight.")
@click.option("--recursive", is_flag=True, help="Also read subfolders.")
@click.option("--every", type=int, default=1, show_default=True, metavar="N", help="Use every N-th frame of a video.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder for annotated copies (NAME-detected.jpg, .mp4).  [default: detections; with --json, none]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image or frame instead of a table.")
@click.option(
    "--transport",
    type=click.Choice(get_args(TransportChoice)),
    default="auto",
    show_default=True,
    help="How images reach the server; auto: shared memory if the server is on this machine.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Header to send with every request; or @FILE with one header per line, so that `ps` does not show it.",
)
@click.option("--token", envvar="DYNDET_TOKEN", help="Bearer token; the variable DYNDET_TOKEN is safer.")
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path),
    metavar="PEM",
    help="Certificates of authorities that check a server with TLS.",
)
@click.pass_context
def command(
    context: click.Context,
    paths: tuple[Path, ...],
    urls: tuple[str, ...],
    model: str,
    threshold: float | None,
    operating_point: str | None,
    min_score: float,
    masks: bool,
    timeout: float,
    deadline: str | None,
    priority: int,
    tenant: str | None,
    concurrency: int,
    recursive: bool,
    every: int,
    output: Path | None,
    as_json: bool,
    transport: TransportChoice,
    headers: tuple[str, ...],
    token: str | None,
    ca_file: Path | None,
) -> None:
    """Detect objects in images, videos and folders through a running server, and save annotated copies."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such pictures get an error of ours
    folder = Path("detections") if output is None and not as_json else output
    with _printable_errors():
        # Everything that can be refused is refused before any work.
        use_s = None if deadline is None else read_duration("--deadline", deadline)
        Options(threshold=threshold, operating_point=operating_point, min_score=min_score)
        if masks and as_json:
            pycocotools_mask()
        sources = find_sources(paths, recursive=recursive, every=every)
        detector = Detector(
            urls,
            model,
            timeout=timeout,
            transport=transport,
            tls=None if ca_file is None else Tls(ca_file=ca_file),
            headers=read_headers(headers),
            token=token,
            deadline=use_s,
            priority=priority,
            tenant=tenant,
            masks=masks,
        )
        pictures = _Pictures(sources, every)
        answers = detector.detect_many(
            pictures,
            concurrency=concurrency,
            errors="return",
            threshold=threshold,
            operating_point=operating_point,
            min_score=min_score,
        )
        with detector:
            files = None if folder is None else OutputFiles(folder, [source.path for source in sources])
            summary = _run(pictures, answers, files, as_json=as_json)
        summary.print(pictures.console if as_json else Console(), with_answers=not as_json)
    if pictures.unreadable or summary.refused:
        context.exit(REFUSED if summary.refused else BAD_PICTURES)


_Answered: TypeAlias = Detections | InputError | OverloadedError


class _Pictures:
    """The pictures of all sources one by one; those drawn and not yet answered wait in line."""

    def __init__(self, sources: Sequence[Source], every: int) -> None:
        self.console = Console(stderr=True)
        self.waiting: deque[Picture] = deque()
        self.unreadable = 0
        self.expected = expected_count(sources, every)
        self._sources, self._every = sources, every

    def __iter__(self) -> Iterator[UInt8Array]:
        for source in self._sources:
            try:
                for picture in read_pictures(source, every=self._every):
                    self.waiting.append(picture)
                    yield picture.pixels
            except (InputError, MissingExtraError) as error:
                self.unreadable += 1
                self.console.print(f"Error: {printable(error)}", soft_wrap=True)


def _run(pictures: _Pictures, answers: Iterator[_Answered], files: OutputFiles | None, *, as_json: bool) -> Summary:
    summary = Summary(with_files=files is not None)
    with _progress(pictures) as step, ExitStack() as at_end:
        if files is not None:
            at_end.callback(files.discard)  # half a video, where this does not come to its end
        for found in answers:
            picture = pictures.waiting.popleft()
            if isinstance(found, InputError):
                raise found
            if isinstance(found, OverloadedError):
                if summary.refuse(picture):
                    pictures.console.print(f"Error: {printable(picture.source.path)}: {found}", soft_wrap=True)
                step()
                continue
            saved = None if files is None else files.save(picture, found)
            summary.add(picture, found, saved)
            if as_json:
                record = {**picture.record(), **found.to_dict()}
                click.echo(json.dumps(record if saved is None else {**record, "saved_as": str(saved)}))
            step()
        if files is not None:
            files.finish()
    return summary


@contextmanager
def _progress(pictures: _Pictures) -> Iterator[Callable[[], None]]:
    expected = pictures.expected or 0
    if not pictures.console.is_interactive and expected > 1:
        with step_lines(pictures.console, only_long=True) as say:
            answered = itertools.count(1)
            yield lambda: say("detecting", next(answered), expected)
        return
    if not pictures.console.is_interactive or expected == 1:
        yield lambda: None
        return
    columns = (TextColumn("detecting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=pictures.console, transient=True) as progress:
        task = progress.add_task("detecting", total=pictures.expected)
        yield lambda: progress.advance(task)


@contextmanager
def _printable_errors() -> Iterator[None]:
    """Names of files and what servers say may hold control characters; a terminal is not to obey them."""
    try:
        yield
    except DyndetError as error:
        error.args = (printable(str(error)).replace(NAME_ONE, "name one with --model"),)
        raise
