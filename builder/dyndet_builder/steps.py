"""Runs steps and stores what each finished step depended on, so a second run reuses unchanged results."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import Field

from dynamicdet.errors import InputError
from dynamicdet.files import check_creatable, check_writable, whole_file
from dynamicdet.records import Label, Record, Sha256, read_record
from dyndet_builder.bundle.manifest import file_sha256

_STATE = "build.json"
_LOCK = ".lock"
_LARGEST = 1 << 20


class _State(Record):
    """Contents of `build.json`."""

    schema_version: Literal[1]
    steps: Annotated[dict[Label, Sha256], Field(max_length=1000)]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step does, and everything that its result depends on."""

    name: str
    depends_on: Callable[[], Mapping[str, object]]
    """called when the step is next, because it may read the results of earlier steps; values must be JSON or paths"""
    act: Callable[[], None]
    is_whole: Callable[[], bool]
    """whether the result of an earlier run is still there"""


def images_digest(folder: Path) -> str:
    """SHA-256 over names and contents of the files below a folder of images."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(os.fsencode(path.relative_to(folder)) + f" {file_sha256(path)}\n".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Reserve a build folder for one process; a new folder that stays empty is removed again.

    Raises InputError if another process is building in it, if it holds other files, or if it cannot be created.
    """
    check_creatable(folder)
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / own).exists() for own in (_STATE, _LOCK)):
        raise InputError(f"{folder} holds files that dyndet-build did not write; name another --output")
    folder.mkdir(parents=True, exist_ok=True)
    with _open_lock(folder / _LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another dyndet-build is running in {folder}; wait for it or name another --output"
            ) from error
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [_LOCK]:
                (folder / _LOCK).unlink()
                folder.rmdir()


def _open_lock(path: Path) -> IO[bytes]:
    """A file of one's own: what a link stands for is not touched, and a pipe would block for ever."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise InputError(f"{path} cannot be locked ({error.strerror}); remove it, or name another --output") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is not a regular file; remove it, or name another --output")
    return os.fdopen(descriptor, "r+b")


def run_steps(steps: Sequence[Step], folder: Path, *, fresh: bool = False) -> tuple[str, ...]:
    """Do the steps in their order and return the names of those whose earlier result was reused.

    A step is reused if its result is whole, and everything that it and the earlier steps depend on is unchanged. If a
    step is done again, all later steps are too. `fresh` does every step again.
    """
    finished = _FinishedSteps(folder)
    reused: list[str] = []
    key = ""
    for number, step in enumerate(steps):
        key = _key_of({"after": key, **step.depends_on()})
        if not fresh and finished.done(step.name, key) and step.is_whole():
            reused.append(step.name)
            continue
        finished.forget([later.name for later in steps[number:]])
        step.act()
        finished.finish(step.name, key)
    return tuple(reused)


def _key_of(inputs: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=os.fspath).encode()).hexdigest()


class _FinishedSteps:
    """The finished steps of one build folder, stored in its `build.json`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _STATE
        check_writable(self._path)
        try:
            content = read_record(
                self._path, _State, described="a list of finished steps", advice="build again", largest=_LARGEST
            )
            self._keys = dict(content.steps)
        except InputError:
            self._keys = {}  # nothing is known, so every step is done again

    def done(self, step: str, key: str) -> bool:
        """Whether this step finished with exactly these inputs."""
        return self._keys.get(step) == key

    def forget(self, steps: Sequence[str]) -> None:
        """Forget steps, because their results are about to change."""
        remaining = {step: key for step, key in self._keys.items() if step not in steps}
        if remaining != self._keys:
            self._keys = remaining
            self._write()

    def finish(self, step: str, key: str) -> None:
        """Remember that a step finished; written whole or not at all."""
        self._keys[step] = key
        self._write()

    def _write(self) -> None:
        with whole_file(self._path) as temporary:
            temporary.write_text(json.dumps({"schema_version": 1, "steps": self._keys}, indent=2) + "\n")
