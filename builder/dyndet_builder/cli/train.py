"""`dyndet train`: the detectors, then the router; or a static detector, which has none."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import click

from dynamicdet.aliases import silent
from dynamicdet.datasets.dataset import CocoDataset, in_class_order, read_dataset
from dynamicdet.datasets.hold_out import held_out
from dynamicdet.datasets.layout import Split
from dynamicdet.errors import NotUsableError
from dynamicdet.files import check_writable
from dynamicdet.networks.architectures import STATIC_ARCHITECTURES, any_architecture, known_architectures
from dynamicdet.networks.router.form import ROUTER_INPUTS, RouterInputs
from dynamicdet.router.recipe import OBJECTIVES, TARGETS, Objective, RouterRecipe, Target
from dynamicdet.text import printable
from dynamicdet.training.loss_weights import LossWeights
from dynamicdet.training.recipe import Accelerator, DetectorRecipe, Precision
from dynamicdet.training.schedule import plan_training
from dyndet_builder.cli.data_options import images_option, trust_option
from dyndet_builder.cli.progress import step_bars, training_bar
from dyndet_builder.quoting import command as command_line

_DEFAULTS = DetectorRecipe()
_ROUTER = RouterRecipe()
_PATH = click.Path(path_type=Path)
_MULTI_SCALE = 0.25

_cache = click.option("--cache", type=_PATH, help="Folder that stores the decoded images for the next run.")
_accelerator = click.option(
    "--accelerator", type=click.Choice(get_args(Accelerator)), default="auto", show_default=True
)
_workers = click.option(
    "--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Processes that prepare batches."
)


@click.group("train")
def command() -> None:
    """Train a dynamic detector: first both detectors together, then the router.

    DATA is a folder with images/ and annotations.json (COCO), such as `dyndet data cutpaste` builds, or a COCO JSON
    file with --images. It is checked before training begins; `dyndet data check DATA` only checks it.
    """


@command.command("detectors")
@click.argument("data", type=_PATH)
@images_option
@trust_option
@click.option("--output", "-o", type=_PATH, required=True, help="Checkpoint, written after every epoch.")
@click.option(
    "--architecture",
    "name",
    type=click.Choice(known_architectures()),
    default="dy-yolov7-pico",
    show_default=True,
    help=f"Network to train; {', '.join(STATIC_ARCHITECTURES)} have one detector and no router.",
)
@click.option(
    "--start", type=_PATH, help="Checkpoint with the initial weights, own or published.  [default: random weights]"
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
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@_cache
@_workers
@_accelerator
@click.option("--precision", type=click.Choice(get_args(Precision)), default="auto", show_default=True)
@click.option("--logs", type=_PATH, help="Folder for TensorBoard.  [default: OUTPUT.logs]")
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
    seed: int,
    cache: Path | None,
    workers: int,
    accelerator: Accelerator,
    precision: Precision,
    logs: Path | None,
    resume: bool,
) -> None:
    """Train both detectors, or the only one of a static network.

    Both are trained together. torchrun starts several GPUs, or several processes on a CPU. If both detectors find next
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
    from dynamicdet.training.detectors import train_detectors
    from dynamicdet.training.devices import make_fabric

    if size % 32:
        raise click.BadParameter(f"{size} is not a multiple of 32", param_hint="--size")
    recipe = DetectorRecipe(
        epochs=epochs,
        final_epochs=min(final_epochs, epochs),
        size=size,
        size_range=_MULTI_SCALE if multi_scale else 0.0,
        batch=batch,
        accumulate=accumulate,
        learning_rate=learning_rate,
        loss=LossWeights(classes=class_gain),
        hold_out=hold_out,
        seed=seed,
    )
    check_writable(output)
    folder = output.with_name(f"{output.name}.logs") if logs is None else logs
    fabric = make_fabric(accelerator=accelerator, precision=precision, log_folder=folder)
    with fabric.rank_zero_first():
        read = _read(
            data, any_architecture(name).input_size, images, cache, trust_pictures, shown=fabric.is_global_zero
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


@command.command("router", short_help="Train the router; the detectors do not change.")
@click.argument("checkpoint", type=_PATH)
@click.argument("data", type=_PATH)
@images_option
@trust_option
@click.option("--output", "-o", type=_PATH, help="Checkpoint to write.  [default: CHECKPOINT itself]")
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
    type=_PATH,
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
@_cache
@_workers
@_accelerator
def router(
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
    read = _read(data, model.input_size, images, cache, trust_pictures)
    judged = [_read(one, model.input_size, None, cache, trust_pictures, split="valid") for one in compare]
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


def _read(
    data: Path,
    size: int,
    images: Path | None,
    cache: Path | None,
    trust_pictures: bool,
    *,
    split: Split = "train",
    shown: bool = True,
) -> CocoDataset:
    """The data set; its summary is printed."""
    with step_bars() if shown else nullcontext(silent) as show:
        read = read_dataset(
            data, size, images=images, cache=cache, split=split, trust_pictures=trust_pictures, progress=show
        )
    if shown:
        for line in read.summary.sentences():
            click.echo(line)
    return read
