"""An environment with dyndet and a few of its extras: links to what they bring of the packages that are installed here.

It has no pip, and takes a fraction of a second where a fresh environment takes minutes. Its metadata is true, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CODE = [ROOT, *(ROOT / name for name in ("builder", "client", "benchmarks", "model_repository_templates"))]


@dataclass(frozen=True)
class LightInstall:
    """The folder of links, which stands for site-packages."""

    folder: Path

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python in it, with no other packages."""
        paths = os.pathsep.join(map(str, (*CODE, self.folder)))
        return subprocess.run(
            [sys.executable, "-S", *words],
            env={"PATH": os.defpath, "PYTHONPATH": paths, "HOME": str(self.folder), **environment},
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            check=False,
        )


def light_install(folder: Path, *extras: str) -> LightInstall:
    """Link what dyndet requires with these extras, and what that requires."""
    folder.mkdir()
    for name in brought(*extras):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(str(distribution.locate_file(top)))
    of_dyndet = metadata.distribution("dyndet")
    described = f"dyndet-{of_dyndet.version}.dist-info"
    (folder / described).symlink_to(Path(str(of_dyndet.locate_file(described))))
    return LightInstall(folder)


@cache
def brought(*extras: str) -> set[str]:
    """The installed distributions that dyndet brings with these extras, itself left out."""
    found: set[tuple[str, str]] = set()
    _collect("dyndet", ("", *extras), found)
    return frozenset(name for name, _ in found) - {"dyndet"}


def _collect(name: str, extras: tuple[str, ...], found: set[tuple[str, str]]) -> None:
    for extra in extras:
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for requirement in _required(name, extra):
            other = canonicalize_name(requirement.name)
            _collect(other, ("", *requirement.extras), found)


def _required(name: str, extra: str) -> Iterator[Requirement]:
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement
