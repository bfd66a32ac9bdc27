"""Reads from the server's log what a user should see."""

from __future__ import annotations

import re
from pathlib import Path

from dynamicdet.errors import InputError

_KINDS = "Internal|Invalid argument|Not found|Unavailable|Unsupported|Unknown"
_KIND = re.compile(rf"^(?:(?:{_KINDS}): )?(?:\w+: \[ONNXRuntimeError\] : \d+ : \w+ : )?")
_HARMLESS = ("NVML", "DCGM", "CacheManager Init Failed", "CUDA memory pool disabled", "CudaDriverHelper")


def open_log(path: Path) -> int:
    """Size of the log so far. Raises InputError where it cannot be written."""
    try:
        with path.open("ab") as file:
            return file.tell()
    except OSError as error:
        raise InputError(f"the log file {path} cannot be written ({error.strerror}); give another one") from error


def error_lines(log: str) -> list[str]:
    """What the server says went wrong, each once: why models failed to load, else its error messages."""
    failed = re.findall(r"^\|\s*(\S+)\s*\|\s*\d+\s*\|\s*UNAVAILABLE:\s*(.+?)\s*\|\s*$", log, flags=re.MULTILINE)
    messages = [f"model {name} cannot be loaded: {_KIND.sub('', reason)}" for name, reason in failed]
    if not messages:
        messages = re.findall(r'^E\d{4} [^\]]*\] "?(.+?)"?\s*$', log, flags=re.MULTILINE)
        messages = [message for message in messages if not any(word in message for word in _HARMLESS)]
    if not messages:
        messages = re.findall(r"^error: (.+?)\s*$", log, flags=re.MULTILINE)
    # Python code that fails adds where it failed, behind line breaks that were escaped.
    return list(dict.fromkeys(message.partition("\\n")[0] for message in messages))
