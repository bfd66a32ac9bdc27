"""Reads from the server's log what a user should see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from dynamicdet.errors import InputError

_HARMLESS = ("NVML", "DCGM", "CacheManager Init Failed", "CUDA memory pool disabled")


def open_log(path: Path) -> int:
    """Size of the log so far. Raises InputError where it cannot be written."""
    try:
        with path.open("ab") as file:
            return file.tell()
    except OSError as error:
        raise InputError(f"the log file {path} cannot be written ({error.strerror}); give another one") from error


def error_lines(log: str) -> Iterator[str]:
    """The server's own error messages, the reason of each model that failed first, each once."""
    seen: set[str] = set()
    failed = re.findall(r"^\|\s*(\S+)\s*\|\s*\d+\s*\|\s*UNAVAILABLE:\s*(.+?)\s*\|\s*$", log, flags=re.MULTILINE)
    messages = [f"model {name}: {reason}" for name, reason in failed]
    messages += re.findall(r'^E\d{4} [^\]]*\] "?(.+?)"?\s*$', log, flags=re.MULTILINE)
    messages += re.findall(r"^(error: .+?)\s*$", log, flags=re.MULTILINE)
    for message in messages:
        if message not in seen and not any(word in message for word in _HARMLESS):
            seen.add(message)
            yield message
