"""`dyndet calibrate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from dyndet_builder.calibrate import CalibrationResult, Effort, calibrate
from dyndet_builder.cli.measured import measured_table
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.targets import Target, TargetParameter

_EFFORT = Effort()


@click.command("calibrate")
@click.option(
    "--target-latency",
    "target",
    type=TargetParameter(),
    required=True,
    help="Mean latency to keep: 12ms, 0.012s, or a share of the way from all-easy to all-hard: 50%.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of real pictures like those that will be served; half calibrate, half verify.",
)
@click.option("--url", default="127.0.0.1:8001", show_default=True, help="gRPC address of the server.")
@click.option("--model", default="dyndet", show_default=True, help="Name of the served model.")
@click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    help="The served repository, where it lies on this machine: the result goes in, and takes effect at once.",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write operating_points.json to this file, too.")
@click.option("--concurrency", type=int, default=1, show_default=True, help="Requests in flight while measuring.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draw that halves the images.")
@click.option(
    "--max-images", type=int, default=_EFFORT.max_images, show_default=True, help="Pictures drawn from the folder."
)
@click.option("--requests", type=int, help="Requests of one run.  [default: each held-out image once]")
@click.option(
    "--rounds",
    type=int,
    default=_EFFORT.verification_rounds,
    show_default=True,
    help="Rounds of the verification; noise adds a few more. Fewer than 3 make the other steps shorter, too.",
)
@click.option(
    "--tolerance",
    type=float,
    default=_EFFORT.tolerance,
    show_default=True,
    help="Largest accepted relative difference between measured and target latency.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    target: Target,
    images: Path,
    url: str,
    model: str,
    repository: Path | None,
    output: Path | None,
    concurrency: int,
    seed: int,
    max_images: int,
    requests: int | None,
    rounds: int,
    tolerance: float,
    as_json: bool,
) -> None:
    """Find the threshold that keeps a latency target on a running server, and prove it on held-out images.

    Measures with perf_analyzer, on any Triton server that serves a dyndet detector. Exit status 3: no threshold reaches
    the target; the message states the reachable range, and nothing is overwritten.

    \b
    Examples:
      dyndet calibrate --target-latency 12ms --images photos --repository build/models
      dyndet calibrate --target-latency 50% --images photos --url gpu-box:8001 -o operating_points.json
    """
    effort = replace(
        _EFFORT,
        max_images=max_images,
        requests_per_run=requests,
        range_rounds=min(rounds, _EFFORT.range_rounds),
        trial_rounds=min(rounds, _EFFORT.trial_rounds),
        verification_rounds=rounds,
        tolerance=tolerance,
    )
    with step_bars() as show:
        result = calibrate(
            url,
            images=images,
            target=target,
            model=model,
            repository=repository,
            output=output,
            concurrency=concurrency,
            seed=seed,
            effort=effort,
            progress=show,
        )
    if as_json:
        click.echo(json.dumps(_record(result), indent=2))
        return
    console = Console(highlight=False)
    console.print(measured_table(result.point, result.evidence))
    if result.written:
        for path in result.written:
            console.print(f"Wrote {path}.", soft_wrap=True)
    else:
        console.print("Nothing was written; --repository or --output keeps the result.")
    console.print(f"Next: dyndet detect PICTURE... --url {url} --model {model}", soft_wrap=True)


def _record(result: CalibrationResult) -> dict[str, object]:
    return {
        "model": result.model,
        "url": result.url,
        "name": result.name,
        "operating_point": result.point.model_dump(),
        "predicted_easy_share": result.predicted_easy_share,
        "latency_uncertainty": result.latency_uncertainty,
        "corrections": result.corrections,
        "evidence": result.evidence.model_dump(mode="json"),
        "written": [str(path) for path in result.written],
    }
