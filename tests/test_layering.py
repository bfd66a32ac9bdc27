"""Which package may import which: no circle, and nothing imports from a package above it.

Every import counts: inside functions, for type checkers alone, and by name, as in `import_module("dyndet_client.cli")`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "dynamicdet": ("dynamicdet", ROOT),
    "dyndet_templates": ("templates", ROOT / "model_repository_templates"),
    "dyndet_client": ("client", ROOT / "client"),
    "dyndet_bench": ("benchmarks", ROOT / "benchmarks"),
    "dyndet_builder": ("builder", ROOT / "builder"),
}
# A room is a folder of a package, or the files beside its folders: the ground that the folders stand on. A few of these
# files use the folders instead.
ABOVE_THE_FOLDERS = {
    "dynamicdet": ("dynamicdet (names)", {"__init__"}),
    "dyndet_builder": (
        "builder (top)",
        {
            "build",
            "build_options",
            "build_steps",
            "demo",
            "demo_pictures",
            "demo_sheet",
            "doctor",
            "frontier",
            "paper",
            "serving",
            "static_export",
            "steps",
        },
    ),
}

# Beside these, every room may import the ground of its own package and that of dynamicdet. A name without a package is
# one of the same package, or the only one of that name. docs/ARCHITECTURE.md shows the same table.
MAY_IMPORT = {
    "builder.cli": "everything",
    "builder (top)": "everything but cli",
    "builder.trying": "server repository client",
    "builder.verifying": "server repository quantization engines bundle comparisons measuring client",
    "builder.under_load": "server repository load measuring dynamicdet.evaluation routing datasets",
    "builder.deployment": "server repository engines bundle load sweep measuring",
    "builder.calibration": "server repository engines bundle measuring",
    "builder.server": "repository engines bundle measuring client",
    "builder.repository": "composing engines bundle measuring templates",
    "builder.engines": "bundle measuring templates",
    "builder.pairing": "detectors bundle report measuring router dynamicdet.evaluation datasets networks",
    "builder.detectors": "bundle client dynamicdet.evaluation datasets",
    "builder.quantization": "evaluation bundle",
    "builder.evaluation": "bundle measuring client dynamicdet.evaluation routing datasets networks",
    "builder.composing": "bundle",
    "builder.bundle": "networks",
    "builder": "measuring templates",
    "benchmarks.report": "frontier load sweep measuring",
    "benchmarks.frontier": "measuring client",
    "benchmarks.load": "measuring client",
    "benchmarks.sweep": "measuring client",
    "benchmarks.comparisons": "measuring client",
    "benchmarks.measuring": "client",
    "client.cli": "client",
    "client": "nothing",
    "templates": "nothing",
    "dynamicdet (names)": "networks",
    "dynamicdet.router": "evaluation routing training datasets networks",
    "dynamicdet.evaluation": "routing datasets networks",
    "dynamicdet.routing": "training datasets networks",
    "dynamicdet.training": "datasets networks",
    "dynamicdet.datasets": "nothing",
    "dynamicdet.networks": "nothing",
    "dynamicdet.picture_formats": "nothing",
    "dynamicdet": "picture_formats",
}
BELOW_THE_GROUND = {"dynamicdet.picture_formats"}
"""rooms that import nothing at all, so that the ground may import them"""


def _modules() -> dict[str, Path]:
    found = {}
    for package, (_, folder) in PACKAGES.items():
        for path in (folder / package).rglob("*.py"):
            found[".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


MODULES = _modules()


def imports(path: Path) -> dict[str, int]:
    """The modules of ours that a file imports, and a line that does. `dynamicdet` itself loads its names lazily."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            names = [node.value]
        found |= {name: node.lineno for name in names if name in MODULES and name != "dynamicdet"}
    return found


def room_of(module: str) -> str:
    package, *inner = module.split(".")
    name, folder = PACKAGES[package]
    room, files = ABOVE_THE_FOLDERS.get(package, ("", ()))
    if MODULES[module].parent == folder / package:
        return room if MODULES[module].stem in files else name
    folder_room = f"{name}.{inner[0]}"
    # The templates are one room, and so is the client without its command line.
    return name if package in ("dyndet_templates", "dyndet_client") and folder_room not in MAY_IMPORT else folder_room


def may_import(room: str) -> set[str]:
    """The rooms that the table allows, the ground included."""
    assert room in MAY_IMPORT, f"{room} is not in the table: say what it may import"
    if room in BELOW_THE_GROUND:
        return set()
    package = re.split(r"\W", room)[0]
    if MAY_IMPORT[room].startswith("everything"):
        return {name for name in MAY_IMPORT if not (MAY_IMPORT[room].endswith("but cli") and name.endswith(".cli"))}
    return {package, "dynamicdet", *(_named(name, package) for name in MAY_IMPORT[room].replace("nothing", "").split())}


def _named(name: str, package: str) -> str:
    if name == "top":
        return f"{package} (top)"
    if name in MAY_IMPORT or f"{package}.{name}" in MAY_IMPORT:
        return name if name in MAY_IMPORT else f"{package}.{name}"
    (only,) = (room for room in MAY_IMPORT if room.endswith(f".{name}"))
    return only


def _fail_on_circle(graph: Mapping[str, Iterable[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_module_imports_itself_by_a_detour() -> None:
    _fail_on_circle({module: imports(path) for module, path in MODULES.items()})


def test_every_import_is_allowed_by_the_table() -> None:
    wrong = []
    for module, path in MODULES.items():
        for name, line in imports(path).items():
            room, other = room_of(module), room_of(name)
            if other not in {room, *may_import(room)}:
                allowed = f"beside the ground, {room} may import {MAY_IMPORT[room]}"
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name} of {other}; {allowed}")
    assert not wrong, "\n".join(wrong)


def test_the_table_has_no_circle() -> None:
    _fail_on_circle({room: may_import(room) - {room} for room in MAY_IMPORT})


def test_the_architecture_page_shows_the_same_table() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)`( \(\w+\))? \| .* \| ([\w. ]+) \|$", page, re.MULTILINE)
    assert {name + kind: allowed for name, kind, allowed in rows} == MAY_IMPORT


def test_the_arrows_of_its_picture_are_in_the_table() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text().partition("## Rooms\n\n```\n")[2].partition("```")[0]
    package, arrows = "", 0
    for line in page.splitlines():
        package = line.partition(" ")[0] or package
        for chain in re.findall(r"\S+ -> .*?(?=   |$)", line):
            steps = [[_named(name, package) for name in step.split(" | ")] for step in chain.split(" -> ")]
            for above, below in pairwise(steps):
                arrows += 1
                assert all(room in may_import(other) for other in above for room in below), chain
    assert arrows > 10


def test_no_folder_but_the_command_line_has_more_than_20_files() -> None:
    folders = {path.parent for path in (*MODULES.values(), *(ROOT / "tests").rglob("*.py"))}
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > 20 and not folder.endswith("/cli")} == {}
