"""`dyndet train router`."""

from __future__ import annotations

from pathlib import Path

import click

from dynamicdet.errors import NotUsableError
from dynamicdet.files import check_writable
from dynamicdet.networks.router.form import ROUTER_INPUTS, RouterInputs
from dynamicdet.router.recipe import OBJECTIVES, TARGETS, Objective, RouterRecipe, Target
from dynamicdet.text import printable
from dynamicdet.training.loss_weights import LossWeights
from dynamicdet.training.recipe import Accelerator
from dyndet_builder.cli.data_options import images_option, trust_option
from dyndet_builder.cli.progress import step_bars
from dyndet_builder.cli.train.options import PATH, accelerator_option, cache_option, read_data, workers_option

_ROUTER = RouterRecipe()


@click.command("router", short_help="Train the router; the detectors do not change.")
@click.argument("checkpoint", type=PATH)
@click.argument("data", type=PATH)
@images_option
@trust_option
@click.option("--output", "-o", type=PATH, help="Checkpoint to write.  [default: CHECKPOINT itself]")
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default=_ROUTER.target,
    show_default=True,
    help="What the router learns: ap, by how much detector 2 raises the AP; loss, one of the paper's objectives.",
)
@click.option(
    "--inputs",
    type=click.Choice(ROUTER_INPUTS),
    default=_ROUTER.inputs,
    show_default=True,
    help="What the router reads of each channel: mean, as in the paper; rich, also maximum and root mean square.",
)
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default=_ROUTER.objective,
    show_default=True,
    help="With --target loss: one of the paper's objectives; adaptive needs no tuning.",
)
@click.option("--penalty", type=float, help="With --objective penalty: cost of detector 2.")
@click.option(
    "--compare",
    type=PATH,
    multiple=True,
    help="Data set on which the new router is compared with the paper's, free rules and oracles (repeatable).",
)
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    default=_ROUTER.examples,
    show_default=True,
    help="Augmented images for the training; each image has several views if these are more.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=_ROUTER.epochs, show_default=True, help="With --target loss."
)
@click.option(
    "--learning-rate", type=float, default=_ROUTER.learning_rate, show_default=True, help="With --target loss."
)
@click.option(
    "--class-gain", type=float, default=_ROUTER.loss.classes, show_default=True, help="Weight of the class loss."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--half", is_flag=True, help="Store the weights as float16, which halves the file.")
@cache_option
@workers_option
@accelerator_option
def command(
    checkpoint: Path,
    data: Path,
    images: Path | None,
    trust_pictures: bool,
    output: Path | None,
    target: Target,
    inputs: RouterInputs,
    objective: Objective,
    penalty: float | None,
    compare: tuple[Path, ...],
    examples: int,
    epochs: int,
    learning_rate: float,
    class_gain: float,
    seed: int,
    half: bool,
    cache: Path | None,
    workers: int,
    accelerator: Accelerator,
) -> None:
    """Train the router of a network whose detectors are trained; the detectors do not change.

    A router has to learn from images that the detectors have not seen. If DATA is what the detectors were trained on,
    the images that `dyndet train detectors --hold-out` left out are used; of other data, all. Difficulties are spread
    evenly: a quarter of the images has one below 0.25, half have one below 0.5.

    The checkpoint is written in any case. If detector 2 gains nothing, or the router is not better than chance, the
    exit status is 9.

    \b
    Example:
      dyndet train router build/pico.safetensors build/cutpaste/train
      dyndet train router build/pico.safetensors own/train --compare own/val
      dyndet train router build/pico.safetensors own/train --target loss --inputs mean -o build/paper.safetensors
    """
    from dynamicdet.networks.checkpoints import load, save
    from dynamicdet.networks.network import TwoStageDetector
    from dynamicdet.router.train import router_pictures, train_router
    from dynamicdet.training.devices import make_fabric
    from dyndet_builder.cli.comparison import print_comparison

    recipe = RouterRecipe(
        target=target,
        inputs=inputs,
        objective=objective,
        penalty=penalty,
        examples=examples,
        epochs=epochs,
        learning_rate=learning_rate,
        loss=LossWeights(classes=class_gain),
        seed=seed,
    )
    check_writable(output or checkpoint)
    model = load(checkpoint)
    fabric = make_fabric(accelerator=accelerator, precision="32-true")
    masks = isinstance(model, TwoStageDetector) and model.has_masks
    read = read_data(data, model.input_size, images, cache, trust_pictures, masks=masks)
    judged = [
        read_data(one, model.input_size, None, cache, trust_pictures, split="valid", masks=masks) for one in compare
    ]
    chosen = router_pictures(model, read)
    click.echo(chosen.remark)
    with step_bars() as show:
        report = train_router(
            model,
            chosen.data,
            recipe=recipe,
            fabric=fabric,
            workers=workers,
            judged=judged,
            progress=show,
        )
    save(model, output or checkpoint, half=half)
    click.echo("\n".join(report.sentences()))
    for comparison in report.comparisons:
        print_comparison(comparison)
    shortcomings = report.shortcomings()
    if shortcomings:
        raise NotUsableError(f"{'; '.join(shortcomings)} ({printable(output or checkpoint)} was written)")
