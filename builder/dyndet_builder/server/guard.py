"""Owns one tritonserver process and leaves nothing of it behind, however its own parent ends.

`dyndet_builder.server.process` runs it as a script; it needs only the standard library. Standard input is a pipe that
the parent holds open. When the pipe closes, or the parent is gone, the guard stops the server and removes its stubs and
its shared memory, and also the run folder if the parent cannot remove it. Before it closes the pipe, the parent can
write how many seconds the stop may take. The guard prints two lines: the server's process id and, after everything is
removed, how the server ended (its exit status, or minus the number of the signal that ended it). A parent that gets no
second line knows that the guard was killed.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_POLL_S = 0.2
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _new_session_that_dies_with_the_guard() -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            # Orphaned stubs become children of the guard (subreaper) and have to be reaped here.
            os.waitpid(-group, 0)
        except ChildProcessError:
            return


def _remove_shared_memory(prefix: str) -> None:
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def main() -> int:
    """Run the server until it ends or the parent does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run-folder", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--shm-prefix", required=True)
    parser.add_argument("--grace-s", type=float, required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def default_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _new_session_that_dies_with_the_guard()

    grace_s = options.grace_s
    server = None
    try:
        with options.log.open("ab") as log:
            server = subprocess.Popen(
                options.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=default_signals,
            )
        os.write(1, f"{server.pid}\n".encode())
        while server.poll() is None and os.getppid() == parent:
            readable, _, _ = select.select([0], [], [], _POLL_S)
            if readable:
                with suppress(ValueError):
                    grace_s = float(os.read(0, 64))
                break
        if server.poll() is None:
            server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(grace_s)
    finally:
        if server is not None:
            if server.poll() is None:  # waited for here: `_kill_group` would take its status
                server.kill()
                server.wait()
            _kill_group(server.pid)
        _remove_shared_memory(options.shm_prefix)
        if os.getppid() != parent:  # else the parent reads the log in the folder and removes it
            shutil.rmtree(options.run_folder, ignore_errors=True)
    with suppress(OSError):  # the parent may be gone
        os.write(1, f"{server.returncode}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
