"""The notebook of docs/ runs from its first cell to its last, and what is stored in it reads well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from dyndet_builder.server.triton import TritonServer

NOTEBOOK = Path(__file__).parents[3] / "docs" / "examples" / "first-detections.ipynb"
_ALL, _FEW = '.glob("*.jpg"))[:60]', '.glob("*.jpg"))[:8]'
"""pictures: in the notebook, and enough for a test"""


def _kinds(notebook: Any) -> list[tuple[int, str]]:
    """Cell number and type of each picture, table and error that the cells show."""
    shown = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            kinds = output.get("data", {output.output_type: ""})
            shown += [(number, kind) for kind in kinds if kind in ("image/png", "text/html", "error")]
    return shown


def test_the_notebook_runs_and_shows_pictures_a_table_and_plots(
    server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNDET_URL", server.grpc_url)
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    stored = _kinds(notebook)
    first = notebook.cells[1]
    assert _ALL in first.source
    first.source = first.source.replace(_ALL, _FEW)
    NotebookClient(
        notebook, timeout=120, startup_timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()
    kinds = [kind for _, kind in _kinds(notebook)]
    assert (kinds.count("image/png"), kinds.count("text/html"), kinds.count("error")) == (4, 1, 0)
    assert stored == _kinds(notebook), "the stored outputs are those of other cells: run it again, see docs/client.md"


def test_the_stored_outputs_name_no_place_of_a_machine() -> None:
    text = NOTEBOOK.read_text()
    assert len(text) < 1 << 20
    assert not [place for place in ("/home/", "/root/", "/tmp/", "/work/", "site-packages") if place in text]
