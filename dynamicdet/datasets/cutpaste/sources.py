"""Finds the images: in Debian packages downloaded with apt-get, or in a folder that already has them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.aliases import Progress, silent
from dynamicdet.datasets.cutpaste.catalogue import BACKGROUNDS, CLASSES, CLUTTER, PACKAGES
from dynamicdet.errors import InputError, MissingExtraError
from dynamicdet.files import scratch_folder, whole_folder

_FEWEST_BACKGROUNDS = 4
_FEWEST_PER_CLASS = 3
_PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Sources:
    """The file of each image in the catalogue; names are the catalogue's paths."""

    cutouts: dict[str, Path]
    backgrounds: dict[str, Path]


def download(cache: Path, *, progress: Progress = silent) -> tuple[Path, ...]:
    """Download and unpack the Debian packages into ``cache``; packages that are there are not downloaded again.

    Nothing is installed on the system and no root rights are needed. Returns one folder per package. Raises
    MissingExtraError if apt is missing, and InputError if a package cannot be downloaded.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folders = tuple(cache / package for package in PACKAGES)
    for done, folder in enumerate(folders):
        progress("downloading packages", done, len(folders))
        if not folder.is_dir():
            _download_one(folder.name, folder)
    progress("downloading packages", len(folders), len(folders))
    return folders


def locate(roots: tuple[Path, ...]) -> Sources:
    """Find the catalogue's images below ``roots``.

    A root is a folder of unpacked packages, an unpacked package, ``/usr``, ``/usr/share`` or a copy of it. Images that
    a Debian release lacks are left out. Raises InputError, which names the packages, if too few remain.
    """
    shares = [share for root in roots for share in _share_folders(root)]
    names = [name for kind in (*CLASSES, CLUTTER) for name in kind.cutouts]
    cutouts = {name: path for name in names if (path := _find(shares, name)) is not None}
    backgrounds = {name: path for name in BACKGROUNDS if (path := _find(shares, name)) is not None}
    few = [kind.name for kind in CLASSES if sum(name in cutouts for name in kind.cutouts) < _FEWEST_PER_CLASS]
    if few or len(backgrounds) < _FEWEST_BACKGROUNDS:
        places = ", ".join(str(root) for root in roots)
        lacking = f"cut-outs of {', '.join(few)}" if few else f"backgrounds ({len(backgrounds)} found)"
        raise InputError(
            f"{places} holds too few {lacking}; it must hold the unpacked Debian packages {', '.join(PACKAGES)} "
            "(leave --sources out to download them)"
        )
    return Sources(cutouts=cutouts, backgrounds=backgrounds)


def _download_one(package: str, folder: Path) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MissingExtraError(
                f"{tool} is not installed, so {package} cannot be downloaded; unpack {', '.join(PACKAGES)} on a Debian "
                "or Ubuntu machine and name the folder with --sources"
            )
    with scratch_folder("packages") as scratch:
        english = {**os.environ, "LC_ALL": "C"}
        command = ["apt-get", "download", package]
        done = subprocess.run(command, cwd=scratch, env=english, capture_output=True, text=True)
        archives = sorted(scratch.glob("*.deb"))
        if done.returncode != 0 or not archives:
            lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["no reason given"]
            raise InputError(
                f"apt-get could not download {package} ({lines[-1].removeprefix('E: ')}); check the network, run "
                "`sudo apt-get update`, or name a folder of the unpacked packages with --sources"
            )
        with whole_folder(folder, marker=None) as unpacked:
            done = subprocess.run(["dpkg-deb", "-x", archives[0], unpacked], capture_output=True, text=True)
            if done.returncode != 0:
                raise InputError(f"the downloaded {archives[0].name} cannot be unpacked: {done.stderr.strip()}")


def _share_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"{root} is not a folder; --sources takes a folder of unpacked Debian packages")
    return [root, root / "share", root / "usr/share", *sorted(root.glob("*/usr/share"))]


def _find(shares: list[Path], name: str) -> Path | None:
    for share in shares:
        path = share / name
        if path.is_file():
            return path
        if path.is_dir():
            photos = [photo for photo in path.iterdir() if photo.suffix.lower() in _PHOTO_SUFFIXES]
            if photos:
                return max(photos, key=lambda photo: (photo.stat().st_size, photo.name))
    return None
