"""Puts one detector into a repository folder, which changes as a whole; other detectors stay as they are."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dynamicdet.errors import InputError
from dynamicdet.files import check_replaceable, whole_folder
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.engines.record import FILE_NAME as ENGINES_FILE
from dyndet_builder.repository.encoded import SUFFIX
from dyndet_builder.repository.marker import MARKER_FILE, DetectorRecord, Marker, own_names, read_marker


@contextmanager
def placed(output: Path, name: str, *, add: bool) -> Iterator[tuple[Path, dict[str, DetectorRecord]]]:
    """A folder for the models of the detector `name`, and a dictionary for its record in `dyndet.json`.

    When the block ends without error, both become part of the repository `output`, in place of an earlier detector of
    this name. All other files of the repository stay, with their times.
    Raises InputError as `check_place` does, or if `output` cannot be written.
    """
    check_place(output, name, add=add)
    record: dict[str, DetectorRecord] = {}
    with ExitStack() as until_replaced, whole_folder(output, marker=MARKER_FILE) as folder:
        yield folder, record
        until_replaced.enter_context(_locked(output.absolute().parent))
        present = check_place(output, name, add=add)  # another rendering may have ended meanwhile
        _carry_others(output, folder, present.get(name))
        Marker(detectors={**present, **record}).write(folder)


def check_place(output: Path, name: str, *, add: bool) -> dict[str, DetectorRecord]:
    """The detectors of the repository `output`, if a detector `name` can be put there.

    Raises InputError if dyndet did not render the folder, if it holds other detectors and `add` is not set, or if the
    names of the models would collide.
    """
    check_replaceable(output, MARKER_FILE)
    if not (output / MARKER_FILE).is_file():
        return {}
    try:
        marker = read_marker(output)
    except InputError as error:
        raise InputError(
            f"{error}, so the detectors in {output} are not known; give another folder, or remove this one"
        ) from error
    present = marker.detectors
    if present and name not in present and not add:
        raise InputError(
            f"{output} holds {marker.listed()}, not {name!r}; give --add to put {name!r} there too, or give another "
            "folder"
        )
    for other in present:
        shared = set(own_names(name)).intersection(own_names(other))
        if other == name or not shared:
            continue
        if name in shared or other in shared:
            taken, owner = (name, other) if name in shared else (other, name)
            use = "the model that takes image files" if taken.endswith(SUFFIX) else "a stage"
            raise InputError(
                f"the detectors {name!r} and {other!r} cannot both be in {output}: the name {taken!r} is reserved for "
                f"{use} of {owner!r}; give another --name"
            )
        raise InputError(
            f"the detectors {name!r} and {other!r} in {output} would both have a model {min(shared)!r}; give another "
            "--name"
        )
    own = present[name].models if name in present else ()
    for model in own_names(name):
        if model not in own and (output / model).exists():
            raise InputError(
                f"{output / model} is not part of a detector that dyndet rendered; give another --name, or remove it"
            )
    return present


def _carry_others(output: Path, folder: Path, replaced: DetectorRecord | None) -> None:
    """Put everything of the old folder into the new one, except the replaced detector and the marker."""
    if not output.is_dir():
        return
    left = {MARKER_FILE}
    if replaced is not None:
        left.update(replaced.models)
        if replaced.described_in == ".":
            left.update((BUNDLE_FILE, ENGINES_FILE))
    for path in output.iterdir():
        if path.name in left:
            continue
        try:
            _carry(path, folder / path.name)
        except OSError as error:
            raise InputError(f"{output} cannot be written: {path}: {error.strerror or error}") from error


def _carry(source: Path, target: Path) -> None:
    """The same file, folder or link at another place, with its time."""
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_dir():
        target.mkdir()
        for child in source.iterdir():
            _carry(child, target / child.name)
        shutil.copystat(source, target)
    else:
        try:
            target.hardlink_to(source)  # graphs and engines can have gigabytes
        except OSError:
            shutil.copy2(source, target)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time replace repositories in a folder; on a file system without locks, all of them can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
