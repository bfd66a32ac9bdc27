"""Progress on standard error: on a terminal a bar for each step, with the time it took and the time it still takes.

Elsewhere, plain lines say when a step begins, how far it is, and how long it took. A training has one bar over all its
steps, and a line for each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from dynamicdet.aliases import Progress
from dyndet_client.cli.steps import StepLines, duration, step_lines
from dyndet_client.cli.terminal import Bars, Console

if TYPE_CHECKING:  # torch loads only for the commands that train
    from dynamicdet.training.recipe import EpochReport, StepReport
    from dynamicdet.training.schedule import TrainingPlan

_MEASURED_STEPS = 3
_ROOMY = 80
"""columns of a terminal from which on there is room for all parts of a bar"""


@contextmanager
def step_bars() -> Iterator[Progress]:
    """Yield a callback that draws one bar for each step, or prints lines about it where bars cannot move."""
    console = Console(stderr=True)
    if not console.is_interactive:
        with step_lines(console) as say:
            yield say
        return
    name = TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold"))
    counted, left = MofNCompleteColumn(), TimeRemainingColumn()
    columns = (
        (name, counted, left) if console.width < _ROOMY else (name, BarColumn(), counted, TimeElapsedColumn(), left)
    )
    with ExitStack() as started:
        bars = Bars(*columns, console=console)
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, of: int) -> None:
            if not tasks:  # bars without a task would leave an empty line before an early error
                started.enter_context(bars)
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=of)
            bars.update(tasks[step], completed=done, total=of)

        yield show


_Training = tuple[Callable[["StepReport"], None], Callable[["EpochReport"], None]]


@contextmanager
def training_bar(plan: TrainingPlan) -> Iterator[_Training]:
    """Show how far a training is, its losses and images/s; one line for every finished epoch stays.

    After the first few steps, a line says how long all epochs will take.
    """
    console = Console(stderr=True)
    with ExitStack() as stack:
        if console.is_interactive:
            shown: _TrainingBar | _TrainingLines = _TrainingBar(plan, stack, console)
        else:
            shown = _TrainingLines(plan, stack.enter_context(StepLines(console, only_long=True)))
        measured = False

        def on_step(report: StepReport) -> None:
            nonlocal measured
            if not measured and report.step >= min(_MEASURED_STEPS, report.steps):
                measured = True
                shown.say(f"expected time for all epochs: {_about(plan, report)}")
            shown.step(report)

        def on_epoch(report: EpochReport) -> None:
            shown.say(
                f"epoch {report.epoch}/{report.epochs}  {report.size} px  loss {_losses(report)}  "
                f"{report.images_per_second:.1f} images/s  {report.seconds:.0f} s"
            )

        yield on_step, on_epoch


class _TrainingBar:
    """A bar over all steps."""

    def __init__(self, plan: TrainingPlan, stack: ExitStack, console: Console) -> None:
        self._plan = plan
        self._console = console
        roomy = console.width >= _ROOMY
        losses = "loss {task.fields[losses]}  {task.fields[rate]} images/s  left" if roomy else "{task.fields[losses]}"
        columns: list[ProgressColumn] = [TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}")]
        columns += [BarColumn(), MofNCompleteColumn()] if roomy else []
        columns += [TextColumn(losses), TimeRemainingColumn()]
        self._bar = stack.enter_context(Bars(*columns, console=console, refresh_per_second=2))
        self._task = self._bar.add_task("train", total=None, epoch=1, epochs=plan.epochs, losses="-", rate="-")

    def say(self, line: str) -> None:
        self._console.print(line)

    def step(self, report: StepReport) -> None:
        self._bar.update(
            self._task,
            total=self._plan.steps,
            completed=(report.epoch - 1) * report.steps + report.step,
            epoch=report.epoch,
            losses=_losses(report),
            rate=f"{report.images_per_second:.0f}",
        )


class _TrainingLines:
    """Lines with the time, one for each epoch and some within a long one."""

    def __init__(self, plan: TrainingPlan, lines: StepLines) -> None:
        self._plan = plan
        self._lines = lines

    def say(self, line: str) -> None:
        self._lines.say(line)

    def step(self, report: StepReport) -> None:
        self._lines("training steps", (report.epoch - 1) * report.steps + report.step, self._plan.steps)


def _losses(report: StepReport | EpochReport) -> str:
    return " ".join(f"{loss:.4f}" for loss in report.losses)


def _about(plan: TrainingPlan, report: StepReport) -> str:
    return f"about {duration(plan.seconds(report.images_per_second))}"
