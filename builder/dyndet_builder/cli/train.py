"""`dyndet train`: the detectors, then the router."""

from __future__ import annotations

from pathlib import Path

import click

from dynamicdet.checkpoints import load, save
from dynamicdet.dataset import read_dataset
from dynamicdet.losses import LossWeights
from dynamicdet.router_training import RouterRecipe, train_router
from dynamicdet.training import DetectorRecipe, EpochReport, train_detectors

_DEFAULTS = DetectorRecipe()
_ROUTER = RouterRecipe()
_FOLDER = click.Path(path_type=Path)


@click.group("train")
def command() -> None:
    """Train a dynamic detector: first both detectors together, then the router.

    DATA is a folder with images/ and annotations.json (COCO), such as `dyndet data cutpaste` builds.
    """


@command.command("detectors")
@click.argument("data", type=_FOLDER)
@click.option("--output", "-o", type=_FOLDER, required=True, help="Checkpoint to write after every epoch.")
@click.option("--architecture", default="dy-yolov7-pico", show_default=True, help="Network to train.")
@click.option("--epochs", type=click.IntRange(min=1), default=_DEFAULTS.epochs, show_default=True)
@click.option(
    "--final-epochs",
    type=click.IntRange(min=0),
    default=_DEFAULTS.final_epochs,
    show_default=True,
    help="Of these, how many run at the full input size.",
)
@click.option(
    "--size", type=click.IntRange(min=32), default=_DEFAULTS.size, show_default=True, help="Pixels before that."
)
@click.option("--batch", type=click.IntRange(min=1), default=_DEFAULTS.batch, show_default=True, help="Images a step.")
@click.option("--learning-rate", type=float, default=_DEFAULTS.learning_rate, show_default=True)
@click.option(
    "--class-gain", type=float, default=_DEFAULTS.loss.classes, show_default=True, help="Weight of the class loss."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--cache", type=_FOLDER, help="Folder that keeps the decoded images for the next time.")
@click.option("--resume", is_flag=True, help="Go on where a stopped training left off.")
def detectors(
    data: Path,
    output: Path,
    architecture: str,
    epochs: int,
    final_epochs: int,
    size: int,
    batch: int,
    learning_rate: float,
    class_gain: float,
    seed: int,
    cache: Path | None,
    resume: bool,
) -> None:
    """Train both detectors of a new network together.

    \b
    Example:
      dyndet train detectors build/cutpaste/train -o build/pico.safetensors --epochs 20
      dyndet train detectors build/cutpaste/train -o build/pico.safetensors --epochs 30 --resume
    """
    if size % 32:
        raise click.BadParameter(f"{size} is no multiple of 32", param_hint="--size")
    recipe = DetectorRecipe(
        epochs=epochs,
        final_epochs=min(final_epochs, epochs),
        size=size,
        batch=batch,
        learning_rate=learning_rate,
        loss=LossWeights(classes=class_gain),
        seed=seed,
    )
    images = read_dataset(data, _input_size(architecture), cache=cache)
    click.echo(f"{len(images)} images, {len(images.class_names)} classes; {output} is written after every epoch")
    train_detectors(images, output, architecture=architecture, recipe=recipe, resume=resume, on_epoch=_echo_epoch)


@command.command("router")
@click.argument("checkpoint", type=_FOLDER)
@click.argument("data", type=_FOLDER)
@click.option("--output", "-o", type=_FOLDER, help="Checkpoint to write.  [default: CHECKPOINT itself]")
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    default=_ROUTER.examples,
    show_default=True,
    help="Augmented pictures to learn from.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=_ROUTER.epochs, show_default=True)
@click.option("--learning-rate", type=float, default=_ROUTER.learning_rate, show_default=True)
@click.option(
    "--class-gain", type=float, default=_ROUTER.loss.classes, show_default=True, help="Weight of the class loss."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--half", is_flag=True, help="Store weights as float16, in half the space.")
@click.option("--cache", type=_FOLDER, help="Folder that keeps the decoded images for the next time.")
def router(
    checkpoint: Path,
    data: Path,
    output: Path | None,
    examples: int,
    epochs: int,
    learning_rate: float,
    class_gain: float,
    seed: int,
    half: bool,
    cache: Path | None,
) -> None:
    """Train the router of a network whose detectors are trained; nothing else in it changes.

    \b
    Example:
      dyndet train router build/pico.safetensors build/cutpaste/train
    """
    recipe = RouterRecipe(
        examples=examples, epochs=epochs, learning_rate=learning_rate, loss=LossWeights(classes=class_gain), seed=seed
    )
    model = load(checkpoint)
    report = train_router(model, read_dataset(data, model.input_size, cache=cache), recipe=recipe)
    save(model, output or checkpoint, half=half)
    low, middle, high = report.quantiles
    click.echo(
        f"{report.examples} examples; objective {report.objective_before:.5f} -> {report.objective:.5f}, "
        f"offset {report.offset:.5f}\ndifficulty at 10, 50, 90 %: {low:.3f} {middle:.3f} {high:.3f}; "
        f"rank correlation with the gain of detector 2: {report.correlation:.2f}"
    )


def _input_size(architecture: str) -> int:
    from dynamicdet.architectures import architecture as find

    return find(architecture).input_size


def _echo_epoch(report: EpochReport) -> None:
    click.echo(
        f"epoch {report.epoch}/{report.epochs}  {report.size} px  loss {report.loss1:.4f} {report.loss2:.4f}  "
        f"{report.images_per_second:.1f} images/s  {report.seconds:.0f} s"
    )
