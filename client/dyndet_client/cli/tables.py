"""Shows a table of rich so that it can be read: on a terminal of any width, and in a file or a pipe.

A terminal shows the table if it fits, first as it is and then with texts on several lines. Where figures or single
words would be cut, each row becomes a paragraph. A file has no width: every row is one line, for `grep` and `awk`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TypeAlias

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

_TEXT = 20
"""characters below which a column of texts is hard to read"""
_GAP = "  "

_Styled: TypeAlias = Callable[[str], Text]
"""makes a string the text that a console shows"""


def as_lines(table: Table, styled: _Styled) -> Iterator[Text]:
    """The title, the heads, one line for each row, and the caption; a break inside a cell becomes a space."""
    if table.title:
        yield _text(table.title, styled)
    rows = list(_rows(table, styled))
    if table.show_header and any(column.header for column in table.columns):
        rows.insert(0, [_on_one_line(column.header, styled) for column in table.columns])
        for cell in rows[0]:
            cell.stylize(table.header_style or "")
    widths = [max(cell.cell_len for cell in cells) for cells in zip(*rows, strict=True)]
    for row in rows:
        for cell, width, column in zip(row, widths, table.columns, strict=True):
            pad = cell.pad_left if column.justify == "right" else cell.pad_right
            pad(width - cell.cell_len)
        line = Text(_GAP).join(row)
        line.rstrip()
        yield line
    if table.caption:
        yield _text(table.caption, styled)


def for_width(table: Table, styled: _Styled, width: int) -> RenderableType:
    """The table as a terminal of a width shows it best."""
    shown = copy.copy(table)
    shown.title = shown.caption = None  # rich would break them at the width of the table
    shown.box, shown.pad_edge, shown.padding = None, False, (0, len(_GAP), 0, 0)
    shown.columns = [copy.copy(column) for column in table.columns]
    parts: list[RenderableType] = [_text(table.title, styled)] if table.title else []
    if _fit(shown, styled, width):
        parts.append(shown)
    else:
        parts += _paragraphs(table, styled)
    if table.caption:
        parts.append(_text(table.caption, styled))
    return parts[0] if len(parts) == 1 else Group(*parts)


def _fit(table: Table, styled: _Styled, width: int) -> bool:
    """Give the columns of texts widths with which the table fits; False if figures or words would be cut."""
    most = [max((cell_len(one) for one in _lines(column, styled)), default=0) for column in table.columns]
    least = [_least(column, wide, styled) for column, wide in zip(table.columns, most, strict=True)]
    left = width - len(_GAP) * (len(least) - 1) - sum(least)
    if left < 0:
        return False
    widths = list(least)
    for index in sorted(range(len(widths)), key=lambda index: most[index] - least[index]):
        others = sum(width < wide for width, wide in zip(widths, most, strict=True)) or 1
        more = min(most[index] - widths[index], left // others)
        widths[index], left = widths[index] + more, left - more
    for column, width in zip(table.columns, widths, strict=True):
        column.width, column.no_wrap, column.overflow = width, False, "fold"
    return True


def _least(column: Column, most: int, styled: _Styled) -> int:
    """The smallest width of a column that can be read: figures stay whole, as do the words of a text."""
    words = max((cell_len(word) for line in _lines(column, styled) for word in line.split()), default=0)
    if column.justify != "right":
        return min(most, max(words, _TEXT))
    cells = max((cell_len(one) for one in _lines(column, styled, head=False)), default=0)
    return max(words, cells)


def _paragraphs(table: Table, styled: _Styled) -> Iterator[RenderableType]:
    """Each row as a paragraph: its first cell, and below it the others with their heads."""
    heads = [_on_one_line(column.header, styled).plain if table.show_header else "" for column in table.columns]
    for first, *others in _rows(table, styled):
        first.stylize("bold")
        yield first if not heads[0] or not first else Text.assemble(f"{heads[0]}: ", first)
        for head, cell in zip(heads[1:], others, strict=True):
            if cell:
                yield Padding(Text.assemble(f"{head}: " if head else "", cell), (0, 0, 0, 2))
        if table.show_header:
            yield ""


def _rows(table: Table, styled: _Styled) -> Iterator[list[Text]]:
    """The cells of each row on one line each, with the style of the row."""
    for row, cells in zip(table.rows, zip(*(column.cells for column in table.columns), strict=True), strict=True):
        texts = [_on_one_line(cell, styled) for cell in cells]
        for text in texts:
            text.stylize_before(row.style or "")
        yield texts


def _lines(column: Column, styled: _Styled, *, head: bool = True) -> Iterator[str]:
    for cell in chain([column.header] if head else [], column.cells):
        yield from _text(cell, styled).plain.split("\n")


def _text(cell: RenderableType, styled: _Styled) -> Text:
    return cell.copy() if isinstance(cell, Text) else styled(str(cell))


def _on_one_line(cell: RenderableType, styled: _Styled) -> Text:
    text = Text(" ").join(line for line in _text(cell, styled).split("\n") if line)
    text.rstrip()
    return text
