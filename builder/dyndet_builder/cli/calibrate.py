"""`dyndet calibrate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamicdet.files import cache_folder
from dyndet_bench.measuring.load import Load
from dyndet_builder.calibration.effort import FEWEST_IMAGES, Effort
from dyndet_builder.cli.measured import show_measured
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.targeting import (
    effort_options,
    follow_load_option,
    load_options,
    metrics_url_option,
    targets_option,
)
from dyndet_builder.quoting import command as command_line
from dyndet_builder.targets import Target
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_builder.calibration.calibrate import Calibration

_EFFORT = Effort()


@click.command("calibrate")
@targets_option
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of images like those that will be served; half calibrate, half verify.",
)
@click.option("--url", default="127.0.0.1:8001", show_default=True, help="gRPC address of the server.")
@metrics_url_option
@click.option("--model", help="Name of the served model.  [default: the detector of --repository, or else dyndet]")
@click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the served repository, if it is on this machine; the result goes there and takes effect at once.",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Also write the operating points to this file.")
@load_options
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed that splits the images into two halves."
)
@click.option(
    "--max-images",
    type=click.IntRange(FEWEST_IMAGES),
    default=_EFFORT.max_images,
    show_default=True,
    help="Images drawn from the folder.",
)
@click.option("--requests", type=click.IntRange(1), help="Requests per run.  [default: each held-out image once]")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=_EFFORT.verification_rounds,
    show_default=True,
    help="Rounds of the verification; noise adds a few more. Fewer than 3 also shorten the other steps.",
)
@effort_options
@click.option(
    "--measurements",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that stores rounds, so that an interrupted calibration can continue.  [default: "
    "~/.cache/dyndet/measurements]",
)
@follow_load_option
@click.option("--fresh", is_flag=True, help="Measure everything again.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    targets: tuple[Target, ...],
    images: Path,
    url: str,
    metrics_url: str | None,
    model: str | None,
    repository: Path | None,
    output: Path | None,
    load: Load,
    seed: int,
    max_images: int,
    requests: int | None,
    rounds: int,
    effort: Effort,
    measurements: Path | None,
    follow_load: bool | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Find the thresholds that meet latency targets on a running server, and verify them on held-out images.

    The command measures with perf_analyzer, on any Triton server that serves a dyndet detector. If you repeat an
    interrupted calibration within an hour, it continues where it stopped. Exit status 3: no threshold reaches a target;
    the message states the achievable range. It is also the status for a percentile that other images would miss. Exit
    status 7: noise or too few measurements hide the answer. Nothing is overwritten in these cases.

    \b
    Examples:
      dyndet calibrate --target-latency 12ms --images photos --repository build/models
      dyndet calibrate --target-latency 50% --images photos --url gpu-box:8001 -o operating_points.json
      dyndet calibrate --target-latency p95:15ms,p99:20ms --request-rate 40 --images photos
    """
    from dyndet_builder.calibration.calibrate import calibrate

    effort = replace(
        effort,
        max_images=max_images,
        requests_per_run=requests,
        range_rounds=min(rounds, _EFFORT.range_rounds),
        trial_rounds=min(rounds, _EFFORT.trial_rounds),
        verification_rounds=rounds,
    )
    with step_bars() as show:
        result = calibrate(
            url,
            metrics_url=metrics_url,
            images=images,
            targets=targets,
            model=model,
            repository=repository,
            output=output,
            load=load,
            seed=seed,
            effort=effort,
            measurements=measurements or cache_folder("measurements"),
            fresh=fresh,
            follow_load=follow_load,
            progress=show,
        )
    if as_json:
        click.echo(json.dumps(_record(result), indent=2))
        return
    console = Console()
    show_measured(console, result.points, result.evidence)
    if result.written:
        for path in result.written:
            console.print(f"Wrote {path}.", soft_wrap=True)
        if not result.in_force:
            console.print("Load the model again, or start the server anew: its clients read them when they connect.")
    else:
        console.print("Nothing was written; --repository or --output stores the result.")
    following = command_line(["dyndet", "detect", "PICTURE...", "--url", url, "--model", result.model])
    console.print(f"Next: {following}", markup=False, soft_wrap=True)


def _record(result: Calibration) -> dict[str, object]:
    return {
        "model": result.model,
        "url": result.url,
        "operating_points": {name: point.model_dump() for name, point in result.points.items()},
        "corrections": result.corrections,
        "evidence": result.evidence.model_dump(mode="json"),
        "written": [str(path) for path in result.written],
    }
