"""Reads what is worth telling from the log of a server."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path

_SHOWN_LINES = 6
_LAST_LINES = 2

_KINDS = "Internal|Invalid argument|Not found|Unavailable|Unsupported|Unknown"
_KIND = re.compile(rf"^(?:(?:{_KINDS}): )?(?:\w+: \[ONNXRuntimeError\] : \d+ : \w+ : )?")
_HARMLESS = ("NVML", "DCGM", "CacheManager Init Failed", "CUDA memory pool disabled", "CudaDriverHelper")
_UNTOLD = ("model_config_content_name_ is empty", "failed to poll model")  # logged also when all is well
_RECENT = timedelta(seconds=10)
_ERROR = re.compile(r'^E(\d{4} \d\d:\d\d:\d\d)[^\]]*\] "?(.+?)\s*"?\s*$', re.MULTILINE)
_WARNING = re.compile(r'^W\d{4} [^\]]*\] "?(.+?)\s*"?\s*$')
_REFUSED_FILE = "so the earlier thresholds stay in force"  # as the public model says it
_MOST_NEW = 4 << 20
_THROWN = re.compile(r"^terminate called after throwing an instance of '(.+)'$", re.MULTILINE)
_SIGNAL = re.compile(r"^Signal \((\d+)\) received", re.MULTILINE)
_FRAME = re.compile(r"^ *[1-9]\d*# (.+) in (\S+)$", re.MULTILINE)  # the first frame is the one that prints them
_UNHELPFUL_LIBRARIES = ("libc.so", "libc-", "libpthread", "libstdc++", "libgcc", "ld-linux")
_SERVER = "tritonserver"


class NewLines:
    """The lines that are added to a log, each once; of many at a time, only the first megabytes are read."""

    def __init__(self, path: Path, start: int) -> None:
        self._path, self._place = path, start
        self._rest = b""

    def read(self) -> list[str]:
        """The whole lines since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._place)
                content = file.read(_MOST_NEW)
        except OSError:
            return []
        self._place += len(content)
        *lines, self._rest = (self._rest[-_MOST_NEW:] + content).split(b"\n")
        return [line.decode(errors="replace") for line in lines]


def warnings_in(lines: Iterable[str]) -> list[str]:
    """What models warn of that whoever runs the server can mend: a file that was changed and is damaged."""
    found = (_WARNING.match(line) for line in lines)
    return [match[1] for match in found if match and _REFUSED_FILE in match[1]]


def error_lines(log: str) -> list[str]:
    """Errors in a log, each once: why models failed to load, else all error messages."""
    failed = re.findall(r"^\|\s*(\S+)\s*\|\s*\d+\s*\|\s*UNAVAILABLE:\s*(.+?)\s*\|\s*$", log, flags=re.MULTILINE)
    messages = [f"model {name} cannot be loaded: {_KIND.sub('', reason)}" for name, reason in failed]
    if not messages:
        messages = _errors(log)
    if not messages:
        messages = re.findall(r"^error: (.+?)\s*$", log, flags=re.MULTILINE)
    # An error in Python code ends with its traceback, after escaped line breaks.
    return list(dict.fromkeys(message.partition("\\n")[0] for message in messages))


def start_words(log: str) -> str:
    """Why a start failed: the first errors in the log, or its last lines if it has no errors, in one line."""
    lines = error_lines(log)[:_SHOWN_LINES] or _crash(log)
    lines = lines or [line.strip() for line in log.strip().splitlines()[-3:]]
    return "; ".join(lines) or "it logged nothing"


def last_words(log: str, ended: datetime) -> str:
    """What a server logged just before it ended, in one line; empty if that explains nothing.

    These are the errors of its last seconds and, after a crash, what was thrown and where.
    """
    errors = [
        message.partition("\\n")[0].rstrip(" .;")
        for time, message in _ERROR.findall(log)
        if _is_recent(time, ended) and not any(word in message for word in (*_HARMLESS, *_UNTOLD))
    ]
    return "; ".join([*dict.fromkeys(errors[-_LAST_LINES:]), *_crash(log)])


def last_signal(log: str) -> int | None:
    """The signal that the server last noted in its log."""
    numbers = _SIGNAL.findall(log)
    return int(numbers[-1]) if numbers else None


def _is_recent(time: str, ended: datetime) -> bool:
    """Whether a time in the log, such as `1126 02:03:08` (UTC, without a year), is one of the last seconds."""
    try:
        moment = datetime.strptime(f"{ended.year} {time}", "%Y %m%d %H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:  # a line of somebody else
        return False
    return abs(ended - moment) < _RECENT


def _errors(log: str) -> list[str]:
    messages = [message for _, message in _ERROR.findall(log)]
    return [message for message in messages if not any(word in message for word in _HARMLESS)]


def _crash(log: str) -> list[str]:
    """An exception that nothing caught, and the first place of a backtrace that is not in the system's libraries."""
    told = [f"uncaught {name}" for name in _THROWN.findall(log)[-1:]]
    for name, path in _FRAME.findall(log):
        library = path.rpartition("/")[2]
        is_named = not name.startswith("0x")
        if not library.startswith(_UNHELPFUL_LIBRARIES) and (is_named or library != _SERVER):
            return [*told, f"crashed in {name} ({library})" if is_named else f"crashed in {library}"]
    return told
