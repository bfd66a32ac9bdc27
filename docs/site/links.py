"""Links that lead somewhere on GitHub, made to lead to the same place on the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "licence.md",
    "benchmarks/demo/MODEL_CARD.md": "demo/model-card.md",
    "benchmarks/demo/LICENSES.md": "demo/licences.md",
    "docs/examples/first-detections.ipynb": "examples/first-detections.md",
}
"""what is not a Markdown file of docs/, and its page"""
MOVED = {"README.md#all-commands": "reference/commands.md", "README.md#where-each-thing-is": "index.md"}
"""sections that are not on the page of their file"""
_PICTURES = {".png", ".jpg", ".svg"}
_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"\[[\w/-]+\.md\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]+)?\)")
"""a link whose text is the name of a document"""
_LINK = re.compile(r'(?P<before>\]\(|<img src=")(?P<target>[^)\s"]+)')


class Links:
    """Rewrites the links of pages, and remembers which files outside docs/ they need.

    `texts` are source files that get a page, `assets` pictures that are copied; both by their place on the site.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.texts: dict[str, Path] = {}
        self.assets: dict[str, Path] = {}

    def rewrite(self, text: str, *, origin: Path, place: str) -> str:
        """The text of `origin`, a file of the repository, with links as its page at `place` needs them.

        A link that is called like a document, such as `install.md`, gets the title of its page.
        """

        def replaced(match: re.Match[str]) -> str:
            target = match["target"]
            if re.match(r"[a-z]+:|#", target):
                return match[0]
            file, _, anchor = target.partition("#")
            name = posixpath.normpath((origin.parent / file).relative_to(self._root).as_posix())
            found = self._place(name, anchor)
            return match["before"] + posixpath.relpath(found, posixpath.dirname(place) or ".")

        def titled(match: re.Match[str]) -> str:
            title = (origin.parent / match["target"]).read_text().partition("\n")[0].removeprefix("# ")
            return f"[{title}]({match['target']}{match['anchor'] or ''})"

        parts = _FENCED.split(text)
        parts[::2] = [_LINK.sub(replaced, _NAMED.sub(titled, part)) for part in parts[::2]]
        return "".join(parts)

    def _place(self, name: str, anchor: str) -> str:
        if anchor and (moved := MOVED.get(f"{name}#{anchor}")):
            return moved
        ending = f"#{anchor}" if anchor else ""
        if name in PAGES:
            return PAGES[name] + ending
        if name.startswith("docs/"):
            return name.removeprefix("docs/") + ending
        path = self._root / name
        if path.suffix in _PICTURES:
            self.assets[f"files/{name}"] = path
            return f"files/{name}"
        self.texts[f"files/{name}.md"] = path
        return f"files/{name}.md{ending}"
