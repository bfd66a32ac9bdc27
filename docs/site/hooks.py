"""Makes the pages of the site: those of docs/ and the repository, one for each command, and copies of linked files."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commands import command_pages
from dialect import for_mkdocs
from links import PAGES, Links
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from notebook import from_notebook
from sections import section, without

SITE = Path(__file__).parent
ROOT = SITE.parents[1]
COMMANDS = "reference/commands.md"
_SEARCHED_NOT = "---\nsearch:\n  exclude: true\n---\n"
_LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".sh": "bash"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the version and the repository's address, and list the commands."""
    metadata = importlib.metadata.metadata("dyndet")
    config.site_name = f"dyndet {metadata['Version']}"
    addresses = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL", []))
    config.repo_url = addresses.get("Source")
    reference: list[dict[str, Any]] = next(part["Reference"] for part in config.nav or [] if "Reference" in part)
    entry = next(one for one in reference if "Commands" in one)
    entry["Commands"] = [COMMANDS, *command_pages()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put a page in the place of every document, and add what is made here or lies outside docs/."""
    links = Links(ROOT)
    pages = dict(_pages(files))
    made = {
        place: for_mkdocs(links.rewrite(text, origin=origin, place=place)) for place, (origin, text) in pages.items()
    }
    made |= command_pages()
    made |= {f"python/{path.name}": path.read_text() for path in (SITE / "python").glob("*.md")}
    made |= {place: _copy(path) for place, path in links.texts.items()}
    for place, text in made.items():
        _put(files, File.generated(config, place, content=text))
    for place, path in links.assets.items():
        _put(files, File.generated(config, place, abs_src_path=str(path)))
    notebook = from_notebook(ROOT / "docs/examples/first-detections.ipynb")
    for name, data in notebook.pictures.items():
        _put(files, File.generated(config, f"examples/{name}", content=data))
    _put(files, File.generated(config, "site.css", abs_src_path=str(SITE / "site.css")))
    return files


def _pages(files: Files) -> Iterator[tuple[str, tuple[Path, str]]]:
    """Where each page is on the site, the file that it is made from, and its text."""
    for file in files.documentation_pages():
        path = Path(str(file.abs_src_path))
        yield file.src_uri, (path, path.read_text())
    for name, place in PAGES.items():
        path = ROOT / name
        if path.suffix == ".ipynb":
            yield place, (path, from_notebook(path).text)
        elif name == "LICENSE":
            yield place, (path, f"# Licence of the code\n\n```text\n{path.read_text()}```\n")
        elif name != "README.md":
            yield place, (path, path.read_text())
    readme = ROOT / "README.md"
    text = readme.read_text()
    try:
        yield PAGES["README.md"], (readme, without(text, "All commands", "Where each thing is"))
        yield COMMANDS, (readme, section(text, "All commands"))
    except KeyError as error:
        raise PluginError(f"README.md has no section {error}; docs/site/hooks.py needs it") from None


def _put(files: Files, file: File) -> None:
    if old := files.get_file_from_path(file.src_uri):
        files.remove(old)
    files.append(file)


def _copy(path: Path) -> str:
    name = path.relative_to(ROOT)
    fence = "`" * 6
    return f"{_SEARCHED_NOT}# {name}\n\n{fence}{_LANGUAGES.get(path.suffix, 'text')}\n{path.read_text()}\n{fence}\n"
