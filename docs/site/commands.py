"""The reference of the command line: a page for each command, made of what its `--help` shows."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator

import click

from dyndet_builder.cli import dyndet

_COMMON = {"--help", "--debug"}
"""options of every command"""
_SPAN = re.compile(r"(`[^`]+`)")
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*[a-z]|-[a-zA-Z](?![\w-]))")
_MARKUP = re.compile(r"([\\*_<>\[\]#|])")


@functools.cache
def command_pages() -> dict[str, str]:
    """The text of each page by its place on the site, in the order of `dyndet --help`."""
    top = click.Context(dyndet, info_name="dyndet")
    return {
        f"reference/commands/{name}.md": "\n".join(_command(command, click.Context(command, top, name), level=1))
        for name in dyndet.list_commands(top)
        if (command := dyndet.get_command(top, name)) is not None
    }


def _command(command: click.Command, context: click.Context, *, level: int) -> Iterator[str]:
    yield f"{'#' * level} {context.command_path}\n"
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"```text\n{usage}\n```\n"
    yield from _paragraphs(inspect.cleandoc(command.help or ""))
    for option in command.get_params(context):
        record = option.get_help_record(context) if isinstance(option, click.Option) else None
        if record and not _COMMON & {*option.opts}:
            yield f"`{record[0]}`\n:   {_prose(' '.join(record[1].split()))}\n"
    if isinstance(command, click.Group):
        for name, sub in command.commands.items():
            yield from _command(sub, click.Context(sub, context, name), level=level + 1)


def _paragraphs(text: str) -> Iterator[str]:
    """What the help says; a block that click leaves as it is becomes a block of code."""
    for block in re.split(r"\n\s*\n", text):
        if not block.startswith("\b\n"):
            yield _prose(" ".join(block.split())) + "\n"
            continue
        head, *lines = block.removeprefix("\b\n").splitlines()
        if head.endswith(":"):
            yield f"{_prose(head)}\n"
        else:
            lines = [head, *lines]
        code = inspect.cleandoc("\n" + "\n".join(lines))
        yield f"```{'bash' if code.startswith('dyndet') else 'text'}\n{code}\n```\n"


def _prose(text: str) -> str:
    """A sentence of the help in Markdown: options look like code, and nothing else is markup."""
    parts = _SPAN.split(text)
    parts[::2] = [_OPTION.sub(r"`\1`", _MARKUP.sub(r"\\\1", part)) for part in parts[::2]]
    return "".join(parts)
