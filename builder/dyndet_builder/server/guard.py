"""Owns one tritonserver process and leaves nothing of it behind, however its own parent ends.

`dyndet_builder.server.process` runs it as a script; it needs only the standard library. Standard input is a pipe that
the parent holds open. When the pipe closes, or the parent is gone, the guard stops the server and removes its stubs and
its shared memory, and also the run folder if the parent cannot remove it. Before it closes the pipe, the parent can
write how many seconds the stop may take. The guard prints two lines: the server's process id and, after everything is
removed, how the server ended (its exit status, or minus the number of the signal that ended it). A parent that gets no
second line knows that the guard was killed.

The server's shared memory is for this user alone. Triton makes each region with mode 0644 and then changes the mode to
0644 once more, whatever the umask is. So the server gets a umask of 077 and a system-call filter (seccomp) that makes
this one change do nothing, in the server and in all its processes. Where the kernel takes no such filter, the server
runs without it.

The administrative key does not appear in the guard's own command line: `$(DYNDET_ADMIN_KEY)` stands for it there.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
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
_PR_SET_NO_NEW_PRIVS = 38
_KEY_VARIABLE = "DYNDET_ADMIN_KEY"

# Of each machine: its number in a filter, and the numbers of the system calls fchmod and seccomp.
_SYSTEM_CALLS = {"x86_64": (0xC000003E, 91, 317), "aarch64": (0xC00000B7, 52, 277)}
_REGION_MODE = 0o644
_LOAD, _SKIP_UNLESS, _RETURN = 0x20, 0x15, 0x06  # instructions of the filter
_NUMBER_AT, _MACHINE_AT, _MODE_AT = 0, 4, 24  # places in struct seccomp_data
_DO_NOTHING, _ALLOW = 0x00050000, 0x7FFF0000
_SET_MODE_FILTER, _NO_SLOWER = 1, 4  # without the second one, older kernels make filtered processes slower


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def _new_session_that_dies_with_the_guard() -> None:
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _keep_memory_private() -> bool:
    """Let this process and its children make shared memory that only this user can open; whether the kernel can."""
    os.umask(0o077)
    if platform.machine() not in _SYSTEM_CALLS:
        return False
    machine, fchmod, seccomp = _SYSTEM_CALLS[platform.machine()]
    lines = (
        (_LOAD, 0, 0, _MACHINE_AT),
        (_SKIP_UNLESS, 0, 5, machine),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_SKIP_UNLESS, 0, 3, fchmod),
        (_LOAD, 0, 0, _MODE_AT),
        (_SKIP_UNLESS, 0, 1, _REGION_MODE),
        (_RETURN, 0, 0, _DO_NOTHING),
        (_RETURN, 0, 0, _ALLOW),
    )
    instructions = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    program = _Filter(len(lines), instructions)
    kernel = ctypes.CDLL(None)
    kernel.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # without it, only root may filter
    return bool(kernel.syscall(seccomp, _SET_MODE_FILTER, _NO_SLOWER, ctypes.byref(program)) == 0)


def _make_gpu_files() -> None:
    """Make the files of the GPUs, for which CUDA starts a setuid program that a filtered server cannot start."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-modprobe", "-u", "-c=0"]
        quiet = subprocess.DEVNULL
        subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=30, check=False)


def _with_key(words: list[str], key: str) -> list[str]:
    return [word.replace(f"$({_KEY_VARIABLE})", key) for word in words] if key else words


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
        if not _keep_memory_private():
            os.write(2, b"Other users can read this server's shared memory: the kernel takes no seccomp filter.\n")

    _make_gpu_files()
    key = os.environ.pop(_KEY_VARIABLE, "")  # which no model is to see
    grace_s = options.grace_s
    server = None
    try:
        with options.log.open("ab") as log:
            server = subprocess.Popen(
                _with_key(options.command, key),
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
