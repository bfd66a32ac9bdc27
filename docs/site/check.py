"""What a built site must not have: links that lead nowhere, and parts that come from another machine."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"script", "img", "link", "iframe", "source"}


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str | None] = set()
        self.links: list[tuple[str, str]] = []
        self.text: list[str] = []
        self._code = 0
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._code += tag in ("code", "script", "style")
        self.anchors |= {values.get("id"), values.get("name")}
        target = values.get("href") or values.get("src")
        if target:
            self.links.append((tag, target))

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("code", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.text.append(data)


def faults(site: Path) -> Iterator[str]:
    """One sentence for each fault of the pages in a folder. A link to another site is none; it is not followed."""
    pages = {path: _Page(path) for path in sorted(site.rglob("*.html")) if path.name not in ("404.html", "report.html")}
    for path, page in pages.items():
        name = path.relative_to(site)
        for mark in ("```", "](", "::: "):
            if any(mark in text for text in page.text):
                yield f"{name} shows {mark!r}, so its Markdown was not understood"
        for tag, target in page.links:
            if fault := _fault(path, tag, target, pages):
                yield f"{name} {fault}"


def _fault(path: Path, tag: str, target: str, pages: dict[Path, _Page]) -> str | None:
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return f"loads {target} from another machine" if tag in _LOADED and parts.scheme != "data" else None
    file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not file.exists():
        return f"links to {target}, which does not exist"
    anchor = unquote(parts.fragment)
    if anchor and file in pages and anchor not in pages[file].anchors:
        return f"links to {target}, where no heading has this name"
    return None
