"""Text from files, servers and paths, made fit to print. This file needs only the standard library."""

from __future__ import annotations


def printable(text: object, *, limit: int | None = None) -> str:
    """The text on one line of printable characters: all others, such as control characters, appear as escapes.

    Whatever comes from a file, a server or a path goes through this before it reaches a terminal, a log or a message.
    A text longer than `limit` characters ends in "...".
    """
    line = "".join(char if char.isprintable() else _escape(char) for char in str(text))
    return line if limit is None or len(line) <= limit else f"{line[: max(0, limit - 3)]}..."


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
