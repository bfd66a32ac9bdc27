"""Parts of a Markdown file: README.md has more than one page of the site."""

from __future__ import annotations

import re


def section(text: str, heading: str) -> str:
    """One section of the second level as a page of its own; KeyError if there is none."""
    return re.sub(r"^#(#+ )", r"\1", _sections(text)[heading], flags=re.MULTILINE)


def without(text: str, *headings: str) -> str:
    """All but these sections of the second level; KeyError for one that is not there."""
    for heading in headings:
        text = text.replace(_sections(text)[heading], "")
    return text


def _sections(text: str) -> dict[str, str]:
    """The sections by heading; a line of a code block that looks like a heading is none."""
    starts, fenced, place = [], False, 0
    for line in text.splitlines(keepends=True):
        fenced ^= line.lstrip().startswith("```")
        if line.startswith("## ") and not fenced:
            starts.append((place, line[3:].strip()))
        place += len(line)
    ends = [start for start, _ in starts[1:]] + [len(text)]
    return {heading: text[start:end] for (start, heading), end in zip(starts, ends, strict=True)}
