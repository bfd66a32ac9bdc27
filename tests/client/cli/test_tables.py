"""Tables can be read everywhere: one line for each row in a file, and nothing cut on a terminal of any width."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.table import Table
from rich.text import Text

from dyndet_client.cli.terminal import Console

SGR = re.compile(r"\x1b\[[\d;]*m")
PATH = "build/demo/model_repository/dyndet/1/operating_points.json"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def measured() -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("load", "threshold", "hard\nimages", "images/s", "mean, ms", "p99, ms"):
        table.add_column(head, justify="left" if head == "load" else "right")
    table.add_row("concurrency 1, batch 1", "0.1234", "50.0%", "123.4", "12.34", "56.78")
    table.add_row("4 requests/s", Text("missing", "red"), style="bold")
    table.title, table.caption = "Two loads that were measured one after the other, in turn", "hard: " + "word " * 20
    return table


def texts() -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("hard share", "46.0% of the held-out images, 50.0% of the calibration images, measured in turn")
    table.add_row("points", PATH)
    return table


def printed(table: Table, monkeypatch: pytest.MonkeyPatch, *, width: int | None = None, **variables: str) -> str:
    """What reaches a terminal of a width, or a file."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": str(width or 80), **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", io.StringIO() if width is None else _Terminal())
    Console().print(table)
    return sys.stdout.getvalue()  # type: ignore[attr-defined]


def test_a_file_gets_one_plain_line_for_each_row_whatever_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    title, heads, first, second, caption = printed(measured(), monkeypatch).splitlines()
    assert title == "Two loads that were measured one after the other, in turn" and caption.count("word") == 20
    assert heads == "load                    threshold  hard images  images/s  mean, ms  p99, ms"
    assert first == "concurrency 1, batch 1     0.1234        50.0%     123.4     12.34    56.78"
    assert second == "4 requests/s              missing"
    assert [line.split("  ")[0] for line in printed(texts(), monkeypatch).splitlines()] == ["hard share", "points"]


@pytest.mark.parametrize("table", [measured, texts])
@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_terminal_of_any_width_shows_every_word_and_figure_whole(
    width: int, table: type[Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = SGR.sub("", printed(table(), monkeypatch, width=width))
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    wanted = SGR.sub("", printed(table(), monkeypatch)).replace(PATH, "").split()
    words = shown.replace(":", "").split()
    assert all(word.strip(":") in words for word in wanted)
    assert PATH in "".join(shown.split()) or table is measured  # a path without blanks goes on in the next line


def test_a_table_that_does_not_fit_becomes_paragraphs_with_the_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [line.rstrip() for line in SGR.sub("", printed(measured(), monkeypatch, width=40)).splitlines()]
    at = shown.index("load: concurrency 1, batch 1")
    assert shown[at + 1 : at + 4] == ["  threshold: 0.1234", "  hard images: 50.0%", "  images/s: 123.4"]
    assert shown[shown.index("load: 4 requests/s") + 1] == "  threshold: missing"


def test_colours_are_for_terminals_and_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    red = "\x1b[1;31m"
    assert red in printed(measured(), monkeypatch, width=200)
    assert red in printed(measured(), monkeypatch, FORCE_COLOR="1")
    assert "\x1b" not in printed(measured(), monkeypatch)
    assert "\x1b" not in printed(measured(), monkeypatch, FORCE_COLOR="1", NO_COLOR="1")
    assert "31m" not in printed(measured(), monkeypatch, width=200, NO_COLOR="1")
    assert "\x1b" not in printed(measured(), monkeypatch, width=80, TERM="dumb")
