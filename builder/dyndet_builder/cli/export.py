"""`dyndet export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.table import Table

from dynamicdet.networks.architectures import ARCHITECTURES
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import Bundle, Parity, Precision
from dyndet_builder.bundle.parts import Target
from dyndet_builder.cli.pair_bundle import show_pair
from dyndet_builder.cli.pair_options import pair_source_options, refuse_options_of_a_checkpoint
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.defaults import DETECTIONS, PAIR_IMAGES, PARITY_IMAGES, PRECISIONS, TARGETS
from dyndet_builder.demo_assets import demo_images
from dyndet_builder.quoting import command as command_line
from dyndet_client.cli.terminal import Console

if TYPE_CHECKING:
    from dyndet_builder.bundle.static import StaticExport
    from dyndet_builder.pairing.export import PairFiles


@click.command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder of the bundle.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of real images to compare the graphs with PyTorch, or with the two detectors' files.  [default: the "
    "demo's; a pair needs its own]",
)
@pair_source_options
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Precision of the weights of a checkpoint.",
)
@click.option("--name", default="dyndet", show_default=True, help="Name of the served model.")
@click.option(
    "--architecture",
    type=click.Choice(tuple(ARCHITECTURES)),
    help="Architecture of a published checkpoint; other files contain it.",
)
@click.option(
    "--max-detections",
    type=int,
    help=f"Most detections per image.  [default: {DETECTIONS}, of a two-stage checkpoint as its architecture says]",
)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    help="What will run the graphs of a two-stage checkpoint, whose form depends on it; other graphs run in both.  "
    "[default: onnxruntime]",
)
@click.option(
    "--parity-images", type=int, help=f"Most images to compare.  [default: {PARITY_IMAGES}, of a pair {PAIR_IMAGES}]"
)
@click.option(
    "--route-images",
    type=int,
    help="Images on which flipped routes are counted.  [default: fp16 200, fp32 those of --parity-images]",
)
@click.option(
    "--operating-points",
    type=click.Path(dir_okay=False, path_type=Path),
    help="operating_points.json with the thresholds for flipped routes.  [default: deciles of the images]",
)
@click.option(
    "--single-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write this ONNX file for one image at a time, which routes itself; `dyndet compose` can do more.",
)
@click.option("--json", "as_json", is_flag=True, help="Print bundle.json instead of a table.")
def command(
    checkpoint: Path | None,
    pair: PairFiles | None,
    output: Path,
    images: Path | None,
    precision: Precision,
    name: str,
    architecture: str | None,
    max_detections: int | None,
    target: Target | None,
    parity_images: int | None,
    route_images: int | None,
    operating_points: Path | None,
    single_file: Path | None,
    as_json: bool,
) -> None:
    """Export a checkpoint, or two ONNX detectors, as a bundle: graphs with pre- and post-processing inside.

    The graphs of a checkpoint are compared with the PyTorch network on real images, those of two detectors with their
    own files. If they differ too much, nothing is written. Two detectors also get a router, which is fitted on the
    images, or better on a data set with labels. A static checkpoint becomes a folder with one graph.

    \b
    Examples:
      dyndet export benchmarks/demo/dy-yolov7-pico-cutpaste.safetensors -o build/bundle
      dyndet export dy-yolov7.pt --architecture dy-yolov7 --images photos --precision fp16 -o bundle
      dyndet export masks.safetensors --images photos --target tensorrt -o bundle
      dyndet export dynamic.safetensors --images photos -o bundle --single-file detector.onnx
      dyndet export --small yolo11n.onnx --large yolo11x.onnx --images photos --data val -o bundle
    """
    from dynamicdet.networks.checkpoints import static_name
    from dyndet_builder.bundle.export import export
    from dyndet_builder.composing.compose import check_file
    from dyndet_builder.pairing.export import export_pair
    from dyndet_builder.static_export import export_static

    check_file(single_file, apart_from=output)
    if (checkpoint is None) == (pair is None):
        raise click.UsageError("give either a CHECKPOINT, or two detectors with --small and --large")
    if pair is not None:
        refuse_options_of_a_checkpoint("precision", "architecture", "target", "route_images", "operating_points")
        if images is None:
            raise click.UsageError("--small and --large need --images: a folder of pictures like those to be served")
        with step_bars() as show:
            bundle = export_pair(
                **vars(pair),
                output=output,
                images=images,
                name=name,
                max_detections=DETECTIONS if max_detections is None else max_detections,
                checked_images=PAIR_IMAGES if parity_images is None else parity_images,
                progress=show,
            )
        _compose(output, single_file, images, None)
        _show(bundle, output, as_json=as_json, single_file=single_file)
        return
    assert checkpoint is not None
    if checkpoint.is_file() and static_name(checkpoint) is not None:
        _refuse_options_of_routes()
        with step_bars() as show:
            static = export_static(
                checkpoint,
                output,
                images=demo_images() if images is None else images,
                precision=precision,
                name=name,
                max_detections=max_detections,
                parity_images=PARITY_IMAGES if parity_images is None else parity_images,
                progress=show,
            )
        _show_static(static, output, as_json=as_json)
        return
    with step_bars() as show:
        bundle = export(
            checkpoint,
            output,
            images=demo_images() if images is None else images,
            precision=precision,
            name=name,
            architecture=architecture,
            max_detections=max_detections,
            target=target,
            parity_images=PARITY_IMAGES if parity_images is None else parity_images,
            route_images=route_images,
            operating_points=operating_points,
            progress=show,
        )
    _compose(output, single_file, demo_images() if images is None else images, operating_points)
    _show(bundle, output, as_json=as_json, single_file=single_file)


def _compose(bundle: Path, single_file: Path | None, images: Path, operating_points: Path | None) -> None:
    from dyndet_builder.composing.compose import compose

    if single_file is not None:
        with step_bars() as show:
            compose(bundle, single_file, images=images, operating_points=operating_points, progress=show)


def _show(bundle: Bundle, output: Path, *, as_json: bool, single_file: Path | None) -> None:
    if as_json:
        click.echo(bundle.model_dump_json(indent=2))
    else:
        console = Console()
        if bundle.kind == "pair":
            show_pair(console, bundle)
        else:
            assert bundle.parity is not None
            console.print(_table(bundle.parity, bundle.precision))
        if single_file is not None:
            console.print(f"Wrote {printable(single_file)}, which routes itself.", markup=False, soft_wrap=True)
        following = command_line(["dyndet", "render", output, "model_repository"])
        console.print(f"Wrote {printable(output)}. Next: {following}", markup=False, soft_wrap=True)


def _refuse_options_of_routes() -> None:
    """Raise UsageError if the command has an option that a static detector has no use for."""
    source = click.get_current_context().get_parameter_source
    for name in ("architecture", "route_images", "operating_points", "single_file"):
        if source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"a static detector has no routes, so {option} does not apply to it; leave it out")


def _show_static(static: StaticExport, output: Path, *, as_json: bool) -> None:
    if as_json:
        click.echo(static.model_dump_json(indent=2))
        return
    console = Console()
    console.print(_table(static.parity, static.precision, routes=False))
    following = command_line(["dyndet", "bench", "frontier", "BUNDLE", "--static", output, "--data", "VAL"])
    console.print(
        f"Wrote {printable(output)}: {static.architecture}, a static detector. Next: {following}",
        markup=False,
        soft_wrap=True,
    )


def _table(parity: Parity, precision: Precision, *, routes: bool = True) -> Table:
    from dyndet_builder.bundle.parity import BARS

    bars = BARS[precision]
    batches = " and ".join(str(size) for size in parity.batch_sizes)
    title = f"{precision} graphs, {parity.images} images, batch {batches}"
    table = Table(title, "largest", "accepted", box=None, header_style="bold", pad_edge=False)
    flips = f"routes that flip, of {parity.route_images or parity.images} images"
    steps = parity.two_stage
    if steps is not None:
        for text, found, bar in (
            ("box error of all regions, pixels", steps.region_box_px, bars.box_px),
            ("score error of all regions", steps.region_score, bars.score),
            ("box error of the best regions, pixels", steps.proposal_box_px, bars.box_px),
            ("score error of the best regions", steps.proposal_score, bars.score),
            ("mask error, of 255 steps", steps.mask_steps, bars.mask_steps),
        ):
            table.add_row(text, f"{found:.2g}", f"{bar:g}")
    rows = [
        ("box error, pixels", parity.box_px, bars.box_px),
        ("score error", parity.score, bars.score),
        ("difficulty error", parity.difficulty, bars.difficulty),
        (flips, parity.route_flip_share, bars.route_flip_share),
        ("suppressions that differ", parity.suppression_differences, 0),
    ]
    for text, value, bar in rows if routes else (*rows[:2], rows[-1]):
        table.add_row(text, f"{value:.2g}", f"{bar:g}")
    return table
