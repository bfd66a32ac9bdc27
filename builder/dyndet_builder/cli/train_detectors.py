"""`dyndet train detectors`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click

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
from dyndet_builder.cli.targeting import Numbers
from dyndet_builder.cli.train_options import PATH, accelerator_option, cache_option, read_shown, workers_option
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
    "--optimizer", type=click.Choice(OPTIMIZERS), help="Of a two-stage network.  [default: that of its recipe]"
)
@click.option(
    "--frozen",
    type=click.Choice(FROZEN),
    help="What a two-stage network keeps: usual, what its architecture says; norms, also means and variances; stem, "
    "also the first layers.  [default: usual]",
)
@click.option(
    "--detector-weights",
    type=Numbers(float),
    help="Weights of the losses of detector 1 and detector 2 of a two-stage network, such as 0.5,1.  [default: 1,1]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@cache_option
@workers_option
@accelerator_option
@click.option("--precision", type=click.Choice(get_args(Precision)), default="auto", show_default=True)
@click.option("--logs", type=PATH, help="Folder for TensorBoard.  [default: OUTPUT.logs]")
@click.option("--resume", is_flag=True, help="Continue an interrupted training.")
def detectors(
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
    detector_weights: tuple[float, ...] | None,
    seed: int,
    cache: Path | None,
    workers: int,
    accelerator: Accelerator,
    precision: Precision,
    logs: Path | None,
    resume: bool,
) -> None:
    """Train both detectors, or the only one of a static network.

    Both are trained together. A network with masks learns from the segmentations of DATA. The defaults below are those
    of YOLO networks; a two-stage network has its own recipe, of which the given options change a part. torchrun starts
    several GPUs, or several processes on a CPU. If both detectors find next to nothing on the training images, the
    checkpoint is written and the exit status is 9.

    \b
    Example:
      dyndet train detectors build/cutpaste/train -o build/pico.safetensors --epochs 20
      dyndet train detectors build/cutpaste/train -o build/pico.safetensors --epochs 30 --resume
      dyndet train detectors coco/annotations/instances_train2017.json --images coco/train2017 \\
        --architecture dy-yolov7 --start dy-yolov7.pt --size 640 -o street.safetensors
      dyndet train detectors build/cutpaste/train --architecture dy-mask-rcnn-pico -o build/masks.safetensors
      torchrun --nproc-per-node 4 -m -- dyndet_builder.cli train detectors coco -o coco.safetensors
    """
    from dynamicdet.evaluation.quality import measure_quality
    from dynamicdet.networks.network import StaticDetector
    from dynamicdet.training.detectors import learns_masks, train_detectors
    from dynamicdet.training.devices import make_fabric

    if detector_weights is not None and len(detector_weights) != 2:
        raise click.BadParameter("two numbers are needed, such as 0.5,1", param_hint="--detector-weights")
    if size % 32:
        raise click.BadParameter(f"{size} is not a multiple of 32", param_hint="--size")
    recipe = _recipe(
        name,
        {
            "epochs": epochs,
            "final_epochs": min(final_epochs, epochs),
            "size": size,
            "batch": batch,
            "accumulate": accumulate,
            "learning_rate": learning_rate,
            "loss": LossWeights(classes=class_gain),
            "hold_out": hold_out,
            "seed": seed,
        },
        {"optimizer": optimizer, "frozen": frozen, "detector_weights": detector_weights},
    )
    if multi_scale:
        recipe = replace(recipe, size_range=_MULTI_SCALE)
    check_writable(output)
    folder = output.with_name(f"{output.name}.logs") if logs is None else logs
    fabric = make_fabric(accelerator=accelerator, precision=precision, log_folder=folder)
    with fabric.rank_zero_first():
        read = read_shown(
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


def _recipe(name: str, given: dict[str, Any], of_two_stages: dict[str, Any]) -> DetectorRecipe:
    """The recipe of an architecture, changed by what the command line gives.

    `given` are the options that every network has, `of_two_stages` those of the others alone; None: not given.
    """
    from dynamicdet.training.detectors import default_recipe

    usual = default_recipe(name)
    own = {key: value for key, value in of_two_stages.items() if value is not None}
    if not isinstance(usual, TwoStageRecipe):
        if own:
            option = f"--{next(iter(own)).replace('_', '-')}"
            raise click.UsageError(f"{option} is for two-stage networks, and {name} is none")
        return replace(usual, **given)
    context = click.get_current_context()
    if _was_given(context, "class_gain"):
        raise click.UsageError(f"--class-gain is for YOLO networks, and {name} is none")
    changed = {key: value for key, value in given.items() if _was_given(context, key)}
    if "epochs" in changed and "final_epochs" not in changed:
        changed["final_epochs"] = min(usual.final_epochs, changed["epochs"])
    return replace(usual, **changed, **own)


def _was_given(context: click.Context, option: str) -> bool:
    return context.get_parameter_source(option) not in (None, click.core.ParameterSource.DEFAULT)
