"""Progress bars on standard error, one per step, with the time it took and the time it will still take.

A training has one bar over all its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dynamicdet.aliases import Progress
from dyndet_client.cli.terminal import Bars, Console

if TYPE_CHECKING:  # torch loads only for the commands that train
    from dynamicdet.training.recipe import EpochReport, StepReport
    from dynamicdet.training.schedule import TrainingPlan

_MEASURED_STEPS = 3


@contextmanager
def step_bars() -> Iterator[Progress]:
    """Yield a callback that draws one bar for each step."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with ExitStack() as started:
        bars = Bars(*columns, console=Console(stderr=True))
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, of: int) -> None:
            if not tasks:  # bars without a task would leave an empty line before an early error
                started.enter_context(bars)
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=of)
            bars.update(tasks[step], completed=done, total=of)

        yield show


@contextmanager
def training_bar(plan: TrainingPlan) -> Iterator[tuple[Callable[[StepReport], None], Callable[[EpochReport], None]]]:
    """A bar over all steps with losses, images/s and the time that is left; one line for every finished epoch.

    After the first few steps, a line says how long all epochs will take.
    """
    measured = False
    columns = (
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[losses]}  {task.fields[rate]} images/s  left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Bars(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("train", total=None, epoch=1, epochs=plan.epochs, losses="-", rate="-")

        def on_step(report: StepReport) -> None:
            nonlocal measured
            if not measured and report.step >= min(_MEASURED_STEPS, report.steps):
                measured = True
                console.print(f"expected time for all epochs: {_about(plan, report)}")
            bar.update(
                task,
                total=plan.steps,
                completed=(report.epoch - 1) * report.steps + report.step,
                epoch=report.epoch,
                losses=f"{report.loss1:.4f} {report.loss2:.4f}",
                rate=f"{report.images_per_second:.0f}",
            )

        def on_epoch(report: EpochReport) -> None:
            console.print(
                f"epoch {report.epoch}/{report.epochs}  {report.size} px  loss {report.loss1:.4f} "
                f"{report.loss2:.4f}  {report.images_per_second:.1f} images/s  {report.seconds:.0f} s",
            )

        yield on_step, on_epoch


def _about(plan: TrainingPlan, report: StepReport) -> str:
    seconds = plan.seconds(report.images_per_second)
    for length, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"about {seconds / length:.0f} {unit}"
    return f"about {max(1.0, seconds):.0f} s"
