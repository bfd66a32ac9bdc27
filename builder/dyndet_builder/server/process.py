"""One tritonserver process: started under the guard, watched, stopped, and its log read."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from dynamicdet.errors import InputError, ServerError
from dyndet_builder.server.embedded import EmbeddedServer, server_environment

_GUARD = Path(__file__).with_name("guard.py")
_STUB_TIMEOUT_S = 120  # importing onnxruntime on a busy machine takes longer than Triton's 30 s
_SHOWN_LINES = 6

_KINDS = "Internal|Invalid argument|Not found|Unavailable|Unsupported|Unknown"
_KIND = re.compile(rf"^(?:(?:{_KINDS}): )?(?:\w+: \[ONNXRuntimeError\] : \d+ : \w+ : )?")
_HARMLESS = ("NVML", "DCGM", "CacheManager Init Failed", "CUDA memory pool disabled", "CudaDriverHelper")


class ServerProcess:
    """A running tritonserver. It also stops when this process dies, however it dies.

    The log is appended to `log_file`; None: to a file in the run folder, which `stop` removes. A stop takes no longer
    than `stop_timeout_s`. `pid` is the process id of tritonserver itself.

    Raises InputError if the log cannot be written, and ServerError if the process cannot be started.
    """

    def __init__(
        self,
        embedded: EmbeddedServer,
        arguments: Sequence[str],
        *,
        log_file: Path | None,
        stop_timeout_s: float,
    ) -> None:
        self._guard: subprocess.Popen[bytes] | None = None
        self._run_folder = Path(tempfile.mkdtemp(prefix="dyndet-server-"))
        self.log_file = log_file or self._run_folder / "server.log"
        try:
            self._log_start = _open_log(self.log_file)
            prefix = f"dyndet_{os.getpid()}_{secrets.token_hex(4)}"
            guard = [sys.executable, "-I", "-S", str(_GUARD)]
            guard += [f"--run-folder={self._run_folder}", f"--log={self.log_file.resolve()}", f"--shm-prefix={prefix}"]
            guard += [f"--grace-s={stop_timeout_s}", "--"]
            server = [
                str(embedded.binary),
                f"--backend-directory={_link_backends(embedded, self._run_folder / 'backends')}",
                f"--backend-config=python,shm-region-prefix-name={prefix}",
                f"--backend-config=python,stub-timeout-seconds={_STUB_TIMEOUT_S}",
                f"--exit-timeout-secs={int(stop_timeout_s / 2)}",
                *arguments,
            ]
            self._guard = subprocess.Popen(
                guard + server,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=server_environment(embedded),
                start_new_session=True,  # Ctrl-C in a terminal reaches only this process, which then stops the server
            )
            assert self._guard.stdout is not None
            self.pid = _read_pid(self._guard.stdout)
        except BaseException:
            self.stop()
            raise

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._guard is not None and self._guard.poll() is None

    def stop(self) -> None:
        """Stop the server and wait until it, its stubs and its shared memory are gone. Does nothing if stopped."""
        guard, self._guard = self._guard, None
        if guard is not None:
            assert guard.stdin is not None and guard.stdout is not None
            guard.stdin.close()
            guard.wait()  # the guard itself limits how long a stop takes
            guard.stdout.close()
        shutil.rmtree(self._run_folder, ignore_errors=True)

    def error_lines(self) -> list[str]:
        """Errors in the server's log, each once: why models failed to load, else all error messages."""
        return _error_lines(self._read_log())

    def last_words(self) -> str:
        """The first errors in the log, or its last lines if it has no errors, in one line."""
        log = self._read_log()
        lines = _error_lines(log)[:_SHOWN_LINES] or [line.strip() for line in log.strip().splitlines()[-3:]]
        return "; ".join(lines) or "it logged nothing"

    def _read_log(self) -> str:
        try:
            with self.log_file.open("rb") as file:
                file.seek(self._log_start)
                return file.read().decode(errors="replace")
        except OSError:
            return ""


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


def _error_lines(log: str) -> list[str]:
    failed = re.findall(r"^\|\s*(\S+)\s*\|\s*\d+\s*\|\s*UNAVAILABLE:\s*(.+?)\s*\|\s*$", log, flags=re.MULTILINE)
    messages = [f"model {name} cannot be loaded: {_KIND.sub('', reason)}" for name, reason in failed]
    if not messages:
        messages = re.findall(r'^E\d{4} [^\]]*\] "?(.+?)"?\s*$', log, flags=re.MULTILINE)
        messages = [message for message in messages if not any(word in message for word in _HARMLESS)]
    if not messages:
        messages = re.findall(r"^error: (.+?)\s*$", log, flags=re.MULTILINE)
    # An error in Python code ends with its traceback, after escaped line breaks.
    return list(dict.fromkeys(message.partition("\\n")[0] for message in messages))
