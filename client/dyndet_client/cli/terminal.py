"""All that a command prints passes through here, so that no text of others can control the terminal.

`printable_output` stands between the program and both of its outputs: whatever writes there, be it click, a warning, a
log, a traceback or a library, only printable characters reach the terminal. `Console` is the one exception. It writes
rich's own colours and cursor movements, and makes the text between them printable itself. `Bars` are bars of such a
console.

A file or a pipe gets no escape codes and no breaks: sentences and rows of tables are one line each. With FORCE_COLOR it
gets colours too, but nothing that moves. NO_COLOR and TERM=dumb are obeyed.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.progress import Progress, ProgressColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from dyndet_client.cli import tables

_LINES = str.maketrans("", "", "\n\t")
_ENDLESS = 100_000
"""characters of a line of a file, which has no width"""


def printable_lines(text: str) -> str:
    r"""The text, in which all characters but printable ones, tabs and ends of lines appear as escapes.

    The escapes are those of JSON, so that JSON stays JSON, with the same values.

    >>> printable_lines("a\x1b[31m\n")
    'a\\u001b[31m\n'
    """
    if text.translate(_LINES).isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else json.dumps(char)[1:-1] for char in text)


@contextmanager
def printable_output() -> Iterator[None]:
    """Let only printable characters through to standard output and standard error, whoever writes them."""
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, _PrintableStream):
                stack.enter_context(_never_strict(stream))
                setattr(sys, name, _PrintableStream(stream))
                stack.callback(setattr, sys, name, stream)
        yield


class NobodyReadsError(Exception):
    """The program that read standard output or standard error has ended, as `head` does."""


class Console(RichConsole):
    """rich's console for text of others: no markup, emoji codes or highlighting, and only printable characters."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        """For standard output or standard error; `options` are those of rich."""
        file = (sys.stderr if stderr else sys.stdout) or io.StringIO()  # a program may have closed them
        trusted = file.trusted if isinstance(file, _PrintableStream) else file
        manner = {} if "force_terminal" in options else _manner(trusted)
        super().__init__(file=trusted, **{"highlight": False, **manner, **options, "markup": False, "emoji": False})

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; a table also fits a narrow terminal, and has one line for each row elsewhere."""
        if not any(isinstance(one, Table) for one in objects):
            super().print(*objects, **options)
            return
        options["soft_wrap"] = False  # would cut the cells
        for one in objects:
            if not isinstance(one, Table):
                super().print(one, **options)
            elif self.is_terminal:
                super().print(tables.for_width(one, self.render_str, self.width), **options)
            else:
                super().print(*tables.as_lines(one, self.render_str), sep="\n", **options)

    def on_broken_pipe(self) -> None:
        """Raises NobodyReadsError, where rich would end the program with status 1."""
        raise NobodyReadsError

    def render_str(self, text: str, **options: Any) -> Text:
        """The text for rich; escapes are made before rich computes widths."""
        return super().render_str(printable_lines(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich prints: its own control codes, and between them printable text."""
        if isinstance(renderable, Text) and (plain := printable_lines(renderable.plain)) != renderable.plain:
            given = renderable  # its styles have places in the text as it was
            renderable = Text(
                plain, given.style, justify=given.justify, overflow=given.overflow, no_wrap=given.no_wrap, end=given.end
            )
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else printable_lines(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


def _manner(file: TextIO) -> dict[str, Any]:
    """The options of rich for a file that may be no terminal; FORCE_COLOR asks for colours, not for movement."""
    if not file.closed and file.isatty():
        return {"force_terminal": True}
    colours = os.environ.get("FORCE_COLOR") and not os.environ.get("NO_COLOR")
    return {"force_terminal": False, "width": _ENDLESS, "color_system": "standard" if colours else None}


class Bars(Progress):
    """rich's progress bars on a console of ours. What is printed meanwhile appears above them."""

    def __init__(self, *columns: ProgressColumn, console: Console, **options: Any) -> None:
        """`options` are those of rich."""
        # rich would take over what others print, and obey the escape sequences in it.
        options |= {"redirect_stdout": False, "redirect_stderr": False}
        super().__init__(*columns, console=console, **options)

    def start(self) -> None:
        """Draw the bars, and print all else above them."""
        super().start()
        if self.console.is_terminal:
            self._print_above(self.console)

    def stop(self) -> None:
        """Draw the bars for the last time."""
        self._print_above(None)
        super().stop()

    def _print_above(self, console: RichConsole | None) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _PrintableStream):
                stream.print_above(console)


class _PrintableStream(io.TextIOBase):
    """Passes only printable characters, tabs and ends of lines on to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self.trusted = stream
        """the stream itself, for those that write printable text and codes of their own"""
        self._console: RichConsole | None = None
        self._line = ""
        """that has no end yet, while a console prints the lines"""

    def print_above(self, console: RichConsole | None) -> None:
        """Let the console, which draws bars on this terminal, print the lines; None: no longer."""
        if self.isatty():
            rest, self._line, self._console = self._line, "", console
            self.write(rest)

    def write(self, text: str) -> int:
        """Write the text with escapes. Raises NobodyReadsError, because click would end the program with status 1."""
        if self._console is None:
            with _broken_pipes_named():
                self.trusted.write(printable_lines(text))
        else:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._console.print(line, soft_wrap=True)
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.trusted.isatty()

    def fileno(self) -> int:
        return self.trusted.fileno()

    def flush(self) -> None:
        if not self.trusted.closed:
            with _broken_pipes_named():
                self.trusted.flush()

    def close(self) -> None:
        self.trusted.close()

    def __del__(self) -> None:
        pass  # its base would close the stream, which is not its own

    @property
    def closed(self) -> bool:
        return self.trusted.closed

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.trusted.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.trusted.errors


@contextmanager
def _broken_pipes_named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise NobodyReadsError from error


@contextmanager
def _never_strict(stream: TextIO) -> Iterator[None]:
    """Let characters that the stream's encoding lacks appear as escapes, instead of as errors or as raw bytes."""
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        if not stream.closed:
            stream.reconfigure(errors=before)
