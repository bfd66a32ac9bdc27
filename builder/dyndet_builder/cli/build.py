"""`dyndet build`, which is also `dyndet-build`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynamicdet.networks.architectures import ARCHITECTURES
from dynamicdet.picture_files import ACCEPTED, MAX_FILE_BYTES
from dyndet_builder.build_options import BuildOptions
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import read_manifest
from dyndet_builder.cli.deploy_push import show_agreement
from dyndet_builder.cli.measured import show_measured, topology_sentence
from dyndet_builder.cli.pair_bundle import pair_lines
from dyndet_builder.cli.pair_options import pair_source_options, refuse_options_of_a_checkpoint
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.remote_options import Comparer, admin_header_option, compare_options, remote_server
from dyndet_builder.cli.targeting import (
    check_metrics_url,
    effort_options,
    follow_load_option,
    load_options,
    metrics_url_option,
    targets_option,
)
from dyndet_builder.defaults import DETECTIONS, PRECISIONS
from dyndet_builder.demo_assets import demo_checkpoint, demo_images
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.config import TOPOLOGIES
from dyndet_builder.repository.options import MOST_INSTANCES, MOST_THREADS, RenderOptions
from dyndet_builder.targets import Target
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_builder.build import BuildResult, PairFiles
    from dyndet_builder.server.remote import RemoteServer

_DEFAULTS = BuildOptions()


def _rendering_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what a repository is rendered with; the command gets it as one `rendering`."""
    defaults = _DEFAULTS.rendering

    @click.option("--backend", type=click.Choice(tuple(BACKENDS)), default=defaults.backend, show_default=True)
    @click.option(
        "--engines",
        type=click.Path(file_okay=False, path_type=Path),
        help="With --backend tensorrt: folder that `dyndet engines` or its script wrote.  [default: OUTPUT/engines, "
        "built here if TensorRT and a GPU are present]",
    )
    @click.option(
        "--gpu", "gpus", type=int, multiple=True, help="Run the stages on this GPU (repeatable).  [default: CPU]"
    )
    @click.option(
        "--instances",
        type=click.IntRange(1, MOST_INSTANCES),
        default=defaults.instances,
        show_default=True,
        help="Instances of each stage.",
    )
    @click.option(
        "--threads",
        type=click.IntRange(0, MOST_THREADS),
        default=defaults.threads,
        help="CPU threads of one instance.  [default: all]",
    )
    @click.option("--encoded", is_flag=True, help=f"Add the model NAME_encoded, which takes files ({ACCEPTED}).")
    @click.option(
        "--max-file-mb",
        type=click.IntRange(1, MAX_FILE_BYTES >> 20),
        default=defaults.max_file_mb,
        show_default=True,
        help="With --encoded: size of the largest image file that the model accepts, in MB.",
    )
    @follow_load_option
    @functools.wraps(command)
    def with_rendering(
        *,
        backend: str,
        engines: Path | None,
        gpus: tuple[int, ...],
        instances: int,
        threads: int,
        encoded: bool,
        max_file_mb: int,
        follow_load: bool | None,
        **options: Any,
    ) -> Any:
        rendering = RenderOptions(
            backend=backend,
            engines=engines,
            gpus=gpus,
            instances=instances,
            threads=threads,
            encoded=encoded,
            max_file_mb=max_file_mb,
            follow_load=follow_load,
        )
        return command(rendering=rendering, **options)

    return with_rendering


