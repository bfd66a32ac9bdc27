"""A backend from outside the package: the worked example of CONTRIBUTING.md, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import STAGES
from dyndet_builder.calibration.topology import choose_topology
from dyndet_builder.deployment.deploy import deploy
from dyndet_builder.repository.backends import BACKENDS, Backend
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import Rendered, read_rendered
from dyndet_builder.server.docker import docker_command
from dyndet_builder.server.triton import DEFAULT_PORTS
from dyndet_builder.templates import TEMPLATES
from tests.support.toy_bundle import write_toy_bundle

ROOT = Path(__file__).parents[3]
OWN = "onnxruntime-openvino"


def _blocks() -> dict[str, list[str]]:
    """Code of the section on backends, by language."""
    _, _, section = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## Add a stage backend\n")
    found: dict[str, list[str]] = {}
    for language, code in re.findall(r"^ *```(\w+)\n(.*?)^ *```$", section.partition("\n## ")[0], re.M | re.S):
        found.setdefault(language, []).append(textwrap.dedent(code))
    return found


@pytest.fixture(autouse=True)
def table_as_before() -> Iterator[None]:
    """Take back what a test adds to the table."""
    before = dict(BACKENDS)
    yield
    BACKENDS.clear()
    BACKENDS.update(before)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example's template, where its entry was added and its test has passed."""
    (template,), (entry, test) = _blocks()["jinja"], _blocks()["python"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / OWN).mkdir()
    (tmp_path / OWN / "config.pbtxt.jinja").write_text(template)
    (tmp_path / "entry.py").write_text(entry)
    names: dict[str, Any] = {}
    exec(entry, names)
    exec(test, names)
    return tmp_path


def _rendered(folder: Path) -> Rendered:
    return read_rendered(folder / "models")


def test_the_example_renders_every_stage_and_is_read_back(example: Path) -> None:
    found = _rendered(example)
    assert found.options == RenderOptions(name="toy", backend=OWN, threads=2)
    assert {config.backend for config in found.stage_configs.values()} == {"onnxruntime"}
    assert set(found.stage_configs) == set(found.graphs) == set(STAGES)


def test_everything_that_depends_on_a_backend_knows_the_example(example: Path) -> None:
    for impossible, said in (
        ({"gpus": (0,)}, f"the {OWN} backend runs only on CPUs"),
        ({"topology": "fused"}, f"not with {OWN}; choose the topology bls, or the backend python"),
        ({"engines": example}, f"only the backend tensorrt runs engines, not the backend {OWN}"),
        ({"backend": "other"}, f"choose one of python, onnxruntime, tensorrt, openvino, {OWN}"),
    ):
        with pytest.raises(InputError, match=said):
            RenderOptions(**{"backend": OWN, **impossible})  # type: ignore[arg-type]
    assert choose_topology(example / "bundle", example, RenderOptions(backend=OWN)) is None  # without a measurement
    assert "onnxruntime==" not in docker_command(example / "models", ports=DEFAULT_PORTS)[-1]  # no Python runs it
    assert deploy(example / "models", example / "deployment").files


def test_the_command_line_offers_a_backend_that_was_added_before(example: Path) -> None:
    program = "import runpy, sys; runpy.run_path('entry.py'); from dyndet_builder.cli import main; main()"
    words = ["render", "bundle", "again", "--backend", OWN, "--threads", "2", "--no-warmup"]
    subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True, text=True)
    configs = [
        [(example / folder / f"toy_{stage}" / "config.pbtxt").read_text() for stage in STAGES]
        for folder in ("models", "again")
    ]
    assert configs[0] == configs[1]
    words = ["build", "--help"]
    shown = subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True, text=True)
    assert OWN in shown.stdout


def test_a_backend_that_is_no_longer_in_the_table_is_unknown(example: Path) -> None:
    del BACKENDS[OWN]
    with pytest.raises(InputError, match=f"backend '{OWN}' is not known"):
        RenderOptions(backend=OWN)
    found = _rendered(example)
    assert (found.model, found.gpus) == ("toy", ())  # what does not need the entry
    with pytest.raises(InputError, match=f"backend '{OWN}' is not known"):
        _ = found.options


def test_code_of_a_python_backend_goes_beside_each_graph(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.py").write_text("class TritonPythonModel: ...\n")
    (tmp_path / "mine" / "helper.py").write_text("ANSWER = 42\n")
    template = (TEMPLATES / "stages" / "python" / "config.pbtxt.jinja").read_text()
    (tmp_path / "mine" / "config.pbtxt.jinja").write_text(template)
    BACKENDS["mine"] = Backend(triton="python", template=tmp_path / "mine", batched=False)
    repository = render(write_toy_bundle(tmp_path / "bundle"), tmp_path / "models", RenderOptions(backend="mine"))
    for stage in STAGES:
        version = repository / f"toy_{stage}" / "1"
        assert {path.name for path in version.iterdir()} >= {"helper.py", "model.onnx", "model.py"}
    assert {config.max_batch_size for config in read_rendered(repository).stage_configs.values()} == {0}
