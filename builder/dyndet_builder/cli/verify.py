"""`dyndet verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamicdet.errors import NotUsableError
from dynamicdet.text import printable
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.targeting import Numbers, check_metrics_url, metrics_url_option
from dyndet_builder.demo_assets import demo_images

if TYPE_CHECKING:
    from dyndet_builder.verifying.record import VerifyRecord


@click.command("verify")
@click.argument("target", metavar="BUNDLE|REPOSITORY", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of real images.  [default: the demo's]")
@click.option("--model", help="Name of the detector, if the repository holds several.")
@click.option("--gpu", type=click.IntRange(0), help="Also run the stages on this GPU.  [default: only on the CPU]")
@click.option(
    "--engines",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of TensorRT engines to run on the GPU.  [default: those of the repository]",
)
@click.option(
    "--without",
    type=click.Choice(["CUDA", "TensorRT"]),
    multiple=True,
    help="Leave out a provider of ONNX Runtime (repeatable).",
)
@click.option("--url", help="gRPC address of a server that serves REPOSITORY.  [default: one is started]")
@metrics_url_option
@click.option("--no-serve", is_flag=True, help="Do not start a server.")
@click.option("--batches", type=Numbers(int), default=(1, 2, 4, 8), help="Batch sizes to time.  [default: 1,2,4,8]")
@click.option("--max-images", type=click.IntRange(1), default=36, show_default=True, help="Images to compare.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds of served measurements.")
@click.option("--repeats", type=click.IntRange(1), default=30, show_default=True, help="Runs of each stage timed.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for the report.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def command(
    target: Path,
    images: Path | None,
    model: str | None,
    gpu: int | None,
    engines: Path | None,
    without: tuple[str, ...],
    url: str | None,
    metrics_url: str | None,
    no_serve: bool,
    batches: tuple[int, ...],
    max_images: int,
    rounds: int,
    repeats: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Check a detector on this machine before traffic comes.

    The stages run in every way that this machine has: ONNX Runtime on the CPU, its CUDA and TensorRT providers, and
    TensorRT engines. Their answers are compared, and stages and routes are timed. Then the detector is served and
    measured. The report says what was found, what failed, and what could not be looked at. It is Markdown that can be
    pasted into an issue. Exit status 9: a check failed; the report is written all the same.

    \b
    Examples:
      dyndet verify build/demo/bundle -o build/verify
      dyndet verify build/demo/model_repository --gpu 0 -o build/verify
      dyndet verify build/demo/model_repository --url 127.0.0.1:8001
    """
    from dyndet_builder.verifying.report import as_markdown, write_report
    from dyndet_builder.verifying.verify import verify

    check_metrics_url(metrics_url, url)
    if no_serve and url is not None:
        raise click.UsageError("--no-serve and --url exclude each other")
    if engines is not None and gpu is None:
        raise click.UsageError("--engines needs --gpu, which says where they run")
    if output is not None:
        from dynamicdet.files import check_creatable

        check_creatable(output)
    with step_bars() as show:
        record = verify(
            target,
            images=demo_images() if images is None else images,
            model=model,
            gpu=gpu,
            engines=engines,
            without=without,
            url=url,
            metrics_url=metrics_url,
            serve=not no_serve,
            batches=batches,
            max_images=max_images,
            repeats=repeats,
            rounds=rounds,
            progress=show,
        )
    written = None if output is None else write_report(record, output)
    if as_json:
        click.echo(record.model_dump_json(indent=2))
    elif written is None:
        click.echo(as_markdown(record), nl=False)
    else:
        _print_short(record)
        click.echo(f"Wrote {printable(written)} and {printable(written.with_suffix('.json'))}.")
    if record.failed:
        raise NotUsableError(
            f"{len(record.failed)} of {len(record.checks)} checks failed: "
            + ", ".join(check.name for check in record.failed)
        )


def _print_short(record: VerifyRecord) -> None:
    for check in record.checks:
        click.echo(f"{'ok' if check.passed else 'FAILED':6}  {check.name}: {check.sentence}")
    for line in record.skipped:
        click.echo(f"-       {line}")