def _remote_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says which running server calibrates; the command gets it as one `remote`, None without --url."""

    @click.option(
        "--url",
        help="gRPC address of a running server that loads the models and is calibrated.  [default: one is started]",
    )
    @click.option(
        "--models",
        help="With --url: model folder of that server, as a path on this machine, s3:// or gs://.",
    )
    @metrics_url_option
    @admin_header_option(after="With --url: ")
    @functools.wraps(command)
    def with_remote(
        *, url: str | None, models: str | None, metrics_url: str | None, admin_header: str | None, **options: Any
    ) -> Any:
        return command(remote=_remote(url, models, metrics_url, admin_header), **options)

    return with_remote


@click.command("build")
@targets_option
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Published or own checkpoint.  [default: the demo's]"
)
@pair_source_options
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of images like those that will be served; half calibrate, half verify.  [default: the demo's; a pair "
    "needs its own]",
)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("build/dyndet"), show_default=True,
    help="Folder of the build; the repository to serve is OUTPUT/model_repository.",
)  # fmt: skip
@click.option("--name", default=_DEFAULTS.name, show_default=True, help="Name of the served model.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default=_DEFAULTS.precision, show_default=True,
    help="Precision of the weights of a checkpoint.",
)  # fmt: skip
@click.option("--architecture", type=click.Choice(tuple(ARCHITECTURES)), help="Architecture of a published checkpoint.")
@click.option(
    "--max-detections",
    type=int,
    help=f"Most detections per image.  [default: {DETECTIONS}, of a two-stage checkpoint as its architecture says]",
)
@click.option(
    "--topology",
    type=click.Choice(("auto", *TOPOLOGIES)),
    default=_DEFAULTS.topology,
    show_default=True,
    help="bls: the public model calls stage models; fused: it runs their graphs in its own process; auto: the "
    "faster of both, by measurement.",
)
@_rendering_options
@_remote_options
@compare_options
@load_options
@effort_options
@click.option("--fresh", is_flag=True, help="Repeat every step, even if its inputs are unchanged.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    targets: tuple[Target, ...],
    checkpoint: Path | None,
    pair: PairFiles | None,
    images: Path | None,
    output: Path,
    comparer: Comparer,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Build a model repository that meets a latency target: export, render, serve, calibrate and verify.

    The detector is a checkpoint, or a pair: two ONNX files of any detectors, a small and a large one (see `dyndet pair`
    and `dyndet inspect`).

    The latency is measured on the embedded server of this machine. With --url and --models, it is measured on a running
    server in explicit model-control mode: the build is calibrated beside the one that the server is running, then the
    server switches to it without losing a request (see `dyndet deploy push`). A finished step is reused if its inputs
    are unchanged. Exit status 3: no threshold reaches a target. Exit status 7: noise hides whether one does. Exit
    status 8: the new build does not agree with the running one.

    \b
    Examples:
      dyndet-build --target-latency 12ms
      dyndet-build --target-latency 10ms,12ms,p95:15ms
      dyndet-build --target-latency 50% --checkpoint dy-yolov7.pt --images photos -o build/street
      dyndet-build --target-latency 12ms --small yolo11n.onnx --large yolo11x.onnx --images photos --data val
      dyndet-build --target-latency 12ms --url gpu-host:8001 --models /mnt/models --backend tensorrt --gpu 0
    """
    from dyndet_builder.build import build

    options = BuildOptions(before_switch=comparer, **chosen)
    if comparer.compares and options.remote is None:
        raise click.UsageError("--compare needs --url: it compares with the build that a server is running")
    source = _source(checkpoint, pair, images)
    console = Console()
    try:
        with step_bars() as show:
            result = build(
                source,
                output,
                images=demo_images() if images is None else images,
                targets=targets,
                options=options,
                progress=show,
            )
    finally:
        if comparer.agreement is not None and not as_json:
            show_agreement(console, comparer.agreement)
    if as_json:
        compared = None if comparer.agreement is None else comparer.agreement.as_json()
        click.echo(json.dumps(as_record(result) | {"comparison": compared}, indent=2))
        return
    if result.reused:
        console.print(f"Reused because unchanged: {', '.join(result.reused)}.")
    if pair is not None:
        for line in pair_lines(read_manifest(result.bundle / BUNDLE_FILE)):
            console.print(line, markup=False)
    console.print(topology_sentence(result.topology, result.chosen_by))
    show_measured(console, result.points, result.evidence)
    url = "127.0.0.1:8001"
    if options.remote is None:
        console.print(f"The repository is {result.repository}. Next:", soft_wrap=True)
        console.print(f"  dyndet serve {result.repository} --grpc-port 8001", soft_wrap=True)
    else:
        url = options.remote.url
        console.print(f"The repository is {result.repository}; {url} serves it. Next:", soft_wrap=True)
    console.print(f"  dyndet detect PICTURE... --url {url} --model {result.model}", soft_wrap=True)


def _source(checkpoint: Path | None, pair: PairFiles | None, images: Path | None) -> Path | PairFiles:
    if pair is None:
        return demo_checkpoint() if checkpoint is None else checkpoint
    if checkpoint is not None:
        raise click.UsageError("give either --checkpoint, or two detectors with --small and --large")
    refuse_options_of_a_checkpoint("precision", "architecture")
    if images is None:
        raise click.UsageError("--small and --large need --images: a folder of pictures like those to be served")
    return pair


def _remote(
    url: str | None, models: str | None, metrics_url: str | None, admin_header: str | None
) -> RemoteServer | None:
    check_metrics_url(metrics_url, url)
    if (url is None) != (models is None):
        raise click.UsageError("--url and --models belong together: give the server and its model folder")
    if url is None or models is None:
        if admin_header is not None:
            raise click.UsageError("--admin-header needs --url: it is for a running server")
        return None
    return remote_server(url=url, models=models, metrics_url=metrics_url, admin_header=admin_header)


def as_record(result: BuildResult) -> dict[str, object]:
    """The result as JSON takes it."""
    return {
        "bundle": str(result.bundle),
        "repository": str(result.repository),
        "model": result.model,
        "reused": list(result.reused),
        "topology": {"name": result.topology, "chosen_by": result.chosen_by},
        "operating_points": {name: point.model_dump() for name, point in result.points.items()},
        "evidence": result.evidence.model_dump(mode="json"),
    }
