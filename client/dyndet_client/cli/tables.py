"""Shows a table of rich so that it can be read: on a terminal of any width, and in a file or a pipe.

A terminal shows the table if it fits, first as it is and then with texts on several lines. Where figures or single
words would be cut, each row becomes a paragraph. A file has no width: every row is one line, for `grep` and `awk`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from dyndet_client.cli.terminal import Console

_TEXT = 20
"""characters below which a column of texts is hard to read"""
_GAP = "  "


def as_lines(table: Table, console: Console) -> Iterator[Text]:
    """The title, the heads, one line for each row, and the caption; a break inside a cell becomes a space."""
    if table.title:
        yield _text(table.title, console)
    rows = [[_on_one_line(cell, console) for cell in row] for row in _rows(table)]
    if table.show_header and any(column.header for column in table.columns):
        rows.insert(0, [_on_one_line(column.header, console) for column in table.columns])
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
        yield _text(table.caption, console)


def for_width(table: Table, console: Console) -> RenderableType:
    """The table as a terminal of the console's width shows it best."""
    shown = copy.copy(table)
    shown.title = shown.caption = None  # rich would break them at the width of the table
    shown.box, shown.pad_edge, shown.padding = None, False, (0, len(_GAP), 0, 0)
    shown.columns = [copy.copy(column) for column in table.columns]
    parts: list[RenderableType] = [_text(table.title, console)] if table.title else []
    if _fit(shown, console):
        parts.append(shown)
    else:
        parts += _paragraphs(table, console)
    if table.caption:
        parts.append(_text(table.caption, console))
    return parts[0] if len(parts) == 1 else Group(*parts)


def _fit(table: Table, console: Console) -> bool:
    """Give the columns of texts widths with which the table fits; False if figures or words would be cut."""
    most = [max((cell_len(one) for one in _lines(column, console)), default=0) for column in table.columns]
    least = [_least(column, wide, console) for column, wide in zip(table.columns, most, strict=True)]
    left = console.width - len(_GAP) * (len(least) - 1) - sum(least)
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


def _least(column: Column, most: int, console: Console) -> int:
    """The smallest width of a column that can be read: figures stay whole, as do the words of a text."""
    words = max((cell_len(word) for line in _lines(column, console) for word in line.split()), default=0)
    if column.justify != "right":
        return min(most, max(words, _TEXT))
    cells = max((cell_len(one) for one in _lines(column, console, head=False)), default=0)
    return max(words, cells)


def _paragraphs(table: Table, console: Console) -> Iterator[RenderableType]:
    """Each row as a paragraph: its first cell, and below it the others with their heads."""
    heads = [_on_one_line(column.header, console).plain if table.show_header else "" for column in table.columns]
    for number, row in enumerate(_rows(table)):
        first, *others = (_on_one_line(cell, console) for cell in row)
        if number and table.show_header:
            yield ""
        first.stylize("bold")
        yield first if not heads[0] or not first else Text.assemble(f"{heads[0]}: ", first)
        for head, cell in zip(heads[1:], others, strict=True):
            if cell:
                yield Padding(Text.assemble(f"{head}: " if head else "", cell), (0, 0, 0, 2))


def _rows(table: Table) -> Iterator[Sequence[RenderableType]]:
    """The cells of each row, with the style of the row."""
    for row, cells in zip(table.rows, zip(*(column.cells for column in table.columns), strict=True), strict=True):
        yield [Text(str(cell), row.style) if row.style else cell for cell in cells]


def _lines(column: Column, console: Console, *, head: bool = True) -> Iterator[str]:
    for cell in chain([column.header] if head else [], column.cells):
        yield from _text(cell, console).plain.split("\n")


def _text(cell: RenderableType, console: Console) -> Text:
    return cell.copy() if isinstance(cell, Text) else console.render_str(str(cell))


def _on_one_line(cell: RenderableType, console: Console) -> Text:
    text = Text(" ").join(line for line in _text(cell, console).split("\n") if line)
    text.rstrip()
    return text
