"""What programs import from `dynamicdet`, and what that loads."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import dynamicdet

WITHOUT_TORCH = ("cores", "errors", "images", "latency", "letterbox", "masks", "thresholds")


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_public_names_are_these() -> None:
    """Removing or renaming one breaks programs of users."""
    functions = ("create", "create_static", "load", "load_static", "save")
    assert sorted(dynamicdet.__all__) == ["DynamicDetector", "StaticDetector", "TwoStageDetector", *functions]
    assert set(dynamicdet.__all__) <= set(dir(dynamicdet))
    assert inspect.isclass(dynamicdet.DynamicDetector)
    assert all(inspect.isfunction(getattr(dynamicdet, name)) for name in functions)
    with pytest.raises(AttributeError, match="no attribute 'destroy'"):
        _ = dynamicdet.destroy


def test_importing_the_package_loads_no_torch_and_its_first_network_does() -> None:
    code = (
        "import sys, dynamicdet; print('torch' in sys.modules); dynamicdet.create('dy-yolov7-pico', num_classes=2);"
        "print('torch' in sys.modules)"
    )
    assert _run(code).split() == ["False", "True"]


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_numpy_only_modules_are_imported_where_torch_is_not_installed(name: str) -> None:
    assert _run(f"import sys; sys.modules['torch'] = None; import dynamicdet.{name} as m; print(m.__name__)") == (
        f"dynamicdet.{name}"
    )


@pytest.mark.parametrize("name", ["boxes", "suppression"])
def test_modules_of_tensors_keep_their_place(name: str) -> None:
    assert importlib.import_module(f"dynamicdet.{name}")
