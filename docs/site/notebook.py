"""A notebook as a page: its texts, its code, and what the code gave when the notebook was last run."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Notebook:
    """Markdown, and the pictures that it shows by file name."""

    text: str
    pictures: dict[str, bytes] = field(default_factory=dict)


def from_notebook(path: Path) -> Notebook:
    """Read a notebook of format 4."""
    pictures: dict[str, bytes] = {}
    parts = [part for cell in json.loads(path.read_text())["cells"] for part in _cell(cell, path.stem, pictures)]
    source = f"This page is a [notebook]({path.name}) to download and run."
    return Notebook("\n\n".join([parts[0], source, *parts[1:]]) + "\n", pictures)


def _cell(cell: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    source = _text(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            name = f"{stem}-{len(pictures) + 1}.png"
            pictures[name] = base64.b64decode(_text(data["image/png"]))
            yield f"![Output of the code above]({name})"
        elif "text/html" in data:
            lines = "".join(line.strip() for line in _text(data["text/html"]).splitlines())
            yield lines.replace(
                '<table border="1" class="dataframe">', "<table>"
            )  # the theme's look, not that of pandas
        else:
            yield f"```text\n{_text(output.get('text') or data['text/plain']).rstrip()}\n```"


def _text(lines: str | Iterable[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)
