"""Nothing that others wrote controls the terminal: what passes through to it, and what becomes an escape."""

from __future__ import annotations

import io
import json
import logging
import re
import sys

import click
import pytest
from rich.progress import TextColumn
from rich.table import Table
from rich.text import Text

from dyndet_client.cli.terminal import Bars, Console, printable_output

HOSTILE = "\x1b[41;5mA\x1b]8;;http://evil.example\x07B\x9b31m\u202e\u2066\r\x08\x00\x7f\udc9b[red]C[/][link=file:///x]:skull:\x1b"
SGR = re.compile(r"\x1b\[[\d;]*m")


def control_codes(text: str) -> str:
    """What is left of a text without printable characters, tabs and ends of lines."""
    return "".join(char for char in text if not char.isprintable() and char not in "\n\t")


def test_whoever_prints_the_terminal_gets_printable_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with printable_output():
        click.echo(HOSTILE)
        click.echo(HOSTILE, err=True)
        sys.stdout.write(HOSTILE)
        sys.stderr.write(f"{HOSTILE}\n")
        handler = logging.StreamHandler()
        handler.emit(logging.LogRecord("x", logging.ERROR, HOSTILE, 1, "%s", (HOSTILE,), None))
        Console().print(HOSTILE, Text(HOSTILE))
        table = Table(HOSTILE, title=HOSTILE)
        table.add_row(HOSTILE)
        Console(stderr=True).print(table)
    told = capsys.readouterr()
    assert control_codes(told.out + told.err) == ""
    assert told.out.count("\\u001b[41;5mA") == 3  # click itself drops what it knows of escape sequences
    assert told.out.count(":skull:") == 4 and told.out.count("[red]C[/]") == 4


def test_colours_and_bars_are_those_of_rich_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with printable_output():
        Console().print(HOSTILE, Text(HOSTILE), style="yellow")
        terminal = Console(stderr=True, force_terminal=True)
        with Bars(TextColumn("{task.description}", markup=False), console=terminal) as bars:
            bars.add_task(HOSTILE, total=2)
            click.echo(HOSTILE, err=True)
            sys.stderr.write(f"{HOSTILE}\n")
    told = capsys.readouterr()
    assert set(SGR.findall(told.out)) == {"\x1b[33m", "\x1b[0m"}
    assert control_codes(SGR.sub("", told.out)) == ""
    rest = re.sub(r"\x1b\[(\?25[hl]|\d?[AK])|\r", "", SGR.sub("", told.err))  # how rich draws the bars again
    assert control_codes(rest) == ""
    assert "41;5" not in "".join(SGR.findall(told.err))


def test_json_keeps_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    value = {HOSTILE.replace("\udc9b", ""): ["é", "\U000e0001", "\n"]}
    with printable_output():
        click.echo(json.dumps(value, ensure_ascii=False))
    told = capsys.readouterr().out
    assert control_codes(told) == "" and "é" in told
    assert json.loads(told) == value


@pytest.mark.parametrize(
    ("encoding", "errors"), [("ascii", "surrogateescape"), ("latin-1", "strict"), ("utf-8", "strict")]
)
def test_no_character_is_too_much_for_a_terminal(encoding: str, errors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors=errors))
    with printable_output():
        click.echo(f"名 {HOSTILE}")
        Console().print(f"名 {HOSTILE}")
        sys.stdout.flush()
    assert sys.stdout.errors == errors
    assert control_codes(raw.getvalue().decode(encoding)) == ""
    assert b"\x9b" not in raw.getvalue().replace("名".encode(), b"")
