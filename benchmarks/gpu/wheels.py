"""Downloads what dyndet needs on a machine with a GPU and without a network, PyTorch excepted.

Run it with the Python of an installed dyndet, as its packages tell what they need:
    .venv/bin/python benchmarks/gpu/wheels.py FOLDER --python 3.12
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
EXTRAS = ("build", "bench")
BUILDING = ("hatchling", "editables", "pathspec", "pluggy", "packaging", "trove-classifiers")
"""what installs dyndet itself without a network"""
NOT_TAKEN = ("torch", "triton", "onnxruntime")
"""PyTorch and its libraries are there or too large; ONNX Runtime's package for GPUs takes the place of the other"""
GLIBC = ("2_34", "2_31", "2_28", "2_27", "2_24", "2_17")


def needed(requirement: str, python: str, found: set[str] | None = None) -> set[str]:
    """Names of all packages that a requirement needs on a Python version, itself included."""
    found = set() if found is None else found
    wanted = Requirement(requirement)
    name = canonicalize_name(wanted.name)
    if name in NOT_TAKEN:
        return found
    first = name not in found
    found.add(name)
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return found
    machine = {"python_version": python, "python_full_version": f"{python}.0"}
    for line in lines:
        inner = Requirement(line)
        applies = inner.marker is None or any(
            inner.marker.evaluate({**machine, "extra": extra}) for extra in (wanted.extras or {""})
        )
        if applies and (first or wanted.extras):
            needed(line.partition(";")[0], python, found)
    return found


def pinned(python: str) -> dict[str, str]:
    """The pinned version of each package for a Python version."""
    pins = {}
    for line in CONSTRAINTS.read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                pins[canonicalize_name(pin.name)] = f"{pin.name}{pin.specifier}"
    return pins


def main() -> int:
    """Download the wheels; the exit status is 1 if one could not be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the wheels go")
    parser.add_argument("--python", default="3.12", help="version of the other machine's Python")
    given = parser.parse_args()
    if not re.fullmatch(r"3\.[0-9]+", given.python):
        parser.error(f"--python takes a version such as 3.12, not {given.python}")
    try:
        given.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{given.folder} cannot be an output folder: {error.strerror}")
    pins = pinned(given.python)
    names = needed(f"dyndet[{','.join(EXTRAS)}]", given.python) - {"dyndet"}
    wanted = [pins.get(name, name) for name in sorted({*names, *BUILDING})]
    wanted.append(pins["onnxruntime"].replace("onnxruntime", "onnxruntime-gpu"))
    tags = [f"--platform=manylinux_{one}_x86_64" for one in GLIBC]
    tags += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    fixed = ["--quiet", "--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={given.python}"]
    lacking = []
    for one in wanted:
        words = [sys.executable, "-m", "pip", "download", *fixed, *tags, f"--dest={given.folder}", one]
        if subprocess.run(words, check=False).returncode:
            lacking.append(one)
    print(f"{len(list(given.folder.glob('*.whl')))} wheels are in {given.folder}.")
    if lacking:
        print(f"Not to be had for Python {given.python}: {', '.join(lacking)}")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
