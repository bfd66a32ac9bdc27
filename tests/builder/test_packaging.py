"""What a user installs: the wheel's contents, and how little the client loads."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("dyndet-*.whl")
    return path


def test_wheel_holds_every_package_its_templates_and_type_markers(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in (
        (".", "dynamicdet"),
        ("builder", "dyndet_builder"),
        ("client", "dyndet_client"),
        ("benchmarks", "dyndet_bench"),
        ("model_repository_templates", "dyndet_templates"),
    ):
        source = ROOT / folder / package
        files = {
            str(p.relative_to(ROOT / folder)) for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts
        }
        assert files <= names, f"{sorted(files - names)} are missing from the wheel"
        assert f"{package}/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "builder/"))]


def test_client_loads_neither_torch_nor_onnx(wheel: Path, tmp_path: Path) -> None:
    """From the installed wheel, as a user's program sees it."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import dyndet_client, dynamicdet; "
        "assert dyndet_client.__file__.startswith(sys.argv[1]); "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'pydantic', 'dyndet_builder') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
