"""`dyndet render`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynamicdet.picture_files import ACCEPTED, MAX_FILE_BYTES
from dynamicdet.text import printable
from dyndet_bench.measuring.journal import JournalFolder
from dyndet_builder.cli.measurements import measurement_options
from dyndet_builder.cli.next_steps import serve_command
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.targeting import Numbers, follow_load_option
from dyndet_builder.defaults import REPLAYED_S, TOPOLOGY_ROUNDS
from dyndet_builder.demo_assets import demo_images, demo_picture
from dyndet_builder.quoting import command as command_line
from dyndet_builder.repository.backends import BACKENDS, accelerators
from dyndet_builder.repository.config import TOPOLOGIES
from dyndet_builder.repository.options import (
    GIVEN_UP,
    GRAPH_BACKEND,
    LONGEST_QUEUE_DELAY_US,
    MOST_IN_BATCH,
    MOST_INSTANCES,
    MOST_THREADS,
    MOST_WAITING,
    RenderOptions,
)

if TYPE_CHECKING:
    from dyndet_builder.calibration.topology import TopologyChoice

_DEFAULTS = RenderOptions()


@click.command("render")
@click.argument("bundle", type=click.Path(file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="Name of the served model.  [default: the bundle's]")
@click.option("--add", is_flag=True, help="Put the detector beside the other detectors of the repository OUTPUT.")
@click.option(
    "--backend",
    type=click.Choice(tuple(BACKENDS)),
    default=_DEFAULTS.backend,
    help=f"What runs the graphs.  [default: {_DEFAULTS.backend}; with --topology graph {GRAPH_BACKEND}]",
)
@click.option(
    "--accelerator",
    type=click.Choice(accelerators()),
    help="Provider for --backend onnxruntime on a GPU; tensorrt builds and caches engines at the first start.",
)
@click.option(
    "--engines",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --backend tensorrt: folder that `dyndet engines` wrote.",
)
@click.option(
    "--topology",
    type=click.Choice((*TOPOLOGIES, "auto")),
    default=_DEFAULTS.topology,
    show_default=True,
    help="bls: the public model calls stage models; fused: it runs their graphs in its own process; auto: the "
    "faster of both, measured here; graph: it is one ONNX file that routes itself, without Python.",
)
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of real images for the measurement of --topology auto.  [default: the demo's]",
)
@click.option(
    "--rounds", type=click.IntRange(1), help=f"Rounds that --topology auto measures.  [default: {TOPOLOGY_ROUNDS}]"
)
@click.option(
    "--instances",
    type=click.IntRange(1, MOST_INSTANCES),
    default=_DEFAULTS.instances,
    show_default=True,
    help="Instances of each stage.",
)
@click.option(
    "--bls-instances",
    type=click.IntRange(1, MOST_INSTANCES),
    default=_DEFAULTS.bls_instances,
    show_default=True,
    help="Instances of the public model, which routes.",
)
@click.option(
    "--threads",
    type=click.IntRange(0, MOST_THREADS),
    default=_DEFAULTS.threads,
    help="CPU threads of one stage instance.  [default: all]",
)
@click.option("--gpu", "gpus", type=int, multiple=True, help="Run the stages on this GPU (repeatable).  [default: CPU]")
@click.option(
    "--max-batch",
    type=click.IntRange(1, MOST_IN_BATCH),
    default=_DEFAULTS.max_batch,
    show_default=True,
    help="Most images per run.",
)
@click.option(
    "--preferred-batches", type=Numbers(int), default=(), help="Batch sizes that stages wait for, such as 4,8."
)
@click.option(
    "--queue-delay-us",
    type=click.IntRange(0, LONGEST_QUEUE_DELAY_US),
    default=_DEFAULTS.queue_delay_us,
    show_default=True,
    help="Microseconds that a stage waits for a preferred batch.",
)
@click.option(
    "--cuda-graphs",
    is_flag=True,
    help="Capture each stage as a CUDA graph for one image, each preferred batch and a full batch; only for TensorRT.",
)
@click.option(
    "--warmup-image",
    type=click.Path(path_type=Path),
    help="Image, or folder of images, that warms up the stages.  [default: one of the demo's, if present]",
)
@click.option("--no-warmup", is_flag=True, help="Do not warm up the stages while they load.")
@click.option(
    "--latency-buckets-ms",
    type=Numbers(float),
    default=_DEFAULTS.latency_buckets_ms,
    help="Upper bounds of the latency histogram's buckets.  [default: 1 to 500 ms]",
)
@click.option(
    "--threshold",
    type=float,
    default=_DEFAULTS.threshold,
    show_default=True,
    help="Initial threshold, before `dyndet calibrate`.",
)
@follow_load_option
@click.option(
    "--queue-size",
    type=click.IntRange(1, MOST_WAITING),
    default=_DEFAULTS.queue_size,
    show_default=True,
    help="Most requests that wait in an instance of the public model; it refuses more at once.",
)
@measurement_options(newest_s=REPLAYED_S)
@click.option("--encoded", is_flag=True, help=f"Add the model NAME_encoded, which takes files ({ACCEPTED}).")
@click.option(
    "--max-file-mb",
    type=click.IntRange(1, MAX_FILE_BYTES >> 20),
    default=_DEFAULTS.max_file_mb,
    show_default=True,
    help="With --encoded: size of the largest image file that the model accepts, in MB.",
)
def command(
    bundle: Path,
    output: Path,
    add: bool,
    topology: str,
    images: Path | None,
    rounds: int | None,
    warmup_image: Path | None,
    no_warmup: bool,
    gpus: tuple[int, ...],
    journals: JournalFolder,
    **given: object,
) -> None:
    """Render a bundle as a Triton model repository.

    OUTPUT is written completely or not at all. A detector of the same name that dyndet rendered there before is
    replaced. The new one is not calibrated, because latencies of another configuration say nothing about it. With
    --add, one repository holds several detectors; the others stay as they are.

    \b
    Examples:
      dyndet render build/bundle build/models
      dyndet render build/bundle build/models --topology auto --images photos
      dyndet render build/bundle build/models --instances 2 --threads 1 --preferred-batches 4,8 --queue-delay-us 500
      dyndet render build/bundle build/models --backend tensorrt --gpu 0 --engines build/engines
      dyndet render build/bundle build/models --backend onnxruntime --accelerator tensorrt --gpu 0
      dyndet render build/bundle build/models --backend openvino --threads 4
      dyndet render build/bundle build/models --encoded
      dyndet render build/bundle build/models --topology graph
      dyndet render build/other build/models --add --name other
    """
    from dyndet_builder.repository.render import check_destination, render

    if no_warmup and warmup_image is not None:
        raise click.UsageError("--warmup-image and --no-warmup exclude each other")
    image = None if no_warmup else warmup_image or demo_picture()
    auto = topology == "auto"
    if not auto and (images is not None or rounds is not None or journals.fresh):
        raise click.UsageError("--images, --rounds and --fresh need --topology auto, which measures")
    if topology == "graph":
        _refuse_for_graph()
        if not _was_given("backend"):
            given["backend"] = GRAPH_BACKEND
    if topology == "fused" and not given["encoded"] and _was_given("bls_instances"):
        raise click.UsageError("--bls-instances needs the topology bls or --encoded; a fused detector has --instances")
    if _was_given("max_file_mb") and not given["encoded"]:
        raise click.UsageError("--max-file-mb needs --encoded, the model that takes image files")
    options = RenderOptions(warmup_image=image, gpus=gpus, topology="bls" if auto else topology, **given)  # type: ignore[arg-type]
    check_destination(bundle, output, options, add=add)
    choice = _choose(bundle, images, options, rounds=rounds or TOPOLOGY_ROUNDS, journals=journals) if auto else None
    if choice is not None:
        options = choice.applied(options)
    folder = render(bundle, output, options, add=add, chosen_by=None if choice is None else asdict(choice))
    if topology == "graph":
        click.echo("One graph routes each image. What that gives up:")
        for phrase in GIVEN_UP:
            click.echo(f"  {phrase}")
    following = serve_command(folder)
    if BACKENDS[options.backend].needs_plan and options.engines is None:  # no server loads it yet
        following = command_line(["dyndet", "engines", bundle, "--repository", folder, *_named(folder, options)])
    click.echo(f"Rendered {printable(folder)}; next: {following}")


def _named(repository: Path, options: RenderOptions) -> list[str]:
    """The option that names the detector, if the repository has several."""
    from dyndet_builder.repository.marker import read_marker

    detectors = read_marker(repository).detectors
    return ["--model", options.name] if len(detectors) > 1 and options.name is not None else []


def _refuse_for_graph() -> None:
    """Raise UsageError for options of the public model's code, which one graph does without."""
    for name in ("bls_instances", "latency_buckets_ms", "queue_size"):
        if _was_given(name):
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} is about code of the topologies bls and fused; leave it out for graph")


def _was_given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is not click.core.ParameterSource.DEFAULT


def _choose(
    bundle: Path, images: Path | None, options: RenderOptions, *, rounds: int, journals: JournalFolder
) -> TopologyChoice | None:
    from dyndet_bench.measuring.perf_run import repeats_text
    from dyndet_builder.calibration.topology import choose_topology

    with step_bars() as show:
        images = demo_images() if images is None else images
        choice = choose_topology(bundle, images, options, rounds=rounds, journals=journals, progress=show)
    if choice is None:
        click.echo(f"The backend {options.backend} supports only the topology bls.")
        return None
    for topology, means in choice.measured.items():
        chosen = "  <- faster" if topology == choice.topology else ""
        click.echo(f"{topology:5}  easy {means.easy_ms:.2f} ms, hard {means.hard_ms:.2f} ms{chosen}")
    for line in (repeats_text(choice.repeats), str(choice.replayed or "")):
        if line:
            click.echo(line)
    return choice
