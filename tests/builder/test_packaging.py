"""What a user installs: the contents of wheel and sdist, how little the client loads, and what hints name there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import Once

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dist() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dyndet_dist", ROOT / "builder" / "dist.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(dist: ModuleType, once: Once) -> Path:
    """The folder with the sdist and the wheel that is made from it."""

    def make(folder: Path) -> None:
        folder.mkdir()
        dist.build(folder)

    return once("dist", make)


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("dyndet-*.whl")
    return path


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    return tmp_path / "site"


def _asked(installed: Path, code: str) -> str:
    """What a program prints that imports dyndet from the unpacked wheel."""
    head = "import sys; sys.path.insert(0, sys.argv[1])\n"
    command = [sys.executable, "-c", head + code, str(installed)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=installed).stdout.strip()


def test_wheel_and_sdist_hold_what_they_should_and_no_more(dist: ModuleType, built: Path, wheel: Path) -> None:
    (sdist,) = built.glob("dyndet-*.tar.gz")
    in_wheel, in_sdist = dist.names_in(wheel), dist.names_in(sdist)
    assert [*dist.faults_of_wheel(in_wheel), *dist.faults_of_sdist(in_sdist)] == []
    assert {"benchmarks/demo/LICENSES.md", "tests/conftest.py", "docs/install.md", "builder/install.sh"} <= in_sdist
    template = "dyndet_templates/stages/python/config.pbtxt.jinja"
    assert list(dist.faults_of_wheel(in_wheel - {template})) == [f"the wheel lacks {template}"]
    assert list(dist.faults_of_wheel(in_wheel | {"tests/conftest.py"})) == ["the wheel holds tests/conftest.py"]
    picture = "benchmarks/demo/val/images/000000.jpg"
    assert list(dist.faults_of_sdist(in_sdist | {picture} - {"LICENSE"})) == [f"the sdist holds {picture}"]
    with tarfile.open(sdist) as archive:
        assert {member.name.partition("/")[0] for member in archive} == {sdist.name.removesuffix(".tar.gz")}


def test_the_metadata_is_whole_and_what_an_upload_lacks_is_named(dist: ModuleType, wheel: Path) -> None:
    metadata = dist.metadata_of(wheel)
    assert list(dist.faults_of(metadata)) == []
    del metadata["Author"]
    assert list(dist.faults_of(metadata)) == ["the metadata lacks Author"]
    metadata.set_payload('[why](docs/why.md) ![plot](https://host/plot.png) <img src="docs/plot.png"> [here](#here)')
    changelog, version = "# Changelog\n\n## {} ({})\n", metadata["Version"]
    no_date, no_address, links = dist.not_ready(metadata, changelog=changelog.format(version, "unreleased"))
    assert "(YYYY-MM-DD)" in no_date and "Source" in no_address and links.startswith("2 links")
    metadata["Project-URL"] = "Source, https://host/dyndet"
    metadata.set_payload("[why](https://host/dyndet/why.md)")
    assert list(dist.not_ready(metadata, changelog=changelog.format(version, "2027-01-31"))) == []
    assert list(dist.not_ready(metadata, changelog=changelog.format("0.0.9", "2027-01-31")))


def test_client_loads_neither_torch_nor_onnx(installed: Path) -> None:
    code = (
        "import dyndet_client, dynamicdet\n"
        "assert dyndet_client.__file__.startswith(sys.argv[1])\n"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'pydantic', 'dyndet_builder') if m in sys.modules])"
    )
    assert _asked(installed, code) == "[]"


def test_the_package_of_that_name_is_the_client_and_loads_it_when_it_is_used(installed: Path) -> None:
    code = (
        "import dyndet; print('dyndet_client' in sys.modules, dyndet.__version__)\n"
        "import dyndet_client; print(dyndet.Detector is dyndet_client.Detector)\n"
        "print(all(getattr(dyndet, name) is getattr(dyndet_client, name) for name in dyndet_client.__all__))\n"
        "print({*dyndet.__all__} == {*dyndet_client.__all__, '__version__'}, {*dyndet.__all__} <= {*dir(dyndet)})\n"
        "print(hasattr(dyndet, 'torch'))"
    )
    version = next(installed.glob("dyndet-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    assert _asked(installed, code).split() == ["False", version, "True", "True", "True", "True", "False"]


def test_both_commands_and_the_module_tell_their_version(installed: Path) -> None:
    code = "from dyndet_builder.cli import {}; sys.argv = ['x', '--version']; {}()"
    version = _asked(installed, "import dyndet; print(dyndet.__version__)")
    assert _asked(installed, code.format("main", "main")) == f"dyndet, version {version}"
    assert _asked(installed, code.format("build_main", "build_main")) == f"dyndet-build, version {version}"
    command = [sys.executable, "-m", "dyndet", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=installed)
    assert answer.stdout == f"dyndet, version {version}\n"


def test_a_hint_outside_a_clone_names_extras_again_that_limit_what_pip_may_install(installed: Path) -> None:
    code = "from dynamicdet.extras import install_command; print(install_command('train', also=('numpy<2',)))"
    assert _asked(installed, code).endswith("install 'dyndet[server,tensorrt-rtx,train]' 'numpy<2'")


def test_the_demo_outside_a_clone_says_where_it_is_and_what_to_type_instead(installed: Path) -> None:
    code = "from dyndet_builder.cli import dyndet, run; sys.stderr = sys.stdout; print(run(dyndet, ['demo']))"
    said, status = _asked(installed, code).splitlines()
    assert status == "2" and "`make demo`" in said and "dyndet-build --target-latency 50% --checkpoint FILE" in said
