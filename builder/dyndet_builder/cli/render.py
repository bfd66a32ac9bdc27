"""`dyndet render`."""

from __future__ import annotations

from pathlib import Path

import click

from dyndet_builder.render import RenderOptions, render, shipped_warmup_image
from dyndet_builder.render_options import BACKENDS

_DEFAULTS = RenderOptions()


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers with commas between them."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(part) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is no list of numbers, such as 1,4,8", param, ctx)


@click.command("render")
@click.argument("bundle", type=click.Path(file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="Name of the served model.  [default: the bundle's]")
@click.option("--backend", type=click.Choice(BACKENDS), default=_DEFAULTS.backend, show_default=True)
@click.option("--instances", type=int, default=_DEFAULTS.instances, show_default=True, help="Instances of each stage.")
@click.option(
    "--bls-instances",
    type=int,
    default=_DEFAULTS.bls_instances,
    show_default=True,
    help="Instances of the public model, which routes.",
)
@click.option(
    "--threads", type=int, default=_DEFAULTS.threads, help="CPU threads of one stage instance.  [default: all]"
)
@click.option("--gpu", "gpus", type=int, multiple=True, help="Run the stages on this GPU (repeatable).  [default: CPU]")
@click.option(
    "--max-batch", type=int, default=_DEFAULTS.max_batch, show_default=True, help="Images of one run at most."
)
@click.option(
    "--preferred-batches", type=_Numbers(int), default=(), help="Batch sizes that stages wait for, such as 4,8."
)
@click.option(
    "--queue-delay-us",
    type=int,
    default=_DEFAULTS.queue_delay_us,
    show_default=True,
    help="How long a stage waits for a preferred batch, microseconds.",
)
@click.option(
    "--warmup-image",
    type=click.Path(path_type=Path),
    help="Picture (or folder of pictures) that warms the stages.  [default: one of the demo's, if they are here]",
)
@click.option("--no-warmup", is_flag=True, help="Do not warm the stages while they load.")
@click.option(
    "--latency-buckets-ms",
    type=_Numbers(float),
    default=_DEFAULTS.latency_buckets_ms,
    help="Upper bounds of the latency histogram's buckets.  [default: 1 to 500 ms]",
)
@click.option(
    "--threshold",
    type=float,
    default=_DEFAULTS.threshold,
    show_default=True,
    help="Threshold until `dyndet calibrate` finds one.",
)
def command(
    bundle: Path, output: Path, warmup_image: Path | None, no_warmup: bool, gpus: tuple[int, ...], **chosen: object
) -> None:
    """Render a bundle as a Triton model repository.

    OUTPUT is written whole or not at all. A repository that dyndet rendered there before is replaced, and is
    uncalibrated afterwards: latencies measured on another configuration say nothing about the new one.

    \b
    Examples:
      dyndet render build/bundle build/models
      dyndet render build/bundle build/models --instances 2 --threads 1 --preferred-batches 4,8 --queue-delay-us 500
      dyndet render build/bundle build/models --backend tensorrt --gpu 0 --gpu 1
    """
    if no_warmup and warmup_image is not None:
        raise click.UsageError("--warmup-image and --no-warmup exclude each other")
    image = None if no_warmup else warmup_image or shipped_warmup_image()
    options = RenderOptions(warmup_image=image, gpus=gpus, **chosen)  # type: ignore[arg-type]
    folder = render(bundle, output, options)
    click.echo(f"Rendered {folder}; next: dyndet serve {folder}")
