"""Hints that name an install: the smallest extra, and a command that fits the way in which dyndet was installed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dynamicdet import extras
from dynamicdet.errors import MissingExtraError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def three_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """`small` and `large` bring the absent package `nowhere`, `all` and `dev` too; `limits` is installed."""
    contents = {
        "all": ["nowhere"],
        "dev": ["nowhere"],
        "large": ["nowhere>=2", "nothing", "numpy"],
        "small": ["numpy", "pillow", "rich", "nowhere>=1"],
        "limits": ["numpy<99"],
        "newer": ["numpy>=99"],
    }
    found = {name: tuple(map(Requirement, texts)) for name, texts in contents.items()}
    monkeypatch.setattr(extras, "extras", lambda: found)


@pytest.mark.usefixtures("three_extras")
def test_the_smallest_extra_is_the_one_with_the_fewest_packages_that_are_missing() -> None:
    assert extras.smallest_extra("Nowhere") == "small"
    assert extras.smallest_extra("nowhere", among=("large",)) == "large"
    assert extras.smallest_extra("numpy") == "limits"
    assert extras.smallest_extra("unheard-of") is None


@pytest.mark.usefixtures("three_extras")
def test_another_version_counts_as_missing() -> None:
    assert [str(one) for one in extras.missing(extras.extras()["newer"])] == ["numpy>=99"]
    assert [one.name for one in extras.missing(extras.extras()["small"])] == ["nowhere"]


@pytest.mark.usefixtures("three_extras")
def test_in_a_clone_a_hint_installs_the_pinned_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert extras.install_command("small").endswith("install -c constraints.txt -e '.[small]'")
    monkeypatch.chdir(tmp_path)
    assert extras.how_to_install("unheard-of").endswith(f"install -c {ROOT}/constraints.txt unheard-of")
    words = shlex.split(extras.install_command("small", "large"))
    assert words[-5:] == ["install", "-c", f"{ROOT}/constraints.txt", "-e", f"{ROOT}[small,large]"]


@pytest.mark.usefixtures("three_extras")
def test_elsewhere_a_hint_names_the_package_and_what_limits_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "_SOURCE", tmp_path)
    assert extras.install_command("small").endswith("install 'dyndet[limits,small]'")
    assert extras.install_alone("perf-analyzer").endswith("install --no-deps perf-analyzer")


def test_a_hint_names_the_pip_of_this_python_as_it_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "my venv" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setattr(extras, "_SOURCE", tmp_path)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    assert extras.how_to_install("nowhere") == f"'{folder}/python' -m pip install nowhere"
    (folder / "pip").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    assert extras.how_to_install("nowhere") == "'my venv/bin/pip' install nowhere"
    monkeypatch.setenv("PATH", str(folder))
    assert extras.how_to_install("nowhere") == "pip install nowhere"


@pytest.mark.usefixtures("three_extras")
def test_a_module_that_is_missing_is_told_with_all_extras_that_its_user_lacks() -> None:
    lost = ModuleNotFoundError("No module named 'nowhere.inside'", name="nowhere.inside")
    told = extras.missing_package("`x`", lost, among=("large", "small", "limits"))
    assert isinstance(told, MissingExtraError) and "[large,small]" in str(told)
    unheard_of = extras.missing_package("x", ModuleNotFoundError("no", name="unheard_of"), among=("limits",))
    assert "needs unheard-of" in str(unheard_of) and "[limits]'` installs it" in str(unheard_of)
    assert extras.missing_package("x", ModuleNotFoundError("no", name="dyndet_builder.gone")) is None


def test_extras_of_the_installed_metadata_hold_what_their_requirements_bring() -> None:
    assert extras.smallest_extra("aiohttp") == "http"  # by way of tritonclient[http]
    assert {one.name for one in extras.extras()["build"]} <= {one.name for one in extras.extras()["all"]}
    assert extras.distribution_of("yaml.nodes") == "pyyaml"
    assert extras.distribution_of("prometheus_client") == "prometheus-client"
