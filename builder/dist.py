"""`make dist`: builds the sdist and the wheel, checks what is in them, and says what still keeps them from an index.

It needs `build` and hatchling, which the extra `dev` installs, and no network. The version is that of pyproject.toml.

Exit status: 0 if both were built and their contents are right, 1 if not; with `--release` also 1 if they are not ready
to be uploaded.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from email import message_from_bytes
from email.message import Message
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "dynamicdet": ROOT,
    "dyndet": ROOT / "client",
    "dyndet_bench": ROOT / "benchmarks",
    "dyndet_builder": ROOT / "builder",
    "dyndet_client": ROOT / "client",
    "dyndet_templates": ROOT / "model_repository_templates",
}
"""what the wheel holds, and the folder of each"""
TEXTS = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "constraints.txt", "pyproject.toml")
_FIELDS = ("Name", "Version", "Summary", "License-Expression", "License-File", "Author", "Requires-Python", "Keywords")
_PICTURES = re.compile(r"benchmarks/demo/val/|docs/demo-report/|docs/.*\.png$")
_RELATIVE = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)|src=\"(?!https?:)([^\"]+)\"")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, check, print and return the exit status."""
    parser = argparse.ArgumentParser(description="Build the sdist and the wheel, and check them.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for both files")
    parser.add_argument("--release", action="store_true", help="fail unless both are ready to be uploaded")
    options = parser.parse_args(arguments)
    sdist, wheel = build(options.output)
    wrong = [*faults_of_wheel(names_in(wheel)), *faults_of_sdist(names_in(sdist)), *faults_of(metadata_of(wheel))]
    open_points = list(not_ready(metadata_of(wheel), changelog=(ROOT / "CHANGELOG.md").read_text()))
    lines = [f"{path} ({path.stat().st_size / 1e6:.1f} MB)" for path in (wheel, sdist)]
    lines += [f"Wrong: {fault}" for fault in wrong] + [f"Before an upload: {point}" for point in open_points]
    print("\n".join(lines))  # noqa: T201
    return 1 if wrong or (options.release and open_points) else 0


def build(output: Path) -> tuple[Path, Path]:
    """The sdist and the wheel, made from the sdist, in a folder where older ones are replaced."""
    for old in (*output.glob("dyndet-*.whl"), *output.glob("dyndet-*.tar.gz")):
        old.unlink()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(ROOT)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"Error: the build failed.\n{done.stdout}")
    (sdist,), (wheel,) = output.glob("dyndet-*.tar.gz"), output.glob("dyndet-*.whl")
    return sdist, wheel


def names_in(path: Path) -> set[str]:
    """The files of a wheel, or those of an sdist without its top folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return set(wheel.namelist())
    with tarfile.open(path) as sdist:
        return {name.partition("/")[2] for name in sdist.getnames()}


def metadata_of(wheel: Path) -> Message:
    """What the index will show."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def faults_of_wheel(names: set[str]) -> Iterator[str]:
    """What is missing from a wheel, or should not be in it."""
    expected = {
        str(path.relative_to(folder))
        for package, folder in PACKAGES.items()
        for path in (folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    yield from (f"the wheel lacks {name}" for name in sorted(expected - names))
    yield from (f"the wheel lacks {name}/py.typed" for name in PACKAGES if f"{name}/py.typed" not in names)
    yield from (f"the wheel holds {name}" for name in sorted(names - expected) if ".dist-info/" not in name)


def faults_of_sdist(names: set[str]) -> Iterator[str]:
    """What is missing from an sdist, or should not be in it: pictures made of photographs of others."""
    yield from (f"the sdist lacks {name}" for name in TEXTS if name not in names)
    yield from (f"the sdist lacks the folder {name}" for name in ("docs", "tests") if name not in _tops(names))
    yield from (f"the sdist holds {name}" for name in sorted(names) if _PICTURES.match(name))


def faults_of(metadata: Message) -> Iterator[str]:
    """What the metadata lacks."""
    yield from (f"the metadata lacks {field}" for field in _FIELDS if not metadata[field])
    if metadata["Description-Content-Type"] != "text/markdown" or not metadata.get_payload():
        yield "the metadata lacks README.md as its description"
    pythons = {line.rpartition(" ")[2] for line in metadata.get_all("Classifier") or [] if ":: Python :: 3." in line}
    if not {"3.10", "3.11", "3.12"} <= pythons:
        yield f"the classifiers name Python {', '.join(sorted(pythons))}"


def not_ready(metadata: Message, *, changelog: str) -> Iterator[str]:
    """What must be decided or written before an upload."""
    heading = re.search(r"^## (.+)$", changelog, re.MULTILINE)
    if heading is None or not re.fullmatch(rf"{re.escape(metadata['Version'])} \(\d{{4}}-\d\d-\d\d\)", heading[1]):
        found = heading[1] if heading else "missing"
        yield f"the first heading of CHANGELOG.md must be `{metadata['Version']} (YYYY-MM-DD)`; it is `{found}`"
    urls = {line.partition(",")[0] for line in metadata.get_all("Project-URL") or []}
    if "Source" not in urls:
        yield "[project.urls] in pyproject.toml names no Source, the address of the repository"
    if links := sorted({first or second for first, second in _RELATIVE.findall(str(metadata.get_payload()))}):
        yield (
            f"{len(links)} links of README.md are relative, such as {links[0]}; on an index they lead nowhere until "
            "they begin with that address"
        )


def _tops(names: Iterable[str]) -> set[str]:
    return {name.partition("/")[0] for name in names}


if __name__ == "__main__":
    sys.exit(main())
