"""Numbers and foreign texts as a report prints them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from dynamicdet.text import markdown

MISSING = "–"
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def plain(text: str) -> str:
    """Any text as one printable line: names from files and servers may hold line breaks and control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def shortened(text: str, length: int) -> str:
    """A line of at most `length` characters, for a legend."""
    line = plain(text)
    return line if len(line) <= length else line[: length - 1] + "…"


def legend(text: str, length: int) -> str:
    """A name in a legend of matplotlib, which leaves out what begins with '_': an invisible character goes before."""
    line = shortened(text, length)
    return f"\N{ZERO WIDTH SPACE}{line}" if line.startswith("_") else line


def spreadsheet(value: object) -> object:
    """A value of a CSV file. Text that a spreadsheet would compute as a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def inert(text: str) -> str:
    """Text that Markdown prints as it is, in a table too: no markup, no HTML, no line breaks."""
    return markdown(plain(text))


def sentence(text: str) -> str:
    """The text as one line that ends in a full stop."""
    return plain(text).rstrip(". ") + "."


def column_decimals(values: Iterable[float | None]) -> int:
    """The number of decimals for a column of numbers, so that the decimal points are aligned."""
    largest = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
    return 2 if largest < 20 else 1 if largest < 1000 else 0


def column_texts(values: Sequence[float | None], decimals: int | None = None) -> tuple[str, ...]:
    """The numbers of one column with the same number of decimals; an unknown number is a dash."""
    digits = column_decimals(values) if decimals is None else decimals
    return tuple(MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}f}" for value in values)


def number(value: float) -> str:
    """A number for a sentence, with about three digits."""
    size = abs(value)
    return f"{value:.{2 if size < 10 else 1 if size < 100 else 0}f}"


def milliseconds(value: float) -> str:
    """A latency for a sentence."""
    return f"{number(value)} ms"


def percent(share: float) -> str:
    """A share, 0 to 1, for a sentence; a small share is not rounded to 0."""
    value = 100 * share
    return f"{value:.1f} %" if 0 < abs(value) < 1 or 99 < value < 100 else f"{value:.0f} %"


def counted(count: int, one: str) -> str:
    """A count with its noun: `1 picture`, `12,345 pictures`."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def threshold_decimals(thresholds: Iterable[float]) -> int:
    """Enough decimals to distinguish these thresholds from each other and from 0 and 1."""
    values = {*thresholds, 0.0, 1.0}
    for digits in (3, 4, 5, 6, 7, 8):
        if len({f"{value:.{digits}f}" for value in values}) == len(values):
            return digits
    return 9
