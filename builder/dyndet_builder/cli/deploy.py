"""`dyndet deploy`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from dynamicdet.text import counted, printable
from dyndet_bench.sweep.record import FILE_NAME as SWEEP_FILE
from dyndet_bench.sweep.record import read_sweep
from dyndet_builder.cli.deploy_plan import plain_table, show_absorbing
from dyndet_builder.cli.deploy_push import push_command, rollback_command
from dyndet_builder.cli.releases import release_options
from dyndet_builder.defaults import MARGIN
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.deployment.plan_check import Check, check_against, typical_error
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_builder.deployment.plan import Plan

_DEFAULTS = DeployOptions()


@click.group("deploy")
def command() -> None:
    """Render the files of a deployment, plan its replicas, and push new builds to a running server."""


command.add_command(push_command)
command.add_command(rollback_command)


@command.command("render", short_help="Render the files of a deployment.")
@click.argument("repository", type=click.Path(file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--model", help="Name of the detector, if REPOSITORY holds several; the others are left out.")
@click.option("--name", help="Name of the Kubernetes objects and the compose service.  [default: the model's]")
@click.option("--base-image", help="Triton image to start from.  [default: NVIDIA's image of the release]")
@click.option("--image", help="Name of the new image.  [default: the name and the bundle's hash]")
@release_options(of="the base image")
@click.option(
    "--storage",
    default=_DEFAULTS.storage,
    show_default=True,
    help="Place of the models: image, pvc://CLAIM/PATH, s3://BUCKET/PATH, gs://BUCKET/PATH.",
)
@click.option(
    "--replicas", type=int, default=_DEFAULTS.replicas, show_default=True, help="Smallest number of replicas."
)
@click.option(
    "--max-replicas",
    type=int,
    default=_DEFAULTS.max_replicas,
    show_default=True,
    help="Largest number of replicas; equal to --replicas: no autoscaling.",
)
@click.option(
    "--queue-target-ms",
    type=float,
    help="Average queueing time above which replicas are added.  [default: half the calibrated mean latency]",
)
@click.option(
    "--hard-share-floor",
    type=float,
    help="Hard share below which replicas are added, if the threshold follows the load.  [default: the calibrated one]",
)
@click.option(
    "--gpu-resource",
    default=_DEFAULTS.gpu_resource,
    show_default=True,
    help="The cluster's name for a GPU or a share of one, such as nvidia.com/mig-1g.10gb.",
)
@click.option("--cpu", default=_DEFAULTS.cpu, show_default=True, help="Cores that a pod requests.")
@click.option("--memory", help="Memory of a pod, such as 8Gi.  [default: estimated]")
@click.option("--service-account", help="Service account of the pods, for access to a bucket.")
@click.option("--admin-secret", help="Secret with the key of the administrative endpoints.  [default: NAME-admin]")
@click.option(
    "--client-shm", "client_shared_memory", is_flag=True, help="Let clients on the same machine use shared memory."
)
@click.option(
    "--http-inference/--no-http-inference",
    default=_DEFAULTS.http_inference,
    show_default=True,
    help="Whether clients without the admin key get answers over HTTP; over gRPC they do.",
)
@click.option("--startup-s", type=int, help="Seconds to load the models.  [default: 180; 1200 if engines are built]")
@click.option(
    "--exit-timeout-s",
    type=int,
    default=_DEFAULTS.exit_timeout_s,
    show_default=True,
    help="Seconds that a stopping replica gives to requests in flight.",
)
@click.option("--promise", help="Latency that the alerts watch, such as p99:20ms.  [default: the calibrated promise]")
@click.option(
    "--trace-endpoint",
    metavar="URL",
    help="Send OpenTelemetry spans to this collector (OTLP/HTTP), such as http://otel-collector:4318/v1/traces.",
)
@click.option(
    "--trace-rate",
    type=int,
    default=_DEFAULTS.trace_rate,
    show_default=True,
    help="Also trace every n-th request whose caller traces nothing; 0: none of them.",
)
@click.option("--scrape-interval-s", type=int, default=_DEFAULTS.scrape_interval_s, show_default=True)
@click.option(
    "--metrics-target",
    "metrics_targets",
    multiple=True,
    help="HOST:PORT of a metrics port to scrape (repeatable).  [default: the compose service]",
)
def render_command(repository: Path, output: Path, model: str | None, **given: object) -> None:
    """Render Dockerfile, compose file, Kubernetes and KServe manifests, Prometheus rules and a Grafana dashboard.

    OUTPUT is written completely or not at all. A deployment that dyndet rendered there before is replaced. The limits
    of the alerts come from the repository's calibration: render again after a new calibration.

    \b
    Examples:
      dyndet deploy render build/models build/deploy
      dyndet deploy render build/models build/deploy --storage s3://models/street --service-account street
      dyndet deploy render build/models build/deploy --gpu-resource nvidia.com/mig-1g.10gb --max-replicas 12
    """
    from dyndet_builder.deployment.deploy import deploy

    result = deploy(repository, output, DeployOptions(**given), model=model)  # type: ignore[arg-type] # checked there
    readme = printable(result.folder / "README.md")
    click.echo(f"Rendered {printable(result.folder)}: {len(result.files)} files. Next: {readme}")
    for note in result.notes:
        click.echo(f"Note: {printable(note.replace('`', ''))}.")


@command.command("plan", short_help="Estimate the replicas for a latency promise.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--request-rate", type=float, required=True, help="Requests per second of all clients together.")
@click.option("--promise", required=True, help="Promised latency, such as p95:20ms or 12ms (the mean).")
@click.option("--model", help="Name of the detector, if SOURCE is a repository that holds several.")
@click.option(
    "--operating-point", help="Operating point whose share of hard images is used.  [default: the default one]"
)
@click.option("--hard-share", type=float, help="Share of hard images, 0 to 1, instead of that of an operating point.")
@click.option(
    "--margin",
    type=float,
    default=MARGIN,
    show_default=True,
    help="Distance to keep from the promise, as a share of it.",
)
@click.option("--ap-floor", type=float, help="AP, in percent, that replicas are to keep as the threshold rises.")
@click.option(
    "--hard-share-floor",
    type=float,
    help="The same as a share of hard images, 0 to 1, where AP is not known.  [default: that of the operating point]",
)
@click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    help="AP over the hard share: output of `dyndet evaluate --json`, or a sweep with AP.  [default: a sweep's own]",
)
@click.option(
    "--load-record",
    type=click.Path(path_type=Path),
    help="A record of `dyndet bench load` on one such server, to compare with the estimate.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def plan_command(
    source: Path,
    request_rate: float,
    promise: str,
    model: str | None,
    operating_point: str | None,
    hard_share: float | None,
    margin: float,
    ap_floor: float | None,
    hard_share_floor: float | None,
    evaluation: Path | None,
    load_record: Path | None,
    as_json: bool,
) -> None:
    """Estimate how many replicas a latency promise needs at a request rate.

    SOURCE is a calibrated model repository or a sweep. A sweep also shows how requests overlap, and how much the
    estimate differs from the measured values. The output states the assumptions.

    If the threshold follows the load, fewer replicas keep the promise, too, with fewer hard images. Then the output
    also has the replicas that refuse nothing, and those that keep the hard share or AP from falling below a floor.

    \b
    Examples:
      dyndet deploy plan build/models --request-rate 400 --promise p95:40ms
      dyndet deploy plan build/sweep --request-rate 400 --promise p95:40ms --hard-share 0.5
      dyndet deploy plan build/models --request-rate 400 --promise p95:90ms --hard-share-floor 0.1
      dyndet deploy plan build/models --request-rate 400 --promise p95:90ms --evaluation ap.json --ap-floor 45
    """
    from dyndet_bench.load.record import read_load_record
    from dyndet_builder.deployment.plan import plan
    from dyndet_builder.deployment.plan_accuracy import read_accuracies

    result = plan(
        source,
        request_rate=request_rate,
        promise=promise,
        model=model,
        operating_point=operating_point,
        hard_share=hard_share,
        margin=margin,
        hard_share_floor=hard_share_floor,
        ap_floor=ap_floor,
        accuracies=None if evaluation is None else read_accuracies(evaluation),
        measured=None if load_record is None else read_load_record(load_record),
    )
    sweep = source.is_file() or (source / SWEEP_FILE).is_file()
    checks = check_against(read_sweep(source)) if sweep else ()
    if as_json:
        found = asdict(result) | {"checks": [asdict(check) | {"error": check.error} for check in checks]}
        click.echo(json.dumps(found, indent=2))
        return
    console = Console()
    console.print(_plan_table(result))
    replicas = counted(result.replicas, "replica", "replicas")
    gpus = "" if not result.gpus else f", {counted(result.gpus, 'GPU', 'GPUs')}"
    keep = "keeps" if result.replicas == 1 else "keep"
    console.print(
        f"{replicas}{gpus} {keep} {result.promise} at {result.request_rate:g} requests/s with a margin "
        f"of {result.margin:.0%} ({result.limit_ms:.4g} ms), {result.hard_share:.0%} of the images hard"
    )
    if result.absorbing is not None:
        show_absorbing(console, result.absorbing, result.promise)
    if result.correction > 1:
        console.print(
            f"times are scaled by {result.correction:.2f}, the factor by which the sweep exceeded the estimate"
        )
    console.print(f"measured on {result.measured_on}\nassumptions:")
    for assumption in result.assumptions:
        console.print(f"- {assumption}")
    if checks:
        console.print(_check_table(checks))
        console.print(_check_summary(checks))


def _plan_table(result: Plan) -> Table:
    table = plain_table("replicas", "in use", "mean, ms", "p50", "p95", "p99", "")
    for row in result.rows:
        verdict = "too slow" if not row.holds else "<- enough" if row.replicas == result.replicas else "enough"
        times = (f"{value:.1f}" for value in (row.mean_ms, row.p50_ms, row.p95_ms, row.p99_ms))
        table.add_row(str(row.replicas), f"{row.utilisation:.0%}", *times, verdict)
    return table


def _check_table(checks: tuple[Check, ...]) -> Table:
    table = plain_table("the sweep", "mean, ms: measured, estimated", "p95, ms: measured, estimated")
    for cell in dict.fromkeys(check.cell for check in checks):
        known = {check.statistic: check for check in checks if check.cell == cell}
        figures = (known[name] for name in ("mean", "p95"))
        table.add_row(cell, *(f"{one.measured_ms:.1f}, {one.predicted_ms:.1f} {one.error:+4.0%}" for one in figures))
    return table


def _check_summary(checks: tuple[Check, ...]) -> str:
    parts = []
    for kind, wanted in (("request rates", True), ("closed loops", False)):
        some = [check for check in checks if check.open == wanted]
        if some:
            parts.append(f"{kind} {typical_error(some):.0%}")
    return f"median error of all means and percentiles: {', '.join(parts)}"
