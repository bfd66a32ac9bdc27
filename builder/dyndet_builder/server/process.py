"""One tritonserver process: started under the guard, watched, stopped, and its log read."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO

from dynamicdet.errors import InputError, ServerError
from dynamicdet.files import scratch_folder
from dyndet_builder.server.admin import ADMIN_VARIABLE
from dyndet_builder.server.embedded import EmbeddedServer, server_environment
from dyndet_builder.server.ending import Ending, out_of_memory_kills
from dyndet_builder.server.log import NewLines, error_lines, start_words, warnings_in
from dyndet_builder.server.stubs import end_processes, process_of, remove_shared_memory

_GUARD = Path(__file__).with_name("guard.py")
_STUB_TIMEOUT_S = 120  # importing onnxruntime on a busy machine takes longer than Triton's 30 s
_NOTICED_S = 3.0
_PREFIX_FILE = "shared-memory-prefix"
_LOG_BYTES = 4 << 20  # read of a log at most: its end
_MORE_S = 30.0  # beyond the time that a stop may take; no guard should take longer


class ServerProcess:
    """A running tritonserver. It also stops when this process dies, however it dies.

    The log is appended to `log_file`; None: to a file in the run folder, which `stop` removes. A stop takes no longer
    than `stop_timeout_s`. `environment` is added to this process's own, without the secrets in it. `admin_key` replaces
    `KEY_REFERENCE` in the arguments. `pid` is the process id of tritonserver itself.

    Raises InputError if the log cannot be written, and ServerError if the process cannot be started.
    """

    def __init__(
        self,
        embedded: EmbeddedServer,
        arguments: Sequence[str],
        *,
        log_file: Path | None,
        stop_timeout_s: float,
        environment: Mapping[str, str] = MappingProxyType({}),
        admin_key: str | None = None,
    ) -> None:
        self._stop_timeout_s = stop_timeout_s
        self._kills_before = out_of_memory_kills()
        self._ending: Ending | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._watch: threading.Thread | None = None
        self._scratch = ExitStack()
        self._run_folder = self._scratch.enter_context(scratch_folder("server", forget=_forget))
        self.log_file = log_file or self._run_folder / "server.log"
        try:
            self._log_start = _open_log(self.log_file)
            self._new_lines = NewLines(self.log_file, self._log_start)
            self._prefix = f"dyndet_{os.getpid()}_{secrets.token_hex(4)}"
            (self._run_folder / _PREFIX_FILE).write_text(self._prefix)
            self._guard = subprocess.Popen(
                [*self._guard_command(), *self._server_command(embedded, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**server_environment(embedded), **environment, ADMIN_VARIABLE: admin_key or ""},
                start_new_session=True,  # Ctrl-C in a terminal reaches only this process, which then stops the server
            )
            assert self._guard.stdout is not None
            self.pid = _read_pid(self._guard.stdout)
            self._watch = threading.Thread(target=self._wait_for_end, args=(self._guard,), daemon=True)
            self._watch.start()
        except BaseException:
            self.stop()
            raise

    @property
    def running(self) -> bool:
        """Whether the process runs. False only after its stubs and its shared memory are gone."""
        return self._watch is not None and self._watch.is_alive()

    @property
    def ending(self) -> Ending | None:
        """How it ended; None if it runs. Waits a moment for the rest of a server that has just died."""
        process = process_of(self.pid)
        if self._watch is not None and (process is None or process.is_dead):
            self._watch.join(_NOTICED_S)
        return None if self.running else self._ending

    def stop(self, *, within_s: float | None = None) -> None:
        """Stop the server and wait until it, its stubs and its shared memory are gone. Does nothing if stopped.

        It takes no longer than `within_s`, by default the process's `stop_timeout_s`.
        """
        guard, self._guard = self._guard, None
        watch, self._watch = self._watch, None
        within_s = self._stop_timeout_s if within_s is None else within_s
        try:
            if guard is not None:
                with suppress(ProcessLookupError):  # a guard that somebody has stopped could not stop anything
                    os.kill(guard.pid, signal.SIGCONT)
            if guard is not None and guard.stdin is not None:
                with suppress(BrokenPipeError), guard.stdin as pipe:  # the guard may be gone
                    pipe.write(f"{within_s}\n".encode())
            if guard is not None:
                try:
                    guard.wait(within_s + _MORE_S)
                except subprocess.TimeoutExpired:
                    guard.kill()
            if watch is not None:
                watch.join(_MORE_S)
        finally:
            self._scratch.close()

    @property
    def is_readable(self) -> bool:
        """Whether other users of this machine can read its shared memory."""
        for region in Path("/dev/shm").glob(f"{self._prefix}*"):
            with suppress(FileNotFoundError):
                if region.stat().st_mode & 0o077:
                    return True
        return False

    def kill(self) -> None:
        """End the server at once, without a last answer to anybody; can be called by a signal handler."""
        if self._ending is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            if self._guard is not None and self._guard.returncode is None:
                with suppress(ProcessLookupError):  # a stopped guard would not notice
                    os.kill(self._guard.pid, signal.SIGCONT)

    def error_lines(self) -> list[str]:
        """Errors in the server's log, each once: why models failed to load, else all error messages."""
        return error_lines(self.read_log())

    def warnings(self) -> list[str]:
        """What its models warn of since the last call, and whoever runs the server can mend."""
        return warnings_in(self._new_lines.read())

    def start_words(self) -> str:
        """Why the start failed: the first errors in the log, or its last lines if it has no errors, in one line."""
        return start_words(self.read_log())

    def read_log(self) -> str:
        """The log of this process, without what was in the file before."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - _LOG_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _guard_command(self) -> list[str]:
        command = [sys.executable, "-I", "-S", str(_GUARD), f"--run-folder={self._run_folder}"]
        command += [f"--log={self.log_file.resolve()}", f"--shm-prefix={self._prefix}"]
        return [*command, f"--grace-s={self._stop_timeout_s}", "--"]

    def _server_command(self, embedded: EmbeddedServer, arguments: Sequence[str]) -> list[str]:
        # Triton has two seconds less than the guard, to unload its models and to end by itself.
        exit_s = max(self._stop_timeout_s / 2, self._stop_timeout_s - 2)
        return [
            str(embedded.binary),
            f"--backend-directory={_link_backends(embedded, self._run_folder / 'backends')}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            f"--backend-config=python,stub-timeout-seconds={_STUB_TIMEOUT_S}",
            f"--exit-timeout-secs={int(exit_s)}",
            *arguments,
        ]

    def _wait_for_end(self, guard: subprocess.Popen[bytes]) -> None:
        """Wait until the guard is gone, then remove what it could not remove because it was killed."""
        assert guard.stdout is not None
        line = guard.stdout.readline().strip()
        guard.wait()
        guard.stdout.close()
        if not line:  # the kernel killed the server with its guard, and the stubs are going
            end_processes(self._prefix, within_s=_MORE_S)
            remove_shared_memory(self._prefix)
        self._ending = Ending(
            status=int(line) if line else None,
            log=self.read_log(),
            out_of_memory=out_of_memory_kills() > self._kills_before,
        )


def _forget(run_folder: Path) -> None:
    """Remove what is left of a server whose process and guard were both killed: its stubs and its shared memory."""
    prefix = (run_folder / _PREFIX_FILE).read_text() if (run_folder / _PREFIX_FILE).is_file() else ""
    if re.fullmatch(r"dyndet_\d+_[0-9a-f]{8}", prefix):
        end_processes(prefix, within_s=_MORE_S)
        remove_shared_memory(prefix)


def _link_backends(embedded: EmbeddedServer, folder: Path) -> Path:
    """A folder of backends that holds the Python backend with the stub of this interpreter."""
    python = folder / "python"
    python.mkdir(parents=True)
    for file in embedded.python_backend.iterdir():
        if file.is_file():
            (python / file.name).symlink_to(file)
    (python / embedded.stub.name).symlink_to(embedded.stub)
    return folder


def _open_log(path: Path) -> int:
    """Size of the log so far."""
    try:
        with path.open("ab") as file:
            return file.tell()
    except OSError as error:
        raise InputError(f"the log file {path} cannot be written ({error.strerror}); give another one") from error


def _read_pid(stream: IO[bytes]) -> int:
    line = stream.readline().strip()
    if not line.isdigit():
        raise ServerError("the server process could not be started; see the messages above")
    return int(line)
