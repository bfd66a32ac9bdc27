"""GitHub's Markdown as Python-Markdown, which the site is built with, reads it.

Python-Markdown wants four columns before what belongs to an item of a list, an empty line before a list, and no
backslash before a `|` in code of a table. Its `console` greys what has no prompt, so that becomes `bash`.
"""

from __future__ import annotations

import re
from itertools import accumulate

from markdown_it import MarkdownIt

_MARKER = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+")
_CODE = re.compile(r"(`+)(.+?)\1(?!`)")
_PARSER = MarkdownIt("commonmark").enable("table")


def for_python_markdown(text: str) -> str:
    """The same document with what Python-Markdown needs."""
    lines = text.splitlines()
    shift = [0] * (len(lines) + 1)  # differences: what is added from this line on
    apart = set()
    for token in _PARSER.parse(text):
        if token.map is None:
            continue
        first, end = token.map
        if token.type == "list_item_open":
            marker = _MARKER.match(lines[first])
            assert marker is not None, lines[first]
            columns = 4 - len(marker[0].lstrip())
            shift[first + 1] += columns
            shift[end] -= columns
        elif token.type in ("bullet_list_open", "ordered_list_open") and first and token.level == 0:
            apart.add(first)
        elif token.type == "fence" and token.info == "console" and (typed := _typed(token.content)):
            lines[first] = lines[first].replace("console", "bash")
            indent = len(lines[first]) - len(lines[first].lstrip())
            lines[first + 1 : end - 1] = [" " * indent + line for line in typed]
        elif token.type == "table_open":
            for number in range(first, end):
                lines[number] = _CODE.sub(lambda code: code[0].replace(r"\|", "|"), lines[number])
    result = []
    for number, (line, columns) in enumerate(zip(lines, accumulate(shift), strict=False)):
        if number in apart and lines[number - 1].strip():
            result.append("")
        result.append(" " * columns + line if line.strip() else "")
    return "\n".join(result) + "\n"


def _typed(code: str) -> list[str]:
    """The lines of a block in which everything is typed, without prompts, so that a copy of it runs; else none."""
    lines = code.splitlines()
    if not any(line.startswith("$ ") for line in lines):
        return lines
    if all(line.startswith(("$ ", " ")) or not line for line in lines):
        return [line.removeprefix("$ ") for line in lines]
    return []
