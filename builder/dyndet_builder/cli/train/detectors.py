"""`dyndet train detectors`: both detectors of a network, or a static one, which has no router."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from dynamicdet.datasets.dataset import in_class_order
from dynamicdet.datasets.hold_out import held_out
from dynamicdet.errors import NotUsableError
from dynamicdet.files import check_writable
from dynamicdet.networks.architectures import STATIC_ARCHITECTURES, any_architecture, known_architectures
from dynamicdet.text import printable
from dynamicdet.training.loss_weights import LossWeights
from dynamicdet.training.recipe import Accelerator, DetectorRecipe, Precision
from dynamicdet.training.schedule import plan_training
from dynamicdet.training.two_stage.recipe import FROZEN, OPTIMIZERS, Frozen, Optimizer, TwoStageRecipe
from dyndet_builder.cli.data_options import images_option, trust_option
from dyndet_builder.cli.progress import step_bars, training_bar
from dyndet_builder.cli.train.options import PATH, accelerator_option, cache_option, read_data, workers_option
from dyndet_builder.quoting import command as command_line

_DEFAULTS = DetectorRecipe()
_MULTI_SCALE = 0.25


@click.command("detectors")
@click.argument("data", type=PATH)
@images_option
@trust_option
@click.option("--output", "-o", type=PATH, required=True, help="Checkpoint, written after every epoch.")
@click.option(
    "--architecture",
    "name",
    type=click.Choice(known_architectures()),
    default="dy-yolov7-pico",
    show_default=True,
    help=f"Network to train; {', '.join(STATIC_ARCHITECTURES)} have one detector and no router.",
)
@click.option(
    "--start", type=PATH, help="Checkpoint with the initial weights, own or published.  [default: random weights]"
)
@click.option("--epochs", type=click.IntRange(min=1), default=_DEFAULTS.epochs, show_default=True)
@click.option(
    "--final-epochs",
    type=click.IntRange(min=0),
    default=_DEFAULTS.final_epochs,
    show_default=True,
    help="How many of the epochs, the last ones, run at the network's own size; if all do, --size is not used.",
)
@click.option(
    "--size",
    type=click.IntRange(min=32),
    default=_DEFAULTS.size,
    show_default=True,
    help="Image size in pixels of the epochs before the final ones.",
)
@click.option(
    "--multi-scale",
    is_flag=True,
    help=f"Draw the size of each batch within {_MULTI_SCALE:.0%} of --size, in steps of 32.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=_DEFAULTS.batch, show_default=True, help="Images per step."
)
@click.option(
    "--accumulate",
    type=click.IntRange(min=1),
    default=_DEFAULTS.accumulate,
    show_default=True,
    help="Parts in which a batch is computed, to save memory.",
)
@click.option("--learning-rate", type=float, default=_DEFAULTS.learning_rate, show_default=True)
@click.option(
    "--class-gain", type=float, default=_DEFAULTS.loss.classes, show_default=True, help="Weight of the class loss."
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 0.5),
    default=_DEFAULTS.hold_out,
    show_default=True,
    help="Share of the images that do not train the detectors, so that the router can learn from them.",
)
@click.option(
    "--optimizer", type=click.Choice(OPTIMIZERS), help="Of two-stage networks.  [default: that of the architecture]"
)
@click.option(
    "--frozen",
    type=click.Choice(FROZEN),
    help="Of two-stage networks: norms keeps the statistics of batch norms, stem also the first layers.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@cache_option
@workers_option
@accelerator_option
@click.option("--precision", type=click.Choice(get_args(Precision)), default="auto", show_default=True)
@click.option("--logs", type=PATH, help="Folder for TensorBoard.  [default: OUTPUT.logs]")
@click.option("--resume", is_flag=True, help="Continue an interrupted training.")
def command(
    data: Path,
    images: Path | None,
    trust_pictures: bool,
    output: Path,
    name: str,
    start: Path | None,
    epochs: int,
    final_epochs: int,
    size: int,
    multi_scale: bool,
    batch: int,
    accumulate: int,
    learning_rate: float,
    class_gain: float,
    hold_out: float,
    optimizer: Optimizer | None,
    frozen: Frozen | None,
    seed: int,
    cache: Path | None,
    workers: int,
    accelerator: Accelerator,
    precision: Precision,
    logs: Path | None,
    resume: bool,
) -> None:
    """Train both detectors, or the only one of a static network.

    Both are trained together. Two-stage networks have defaults of their own for the options that are not given; those
    with masks need a segmentation for each object.

    torchrun starts several GPUs, or several processes on a CPU. If both detectors find next
    to nothing on the training images, the checkpoint is written and the exit status is 9.

    \b
    Example:
      dyndet train detectors build/cutpaste/train -o build/pico.safetensors --epochs 20
      dyndet train detectors build/cutpaste/train -o build/pico.safetensors --epochs 30 --resume
      dyndet train detectors coco/annotations/instances_train2017.json --images coco/train2017 \\
        --architecture dy-yolov7 --start dy-yolov7.pt --size 640 -o street.safetensors
      torchrun --nproc-per-node 4 -m -- dyndet_builder.cli train detectors coco -o coco.safetensors
    """
    from dynamicdet.evaluation.quality import measure_quality
    from dynamicdet.networks.network import StaticDetector
    from dynamicdet.training.detectors import default_recipe, learns_masks, train_detectors
    from dynamicdet.training.devices import make_fabric

    if size % 32:
        raise click.BadParameter(f"{size} is not a multiple of 32", param_hint="--size")
    recipe = _recipe(
        default_recipe(name),
        epochs=epochs,
        final_epochs=final_epochs,
        size=size,
        size_range=_MULTI_SCALE if multi_scale else 0.0,
        batch=batch,
        accumulate=accumulate,
        learning_rate=learning_rate,
        class_gain=class_gain,
        hold_out=hold_out,
        seed=seed,
        optimizer=optimizer,
        frozen=frozen,
    )
    check_writable(output)
    folder = output.with_name(f"{output.name}.logs") if logs is None else logs
    fabric = make_fabric(accelerator=accelerator, precision=precision, log_folder=folder)
    with fabric.rank_zero_first():
        read = read_data(
            data,
            any_architecture(name).input_size,
            images,
            cache,
            trust_pictures,
            masks=learns_masks(name),
            shown=fabric.is_global_zero,
        )
    held = held_out(read, hold_out)
    plan = plan_training(recipe, int((~held).sum()), read.size, fabric.world_size)
    if fabric.is_global_zero:
        if held.any():
            click.echo(f"{held.sum():,} of {len(read):,} images are held out for the router")
        else:
            click.echo("no images are held out for the router (--hold-out), so it needs other images to learn from")
        for line in plan.sentences(started=start is not None):
            click.echo(line)
    with training_bar(plan) as (on_step, on_epoch):
        model = train_detectors(
            read,
            output,
            architecture=name,
            start=start,
            recipe=recipe,
            resume=resume,
            fabric=fabric,
            workers=workers,
            on_step=on_step,
            on_epoch=on_epoch,
        )
    if fabric.is_global_zero:
        with step_bars() as show:
            seen = in_class_order(read, model.class_names)
            quality = measure_quality(model, seen, used=~held, progress=show)
        click.echo(quality.sentence(started=start is not None))
        shortcoming = quality.shortcoming(steps=plan.steps, started=start is not None)
        if shortcoming:
            raise NotUsableError(f"{shortcoming} ({printable(output)} was written)")
        following = ["dyndet", "train", "router", output, data]
        if isinstance(model, StaticDetector):
            following = ["dyndet", "evaluate", output, "--data", "VAL"]
        click.echo(f"Trained {printable(output)}. Next: {command_line(following)}")


def _recipe(
    usual: DetectorRecipe, *, class_gain: float, optimizer: str | None, frozen: str | None, **options: Any
) -> DetectorRecipe:
    """The recipe that an architecture usually has, with what the user gave."""
    context = click.get_current_context()

    def given(name: str) -> bool:
        shown = {"size_range": "multi_scale"}.get(name, name)
        return context.get_parameter_source(shown) is not ParameterSource.DEFAULT

    if not isinstance(usual, TwoStageRecipe):
        if optimizer or frozen:
            raise click.UsageError("--optimizer and --frozen are options of two-stage networks")
        recipe = replace(usual, **options, loss=LossWeights(classes=class_gain))
    else:
        chosen = {name: value for name, value in options.items() if given(name)}
        chosen |= {name: value for name, value in (("optimizer", optimizer), ("frozen", frozen)) if value}
        recipe = replace(usual, **chosen)
        if given("class_gain"):
            recipe = replace(recipe, gains=replace(usual.gains, classes=class_gain))
    return replace(recipe, final_epochs=min(recipe.final_epochs, recipe.epochs))
