"""Which packages of others a module of ours needs to be imported, and what a function imports when it runs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.light_install import CODE

PACKAGES = ("dynamicdet", "dyndet", "dyndet_bench", "dyndet_builder", "dyndet_client", "dyndet_templates")


def _modules() -> dict[str, Path]:
    found = {}
    for folder in CODE:
        for package in PACKAGES:
            for path in (folder / package).rglob("*.py"):
                found[".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


MODULES = _modules()


@cache
def needs(module: str) -> frozenset[str]:
    """The top-level modules of others that importing a module imports, directly or not."""
    seen: set[str] = set()
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for imported in _imported_at_once(name):
            if imported in MODULES:
                waiting.append(imported)
            elif (top := imported.partition(".")[0]) not in (*sys.stdlib_module_names, *PACKAGES):
                found.add(top)
    return frozenset(found)


def late_imports(module: str) -> set[str]:
    """The modules of ours that the functions of a module import when they run."""
    functions = [node for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.FunctionDef)]
    return {name for function in functions for name in _imported(ast.walk(function)) if name in MODULES}


@cache
def _imported_at_once(module: str) -> frozenset[str]:
    parts = module.split(".")
    parents = {".".join(parts[:end]) for end in range(1, len(parts))} & MODULES.keys()
    return frozenset({*_imported(_at_once(ast.parse(MODULES[module].read_text()))), *parents})


def _at_once(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that run on import: not those in functions, nor those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _at_once(child)


def _imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
