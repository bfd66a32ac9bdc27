"""`make docs`: the site of the documentation is built from the files as they are, and whole."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dynamicdet
import dyndet_client

SITE = Path(__file__).parents[1] / "docs" / "site"


def test_every_page_is_built_links_lead_somewhere_and_public_names_are_explained(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="it needs Python 3.11")
    folders = ["--output", str(tmp_path / "site"), "--pages", str(tmp_path / "pages")]
    built = subprocess.run(
        [sys.executable, str(SITE / "build.py"), *folders], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    shown = "".join(path.read_text() for path in (tmp_path / "site" / "python").glob("*.html"))
    names = {name.rpartition(".")[2] for name in re.findall(r'id="((?:dyndet_client|dynamicdet)\.[\w.]+)"', shown)}
    assert set(dyndet_client.__all__) | set(dynamicdet.__all__) <= names


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dyndet_site_check", SITE / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('<h1 id="top">Top</h1><a href="#top">up</a><a href="https://example.org/">there</a>', None),
        ('<a href="b.html">b</a>', "links to b.html, which does not exist"),
        ('<img src="b.png">', "links to b.png, which does not exist"),
        ('<a href="a.html#c">c</a>', "links to a.html#c, where no heading has this name"),
        ('<script src="https://example.org/a.js"></script>', "loads https://example.org/a.js from another machine"),
        ("<p>1. Type ```console</p>", "shows '```', so its Markdown was not understood"),
        ("<pre><code>```console</code></pre>", None),
    ],
)
def test_a_fault_of_a_page_is_named(check: ModuleType, tmp_path: Path, content: str, fault: str | None) -> None:
    (tmp_path / "a.html").write_text(content)
    assert list(check.faults(tmp_path)) == ([f"a.html {fault}"] if fault else [])
