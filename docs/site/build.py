"""`make docs`: builds the site of the documentation. Whatever is not right ends it with status 1.

The pages are those of docs/ and of the repository, as they are read on GitHub, one for each command, those of Python's
names, and copies of the source files that pages link to. They are put together in build/pages, where Zensical reads
them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from check import faults
from commands import command_pages
from dialect import for_python_markdown
from links import PAGES, Links
from notebook import from_notebook
from sections import section, without

SITE = Path(__file__).parent
ROOT = SITE.parents[1]
COMMANDS = "reference/commands.md"
NOTEBOOK = ROOT / "docs" / "examples" / "first-detections.ipynb"
_REPORT = """# A report

This is the summary of a sweep of the demo model (`dyndet bench sweep`).
[The full report](report.html) is one HTML file.

"""
_LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".sh": "bash"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Put the pages together, build, and check what was built."""
    parser = argparse.ArgumentParser(description="Build the site of the documentation.")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "site", help="folder of the site")
    parser.add_argument("--pages", type=Path, default=ROOT / "build" / "pages", help="folder of what it is built from")
    options = parser.parse_args(arguments)
    site, pages = options.output.resolve(), options.pages.resolve()
    for folder in (site, pages):
        shutil.rmtree(folder, ignore_errors=True)
    (pages / "docs").mkdir(parents=True)
    assemble(pages / "docs")
    (pages / "mkdocs.yml").write_text(configuration(pages / "docs"))
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=pages,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if built.returncode:  # Zensical printed the faults, and a traceback
        last = built.stderr.strip().rpartition("\n")[2]
        reason = "see above" if "--strict" in last else last
        sys.exit(f"Error: the site was not built from the pages in {pages / 'docs'}: {reason}")
    if wrong := list(faults(pages / "site")):
        sys.exit("\n".join(f"Error: {fault}" for fault in wrong))
    shutil.move(pages / "site", site)


def configuration(docs: Path) -> str:
    """mkdocs.yml for these pages; ends the program for a page that no reader would find."""
    metadata = importlib.metadata.metadata("dyndet")
    addresses = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    text = string.Template((SITE / "mkdocs.yml").read_text()).substitute(
        version=metadata["Version"],
        repository=addresses.get("Source", ""),
        commands="".join(f"\n          - {name}" for name in (COMMANDS, *command_pages())),
        root=ROOT,
    )
    shown = set(re.findall(r"- (?:.*: )?(\S+\.md)$", text, re.MULTILINE))
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    if lost := sorted((there ^ shown) - {name for name in there if name.startswith("files/")}):
        sys.exit(f"Error: docs/site/mkdocs.yml lists pages that do not exist, or lacks one: {', '.join(lost)}")
    return text


def assemble(docs: Path) -> None:
    """Write all pages, and the pictures and files that they show."""
    shutil.copytree(ROOT / "docs", docs, dirs_exist_ok=True, ignore=shutil.ignore_patterns("site", "*.md"))
    shutil.copytree(SITE / "python", docs / "python")
    shutil.copy(SITE / "site.css", docs)
    links = Links(ROOT)
    pages = {
        place: for_python_markdown(links.rewrite(text, origin=origin, place=place)) for place, origin, text in _pages()
    }
    pages |= command_pages() | {place: _copy(path) for place, path in links.texts.items()}
    for place, text in pages.items():
        (docs / place).parent.mkdir(parents=True, exist_ok=True)
        (docs / place).write_text(text)
    for place, path in links.assets.items():
        (docs / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, docs / place)
    for name, data in from_notebook(NOTEBOOK).pictures.items():
        (docs / "examples" / name).write_bytes(data)


def _pages() -> Iterator[tuple[str, Path, str]]:
    """Where each page is on the site, the file that it is made from, and its text."""
    for path in (ROOT / "docs").glob("*.md"):
        yield path.name, path, path.read_text()
    summary = ROOT / "docs" / "demo-report" / "summary.md"
    yield "demo-report/summary.md", summary, _REPORT + summary.read_text()
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/demo/MODEL_CARD.md", "benchmarks/demo/LICENSES.md"):
        yield PAGES[name], ROOT / name, (ROOT / name).read_text()
    licence = ROOT / "LICENSE"
    yield PAGES["LICENSE"], licence, f"# Licence of the code\n\n```text\n{licence.read_text()}```\n"
    yield PAGES["docs/examples/first-detections.ipynb"], NOTEBOOK, from_notebook(NOTEBOOK).text
    readme = ROOT / "README.md"
    text = readme.read_text()
    try:
        yield PAGES["README.md"], readme, without(text, "All commands", "Where each thing is")
        yield COMMANDS, readme, section(text, "All commands")
    except KeyError as error:
        sys.exit(f"Error: README.md has no section {error}, which docs/site/build.py puts on a page of its own")


def _copy(path: Path) -> str:
    """The page of a source file; the search does not find it."""
    name, fence = path.relative_to(ROOT), "`" * 6
    language = _LANGUAGES.get(path.suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n# {name}\n\n{fence}{language}\n{path.read_text()}\n{fence}\n"


if __name__ == "__main__":
    main()
