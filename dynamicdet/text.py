"""Text from files, servers and paths, made fit to print and for Markdown. This file needs only the standard library."""

from __future__ import annotations

import re

_ACTIVE = re.compile(r"[\\`*_\[\]|~$#]|(?<=www)\.|:(?=//)|^[-+=](?=[-= ]*$| )")
_NUMBERED = re.compile(r"^(\d+)([.)])(?= |$)")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def printable(text: object, *, limit: int | None = None) -> str:
    """The text on one line of printable characters: all others, such as control characters, appear as escapes.

    Whatever comes from a file, a server or a path goes through this before it reaches a terminal, a log or a message.
    A text longer than `limit` characters ends in "...".
    """
    line = "".join(char if char.isprintable() else _escape(char) for char in str(text))
    return line if limit is None or len(line) <= limit else f"{line[: max(0, limit - 3)]}..."


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def distinct(*values: float, digits: int = 4) -> tuple[str, ...]:
    """The numbers with so many significant digits, or with as many more as different numbers need to look different.

    >>> distinct(7.91, 12.0), distinct(1.0, 1.0000001)
    (('7.91', '12'), ('1', '1.0000001'))
    """
    texts: tuple[str, ...] = ()
    for precision in range(digits, 18):
        texts = tuple(f"{value:.{precision}g}" for value in values)
        if len({*texts}) == len({*values}):
            break
    return texts


def counted(count: int, one: str, many: str) -> str:
    """A count with its noun: `counted(1, "box", "boxes")` is `1 box`."""
    return f"{count:,} {one if count == 1 else many}"


def markdown(text: object) -> str:
    """The text as Markdown shows it unchanged: in paragraphs, headings, lists and tables, on one line.

    It makes no markup, no HTML, no formula and no link. Characters that cannot be printed appear as escapes.
    """
    line = _NUMBERED.sub(r"\1\\\2", _ACTIVE.sub(r"\\\g<0>", printable(text)))
    line = "".join(_ENTITIES.get(char, char) for char in line)
    return re.sub("^ | $", "&#32;", line)
