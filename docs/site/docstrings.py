"""Docstrings as Markdown: examples of doctest, and what stands indented below `::`, become blocks of code."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_DOCTEST = re.compile(r"(?:^>>> .*\n)(?:^\S.*\n|^ +\S.*\n)*", re.MULTILINE)
_LITERAL = re.compile(r"^::\n\n((?: {4}.*\n|\n)+)", re.MULTILINE)


class CodeBlocks(griffe.Extension):
    """Rewrites the docstring of each object before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every object of a package."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The docstring with fences around code.

    >>> print(fenced("One.\\n\\n>>> 1 + 1\\n2"))
    One.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    text = _DOCTEST.sub(lambda found: f"```pycon\n{found[0]}```\n", text + "\n")
    return _LITERAL.sub(_block, text).strip()


def _block(found: re.Match[str]) -> str:
    code = textwrap.dedent(found[1]).strip("\n")
    language = "text" if re.search("[├└]", code) else "python"
    return f"```{language}\n{code}\n```\n\n"
