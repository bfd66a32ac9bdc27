"""One process of perf_analyzer, watched: with `--request-count` it can lose requests, and hang for ever.

It starts its workers, discards what they have recorded so far, and then counts the records once a second until all are
there (2.51, and still its source of December 2025). If a request was answered too early, its record is missing for
good. If there are few requests and all were answered a little later, it reports that it found no requests, or not the
version of the model.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from dynamicdet.errors import DyndetError, ServerError
from dynamicdet.text import printable
from dyndet_bench.measuring.perf_analyzer import Patience, PerfAnalyzer

_MEASURES = re.compile(rb"^Request (concurrency|Rate): ", re.MULTILINE)
_MEASURED = re.compile(rb"^\s*Client: ", re.MULTILINE)
_ERROR = re.compile(
    r"^(\[?error|failed|unable|cannot|can't|terminate called|what\(\):|.*\bcb::Error)|: error\b", re.IGNORECASE
)
_FOUND_NONE = re.compile(r"^(failed to find the requested model version|No valid requests recorded)", re.MULTILINE)
_LEAST_COUNTS = 3
"""times that perf_analyzer must have counted its records before it counts as hung"""
_LONGEST_REASON = 500
_BUSY_SHARE = 0.1
"""of a core: gRPC's own threads use far less"""


class LostRequestsError(ServerError):
    """perf_analyzer lost requests that were answered before it was ready to record them: it hung, or gave up."""


def run_process(
    perf_analyzer: PerfAnalyzer,
    arguments: Sequence[str],
    *,
    what: str,
    timeout_s: float,
    check_alive: Callable[[], object] = lambda: None,
) -> str:
    """What perf_analyzer printed; `what` names in messages what it measures.

    Raises LostRequestsError if it lost requests (as soon as it surely hangs), and ServerError if it failed or took
    longer than `timeout_s`. If it failed, `check_alive` is called first and can raise the server's own error.
    """
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(
        [str(perf_analyzer.path), *arguments],
        env=perf_analyzer.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        watch = _Watch(process.pid, perf_analyzer.patience)
        try:
            while process.returncode is None:
                left_s = max(0.0, deadline - time.monotonic())
                try:
                    output, _ = process.communicate(timeout=min(perf_analyzer.patience.look_s, left_s))
                except subprocess.TimeoutExpired as error:
                    if time.monotonic() >= deadline:
                        raise ServerError(f"{what} did not finish a measurement in {timeout_s:g} s") from error
                    if watch.is_hung(error.output or b""):
                        raise LostRequestsError(f"perf_analyzer hung while it measured {what}") from error
        finally:
            if process.poll() is None:  # also on Ctrl-C
                _kill(process.pid)
    said = output.decode(errors="replace")
    if found_none := _FOUND_NONE.search(said):
        raise LostRequestsError(f"perf_analyzer could not measure {what}: {found_none[1]}")
    # A run whose requests failed can end with status 0, and says so only in its output.
    if process.returncode != 0 or re.search(r"^\s*(error|failed)\b", said, flags=re.IGNORECASE | re.MULTILINE):
        raise _failure(said, process.returncode, what, check_alive)
    return said


@dataclass(frozen=True)
class _Look:
    """A look at a process that does nothing but count."""

    at: float
    cpu_s: float
    """CPU time of the whole process since it began"""
    counts: int
    """times that its main thread has gone to sleep"""


class _Watch:
    """Distinguishes a perf_analyzer that hangs from one that works or waits.

    It hangs if all of this is true for a while: by its output it is measuring, it has no worker left, it uses no CPU
    time, and its main thread wakes up now and then and goes back to sleep. Then it has counted its records, and they
    are too few. A slow request still has its worker. If perf_analyzer itself waits for an answer of the server, its
    main thread does not wake up.
    """

    def __init__(self, pid: int, patience: Patience) -> None:
        self._pid = pid
        self._patience = patience
        self._program: int | None = None
        self._first: _Look | None = None
        """the first of those that have seen nothing else since"""

    def is_hung(self, said: bytes) -> bool:
        """Look at the process, which has printed this so far."""
        now, first = None, self._first
        if _MEASURES.search(said) and not _MEASURED.search(said):
            self._program = self._program or _program(self._pid)
            now = _look(self._program)
        if now is None or first is None or now.cpu_s - first.cpu_s > _BUSY_SHARE * (now.at - first.at):
            self._first = now
            return False
        return now.at - first.at >= self._patience.rest_s and now.counts - first.counts >= _LEAST_COUNTS


def _program(pid: int) -> int:
    """The perf_analyzer that works: newer packages start it from a script in Python."""
    with_children = [pid]
    try:
        with_children += [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        pass
    return with_children[-1]


def _look(pid: int) -> _Look | None:
    """None if the process works: a worker is left, the main thread is not asleep, or it has ended."""
    try:
        # Workers have the name of the program, gRPC names its threads.
        names = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/comm")]
        process = psutil.Process(pid)
        with process.oneshot():
            if names.count(Path(f"/proc/{pid}/comm").read_text()) > 1 or process.status() != psutil.STATUS_SLEEPING:
                return None
            times = process.cpu_times()
            return _Look(time.monotonic(), times.user + times.system, process.num_ctx_switches().voluntary)
    except (OSError, psutil.Error, NotImplementedError):
        return None


def _kill(pid: int) -> None:
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            pass


def _failure(said: str, status: int, what: str, check_alive: Callable[[], object]) -> DyndetError:
    try:
        check_alive()
    except DyndetError as error:
        return error
    return ServerError(f"perf_analyzer could not measure {what}: {_reason(said, status)}")


def _reason(said: str, status: int) -> str:
    """Its own error; if it printed none, how it ended and what was expected instead."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    # The error of a thread says more than the message that threads failed.
    met = [line.partition("had error: ")[2] for line in lines if "had error: " in line]
    telling = met or [line for line in lines if _ERROR.search(line)]
    if telling:
        return printable(telling[0], limit=_LONGEST_REASON)
    ended = f"was ended by {_signal_name(-status)}" if status < 0 else f"ended with exit status {status}"
    if not lines:
        return f"it {ended} and printed nothing"
    last = printable(lines[-1], limit=_LONGEST_REASON)
    return f"it {ended} without its results and without an error; the last line that it printed is {last!r}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
