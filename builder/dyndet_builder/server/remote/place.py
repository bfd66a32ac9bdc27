"""A detector in the memory of a server and in its model folder, and how the two agree again after a push was killed.

The folder and the server's memory hold the same build, except for the moments of a switch. Beside them are:

| in the folder | what it is |
| --- | --- |
| `NAME_next`, the stage models of the other slot | a new build before the switch, or the old one after it |
| `.NAME.lock` | the lock of the push that is running |
| `.NAME.previous.PUSH.tar` | the archive of the running build until PUSH has taken its place |
| `NAME.previous.tar` | the archive of the build before, for the way back |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamicdet.errors import InputError
from dynamicdet.files import scratch_folder
from dyndet_builder.repository.encoded import SUFFIX
from dyndet_builder.server.remote.control import ModelControl
from dyndet_builder.server.remote.models import (
    PUSH_PARAMETER,
    Models,
    belongs_to,
    next_of,
    push_of,
    read_models,
    stages_in,
    unpack,
)
from dyndet_builder.server.remote.storage import Storage


class Place:
    """One detector on one server and in its model folder."""

    def __init__(self, control: ModelControl, storage: Storage, detector: str) -> None:
        self.control = control
        self.storage = storage
        self.detector = detector

    @property
    def archive_name(self) -> str:
        """The archive of the build before."""
        return f"{self.detector}.previous.tar"

    def pending_name(self, push: str) -> str:
        """The archive of the running build until `push` has taken its place."""
        return f".{self.detector}.previous.{push}.tar"

    def loaded_push(self, name: str) -> str | None:
        """Which push put the loaded model there; None if it is not loaded."""
        loaded = self.control.parameters(name)
        return None if loaded is None else loaded.get(PUSH_PARAMETER, "")

    def live(self) -> Models | None:
        """The build in the folder; without its stages if its settings are damaged, so that it can be replaced."""
        try:
            return read_models(self.storage, self.detector)
        except InputError:
            push = push_of(self.storage, self.detector) or ""
            return Models(
                detector=self.detector,
                public=self.detector,
                stages={},
                encoded=None,
                push=push,
                damaged=f"{self.detector}/1/dyndet.json is damaged",
            )

    def put_back(self, name: str, pending: str | None) -> None:
        """Undo the replacement of a model's files; `pending` is the archive that holds what they were."""
        if self.storage.trades_places and push_of(self.storage, next_of(name)) is not None:
            self.storage.replace(name, next_of(name))
            return
        self.storage.remove(name)
        if pending is not None:
            with self.unpacked(pending) as folder:
                if (folder / name).is_dir():
                    self.storage.place(folder / name, name)

    @contextmanager
    def unpacked(self, file: str) -> Iterator[Path]:
        """The models in an archive, in a temporary folder."""
        with scratch_folder("push") as folder, self.storage.local(file) as path:
            unpack(path, folder, title=f"{self.storage.where}/{file}")
            yield folder

    def recover(self) -> None:
        """Undo what a push that was killed has begun, or finish it if the server already runs its build."""
        pending = [file for file in self.storage.files() if self._pushed_by(file) is not None]
        for name in (self.detector, f"{self.detector}{SUFFIX}"):
            self.storage.repair(name, next_of(name))
            loaded, there = self.loaded_push(name), push_of(self.storage, name)
            if loaded is None or loaded == there:
                continue
            if self.storage.trades_places:
                if push_of(self.storage, next_of(name)) == loaded:
                    self.storage.replace(name, next_of(name))
            elif pending:
                self.put_back(name, pending[0])
        there = push_of(self.storage, self.detector)
        for file in pending:
            if self._pushed_by(file) == there:
                self.keep(file)
            else:
                self.storage.remove(file)
        self.remove_leftovers()

    def keep(self, pending: str) -> InputError | None:
        """Make a pending archive the one for the way back; if that fails, remove it and return the error."""
        try:
            self.storage.move_file(pending, self.archive_name)
        except InputError as error:
            self.storage.remove(pending)
            return error
        return None

    def _pushed_by(self, file: str) -> str | None:
        """Which push an archive waits for; None if the file is no such archive."""
        head, tail = self.pending_name("*").split("*")
        return file[len(head) : -len(tail)] if file.startswith(head) and file.endswith(tail) else None

    def remove_leftovers(self) -> None:
        """Unload and remove models of this detector that neither the folder's build nor the server's memory needs."""
        live = self.live()
        needed = {self.detector, f"{self.detector}{SUFFIX}"} | set(() if live is None else live.names)
        if (loaded := self.control.parameters(self.detector)) is not None:
            needed |= stages_in(loaded, self.detector)
        others = [name for name in self.storage.models() if name not in needed]
        leftovers = [name for name in others if belongs_to(self.storage, name, self.detector)]
        self.control.unload(leftovers)
        for name in leftovers:
            self.storage.remove(name)
        self.control.forget(leftovers)
