"""What click says itself, in our manner: help that never breaks a name, and usage errors in one sentence."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence

import click

_SAFE = "\N{NON-BREAKING HYPHEN}"
_NARROW = 60
"""columns below which the text about an option stands below the option"""
_WIDEST = 80


class Help(click.HelpFormatter):
    """Breaks lines at spaces alone, where textwrap also breaks `dyndet-build` and `--time-budget` at hyphens."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        """As click's, which takes no terminal to be narrower than 50 columns."""
        width = width or max(20, min(shutil.get_terminal_size().columns, max_width or _WIDEST) - 2)
        super().__init__(indent_increment, width, max_width)

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """The line that shows how a command is typed."""
        super().write_usage(_whole(prog), _whole(args), prefix)

    def write_text(self, text: str) -> None:
        """A paragraph."""
        super().write_text(_whole(text))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Options or commands, and what they are for."""
        whole = [(_whole(name), _whole(text)) for name, text in rows]
        super().write_dl(whole, col_max if self.width >= _NARROW else 4, col_spacing)

    def getvalue(self) -> str:
        """The help, with the usual hyphens."""
        return super().getvalue().replace(_SAFE, "-")


class _Context(click.Context):
    formatter_class = Help


def with_our_help(command: click.Command) -> click.Command:
    """Let a command, and those below it, show their help as `Help` writes it."""
    command.context_class = _Context
    if isinstance(command, click.Group):
        for one in command.commands.values():
            with_our_help(one)
    return command


def sentence_of(error: click.ClickException) -> str:
    """What was wrong with a command line, and where its help is; one sentence."""
    text = " ".join(error.format_message().split())
    if near := getattr(error, "possibilities", None):
        text = f"{' '.join(error.message.split()).rstrip('.')} (did you mean {' or '.join(near)}?)"
    text = text.rstrip(".").replace(". Choose from: ", "; choose from ")
    if text[:1].isupper() and text[1:2].islower():
        text = text[0].lower() + text[1:]
    if isinstance(error, click.UsageError) and error.ctx is not None:
        text += f"; see `{error.ctx.command_path} --help`"
    return text


def with_options_named(text: str, command: click.Command, words: Sequence[str]) -> str:
    """The text of an error with options in place of the Python parameters that they set: --min-score for min_score.

    A name of one word is an ordinary word, too, so it is replaced only where the sentence begins with it.
    """
    for word in words:
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), word) or command
    for parameter in command.params:
        flag = max(parameter.opts, key=len)
        if not isinstance(parameter, click.Option) or not flag.startswith("--") or parameter.name is None:
            continue
        name = re.escape(parameter.name)
        pattern = (
            rf"(?<![\w./'\"`-]){name}(?![\w./='\"`(-])" if "_" in parameter.name else rf"^{name}(?= (?:must|and) )"
        )
        text = re.sub(pattern, flag, text)
    return text


def _whole(text: str) -> str:
    return text.replace("-", _SAFE)
