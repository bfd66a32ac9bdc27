"""What each extra of dyndet brings, and the command that installs what is missing here.

Every hint that names an install comes from here. The metadata of the installed dyndet says which extra brings a
package; where its code lies says how it was installed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import shlex
import shutil
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dynamicdet.errors import MissingExtraError

NAME = "dyndet"
NOT_FOR_USERS = ("all", "dev", "docs")
"""extras that no hint names: all of the others, and tools to work on dyndet itself"""

# The distributions whose name is not that of their module.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "google": "protobuf",
    "grpc": "grpcio",
    "pytriton": "nvidia-pytriton",
    "yaml": "pyyaml",
    "opentelemetry": "opentelemetry-api",
    "tensorrt_rtx": "tensorrt-rtx-cu12-bindings",
    "tensorrt_rtx_bindings": "tensorrt-rtx-cu12-bindings",
}
_SOURCE = Path(__file__).parents[1]


def distribution_of(module: str) -> str:
    """The normalised name of the distribution that a module is in, such as `pyyaml` for `yaml.nodes`."""
    top = module.partition(".")[0]
    return canonicalize_name(_DISTRIBUTIONS.get(top, top))


@functools.cache
def extras() -> dict[str, tuple[Requirement, ...]]:
    """The requirements that each extra adds here, by the name of the extra; empty where dyndet is not installed."""
    try:
        found = importlib.metadata.metadata(NAME)
    except importlib.metadata.PackageNotFoundError:
        return {}
    names = found.get_all("Provides-Extra") or []
    return {name: tuple(_of_extra(NAME, name)) for name in names}


def missing(requirements: Iterable[Requirement]) -> list[Requirement]:
    """Those that are not installed here, or in another version; of `name[extra]`, what the extra lacks."""
    found: list[Requirement] = []
    for requirement in requirements:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(requirement)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(requirement)
        else:
            found += missing(each for extra in requirement.extras for each in _of_extra(requirement.name, extra))
    return found


def smallest_extra(package: str, *, among: Collection[str] = ()) -> str | None:
    """The extra that brings a distribution with the fewest packages that are missing here; None if none does.

    Extras of `among` come first.
    """
    wanted = canonicalize_name(package)
    bringing = [
        name
        for name, requirements in extras().items()
        if name not in NOT_FOR_USERS and any(wanted in _brought(requirement) for requirement in requirements)
    ]
    return min(bringing, key=lambda name: (name not in among, *_weight(name)), default=None)


def install_command(*names: str, also: Iterable[str] = ()) -> str:
    """The command that adds extras to the dyndet that runs here, and leaves what works here as it is.

    In a checkout it installs the pinned versions. Elsewhere it names the installed extras that limit versions again, so
    that pip does not exceed them; `also` are further requirements, which a checkout pins.
    """
    if pinned := _pinned():
        folder = "." if Path.cwd() == _SOURCE else str(_SOURCE)
        return _install(*pinned, "-e", f"{folder}[{_joined(names)}]")
    limiting = [name for name in extras() if name not in (*names, *NOT_FOR_USERS) and _is_installed_and_limits(name)]
    return _install(f"{NAME}[{_joined((*limiting, *names))}]", *also)


def install_alone(package: str) -> str:
    """The command that installs a distribution that no extra brings, without what it requires."""
    return _install("--no-deps", package)


def how_to_install(*packages: str, among: Collection[str] = ()) -> str:
    """The command that installs distributions: the smallest extra for each, or themselves if no extra brings them."""
    named = {package: smallest_extra(package, among=among) for package in packages}
    if not all(named.values()):
        return _install(*_pinned(), *packages)
    return install_command(*dict.fromkeys(name for name in named.values() if name))


def missing_extra(what: str, *packages: str, among: Collection[str] = ()) -> MissingExtraError:
    """The error for packages that are not installed. `what` says who needs them, as `a plot needs matplotlib`."""
    return MissingExtraError(f"{what}; `{how_to_install(*packages, among=among)}` installs it")


def missing_package(who: str, error: ModuleNotFoundError, *, among: Collection[str] = ()) -> MissingExtraError | None:
    """The error for a module that `who` could not import; None for one of dyndet's own.

    `among` are the extras that `who` needs: the hint names all of them that lack something.
    """
    package = distribution_of(error.name or "")
    if not package or package == "dynamicdet" or package.startswith(NAME):
        return None
    found = smallest_extra(package, among=among)
    lacking = [name for name in among if name not in extras() or missing(extras()[name])]
    if found is None:  # something that a package of theirs requires, or dyndet itself is not installed
        install = install_command(*among) if among else how_to_install(package)
    else:
        install = install_command(*(lacking if found in lacking else [found]))
    return MissingExtraError(f"`{who}` needs {package}, which is not installed; `{install}` installs it")


def _of_extra(distribution: str, extra: str) -> list[Requirement]:
    """What a distribution requires here only with an extra; requirements of itself, as in `dyndet[build]`, resolved."""
    found = []
    for text in importlib.metadata.requires(distribution) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
            continue
        if canonicalize_name(requirement.name) == canonicalize_name(distribution):
            found += [each for other in sorted(requirement.extras) for each in _of_extra(distribution, other)]
        else:
            found.append(requirement)
    return found


@functools.cache
def _brought(requirement: Requirement) -> frozenset[str]:
    """The distribution of a requirement, and what extras of it bring, as far as metadata of it is installed."""
    found = {canonicalize_name(requirement.name)}
    for extra in requirement.extras:
        try:
            found |= {canonicalize_name(each.name) for each in _of_extra(requirement.name, extra)}
        except importlib.metadata.PackageNotFoundError:
            break
    return frozenset(found)


def _weight(name: str) -> tuple[int, int, str]:
    requirements = extras()[name]
    return len(missing(requirements)), len(requirements), name


def _is_installed_and_limits(name: str) -> bool:
    """Whether an extra is here, and excludes versions of a package that are newer than it allows."""
    requirements = extras()[name]
    limits = any(part.operator in ("<", "<=", "==", "~=") for each in requirements for part in each.specifier)
    return bool(requirements) and limits and not missing(requirements)


def _pinned() -> tuple[str, ...]:
    """What makes pip keep to the versions that were tested; nothing outside a checkout."""
    if not (_SOURCE / "pyproject.toml").is_file():
        return ()
    return "-c", "constraints.txt" if Path.cwd() == _SOURCE else str(_SOURCE / "constraints.txt")


def _joined(names: Iterable[str]) -> str:
    return ",".join(dict.fromkeys(names))


def _install(*words: str) -> str:
    return shlex.join([*_pip(), "install", *words])


def _pip() -> list[str]:
    """The pip of this Python, as short as it can be typed here."""
    python = Path(sys.executable)
    pip, on_path = python.parent / "pip", shutil.which("pip")
    if on_path is not None and Path(on_path) == pip:
        return ["pip"]
    return [_from_here(pip)] if pip.is_file() else [_from_here(python), "-m", "pip"]


def _from_here(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
