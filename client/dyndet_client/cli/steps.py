"""Says in plain lines how far the steps of a command are, for a file or a pipe, where bars cannot move.

A step has a line when it begins and one with its seconds when it is done. While it runs, a line says how far it is:
after 10 s, and then less and less often.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

from dyndet_client.cli.terminal import Console

_PAUSE_S = 10.0
_LOOK_S = 1.0
_GROWTH = 0.25
"""the pause between two lines about a step, as a share of the time that it has taken"""


@dataclass
class _Step:
    """What was reported about a step, and when."""

    of: int
    first: int = 0
    """parts that were done when it was first reported"""
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    reported: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)
    finished: bool = False

    def is_due(self, now: float) -> bool:
        return now - self.said >= max(_PAUSE_S, _GROWTH * (now - self.started))

    def how_far(self, now: float) -> str:
        took = now - self.started
        counted = f"{self.done} of {self.of}, " if self.of > 1 else ""
        new = self.done - self.first
        left = (self.reported - self.started) / new * (self.of - self.done) - (now - self.reported) if new else 0.0
        return f"{counted}{duration(took)} so far" + (f", about {duration(left)} left" if left > 0 else "")


class StepLines:
    """Prints a line for each begin and end of a step, and for one that takes long."""

    def __init__(self, console: Console, *, only_long: bool = False) -> None:
        """`only_long` leaves out begin and end, for a command that is usually over at once."""
        self._console = console
        self._only_long = only_long
        self._steps: dict[str, _Step] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._watch = threading.Thread(target=self._say_what_takes_long, daemon=True)

    def __call__(self, step: str, done: int, of: int) -> None:
        """Take a report: `done` of `of` parts of a step are done."""
        with self._lock:
            known = self._steps.get(step)
            if known is None or (known.finished and done < of):
                if known is None and not self._only_long and done < of:
                    self._say(f"{step} ...")
                known = self._steps[step] = _Step(of, min(done, of))
            known.done, known.of, known.reported = done, of, time.monotonic()
            if done >= of and not known.finished:
                known.finished = True
                if not self._only_long:
                    self._say(f"{step}: done, {duration(time.monotonic() - known.started)}")

    def say(self, text: str) -> None:
        """Print a line that begins with the time; nothing more is said for a while."""
        with self._lock:
            self._say(text)
            for known in self._steps.values():
                known.said = time.monotonic()

    def __enter__(self) -> StepLines:
        self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._watch.join()

    def _say(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", soft_wrap=True)

    def _say_what_takes_long(self) -> None:
        while not self._end.wait(_LOOK_S):
            with self._lock:
                now = time.monotonic()
                running = [name for name, step in self._steps.items() if not step.finished]
                for name in running[-1:]:  # the others wait for it
                    step = self._steps[name]
                    if step.is_due(now):
                        step.said = now
                        self._say(f"{name}: {step.how_far(now)}")


@contextmanager
def step_lines(console: Console, *, only_long: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Yield the callback that takes reports about steps and prints lines."""
    with StepLines(console, only_long=only_long) as lines:
        yield lines


def duration(seconds: float) -> str:
    """A time as people say it: 0.4 s, 90 s, 2.5 min, 12.1 h, 3 days."""
    for length, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{round(seconds / length, 1):g} {unit}"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
