"""Headers in the words of a command line: as they are, or in a file that `ps` does not show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynamicdet.errors import InputError
from dynamicdet.redaction import remember_secret

_MOST_BYTES = 1 << 16


def read_headers(texts: Sequence[str]) -> dict[str, str]:
    """Headers from texts like 'NAME: VALUE', or '@FILE' with one header per line.

    Raises InputError for a header without a colon, which it does not show, and for a file that cannot be read.
    """
    lines = [line for text in texts for line in (lines_of(text[1:]) if text.startswith("@") else [text])]
    pairs = [line.partition(":") for line in lines]
    for name, colon, _ in pairs:
        if not colon:  # the text may be the secret itself
            raise InputError("a header has no colon: give it as 'NAME: VALUE', or @FILE with one such line per header")
        if not name.strip():
            raise InputError("a header has no name before its colon: give it as 'NAME: VALUE'")
    headers = {name.strip(): value.strip() for name, _, value in pairs}
    for value in headers.values():
        remember_secret(value)
    return headers


def lines_of(path: str) -> list[str]:
    """The lines of a file with headers or a key, without empty ones. Raises InputError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES)
        lines = [line.strip() for line in content.decode().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"the header file {path!r} cannot be read: {reason}") from error
    if not lines:
        raise InputError(f"the header file {path!r} is empty; write one header per line, 'NAME: VALUE'")
    return lines
