"""`dyndet try`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from dynamicdet.errors import InputError
from dyndet_builder.trying.opening import DEFAULT_PORT, find_samples, load_web, open_page, subject_at
from dyndet_client.cli import detect
from dyndet_client.cli.headers import read_headers
from dyndet_client.settings import Tls

_DEMO = Path("build/demo/model_repository")
_OF_DETECT = {parameter.name: parameter for parameter in detect.command.params}
_CONNECTION = ("timeout", "headers", "token", "ca_file")
"""options of `dyndet detect` that say how a server is reached"""


@click.command("try")
@click.argument("repository", required=False, type=click.Path(path_type=Path))
@click.option(
    "--url",
    "urls",
    multiple=True,
    help="Use a running server instead: HOST:PORT, or grpc://, grpcs://, http:// or https:// with HOST[:PORT]. Give it "
    "again for each replica.",
)
@click.option(
    "--model", help="Name of the served detector.  [default: dyndet; of a REPOSITORY with one detector, that one]"
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of pictures to choose from.  [default: those of the demo, in a clone of the repository]",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="IPv4 address at which the page listens; 0.0.0.0 listens on every network.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help=f"Port of the page.  [default: {DEFAULT_PORT} if it is free, otherwise any free port]",
)
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
def command(
    repository: Path | None,
    urls: tuple[str, ...],
    model: str | None,
    images: Path | None,
    host: str,
    port: int | None,
    no_open: bool,
    timeout: float,
    headers: tuple[str, ...],
    token: str | None,
    ca_file: Path | None,
) -> None:
    """Open a page to try a detector with your own pictures or your camera.

    It shows the answers of both detectors side by side, and what a threshold makes of your pictures: which of them are
    hard, and how long they take. REPOSITORY is served with the embedded server while the page is open; without it, the
    detector of `dyndet demo` is. Ctrl-C ends both.

    \b
    Examples:
      dyndet try
      dyndet try build/models --images photos
      dyndet try --url 127.0.0.1:8001 --model dyndet
    """
    if urls and repository is not None:
        raise click.UsageError("REPOSITORY and --url exclude each other: the page is about one server")
    load_web()  # before a server starts
    samples = find_samples(images)
    with ExitStack() as stack:
        if urls:
            subject = subject_at(
                urls,
                model=model or "dyndet",
                samples=samples,
                timeout=timeout,
                tls=None if ca_file is None else Tls(ca_file=ca_file),
                headers=read_headers(headers),
                token=token,
            )
        else:
            from dyndet_builder.trying.serving import serving  # needs what a server needs

            folder = _demo() if repository is None else repository
            subject = stack.enter_context(serving(folder, model=model, samples=samples, say=_say))
        open_page(subject, host=host, port=port, opens_browser=not no_open, say=_say)
        click.echo("Stopping ...", err=True)
    click.echo("Stopped.", err=True)


command.params += [_OF_DETECT[name] for name in _CONNECTION]


def _demo() -> Path:
    if not _DEMO.is_dir():
        raise InputError(
            f"the demo's repository {_DEMO} is missing; run `dyndet demo` first, or name another one (`dyndet try "
            "REPOSITORY`) or a running server (`dyndet try --url HOST:PORT`)"
        )
    return _DEMO


def _say(sentence: str) -> None:
    click.echo(sentence, err=True)
