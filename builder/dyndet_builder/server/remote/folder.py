"""A model folder that this machine and the server share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dynamicdet.errors import InputError
from dynamicdet.files import exchange, whole_file
from dynamicdet.records import read_bytes
from dyndet_builder.server.remote.lock import folder_lock
from dyndet_builder.server.remote.storage import CONFIG, LARGEST, Storage, UnreadableError, writing_to

_STAGING = ".push"
"""folder for what is not whole yet; inside of a model's folder, Triton ignores it"""
_LAST = ".last"


class Folder(Storage):
    """Models in a folder that this machine and the server share."""

    trades_places = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder)

    def read(self, path: str) -> bytes | None:
        """The content of a small file; None if there is none."""
        file = self.folder / path
        if not file.exists():
            return None
        try:
            return read_bytes(file, advice="", largest=LARGEST)
        except InputError as error:
            raise UnreadableError(str(error)) from error

    def is_taken(self, name: str) -> bool:
        """Whether a file, or a folder that is not empty, has this name."""
        path = self.folder / name
        return path.is_symlink() or (any(path.iterdir()) if path.is_dir() else path.exists())

    def models(self) -> tuple[str, ...]:
        """Names of the folders that hold a configuration."""
        return tuple(sorted(path.parent.name for path in self.folder.glob(f"*/{CONFIG}")))

    def files(self) -> tuple[str, ...]:
        """Names of the files beside the models."""
        return tuple(sorted(path.name for path in self.folder.iterdir() if path.is_file()))

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """The folder or file itself."""
        yield self.folder / name

    @contextmanager
    def staging(self, detector: str) -> Iterator[Path]:
        """A folder inside the detector's own, or a hidden one if there is none yet."""
        own = self.folder / detector
        folder = own / _STAGING if os.access(own, os.W_OK) else self.folder / f".{detector}{_STAGING}"
        try:
            with writing_to(self.where):
                shutil.rmtree(folder, ignore_errors=True)  # of a push that was killed
                folder.mkdir()
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def place(self, prepared: Path, name: str) -> None:
        """Rename the prepared folder."""
        with writing_to(self.where):
            prepared.rename(self.folder / name)

    def replace(self, name: str, by: str) -> None:
        """Rename in one step; in three where the file system cannot trade."""
        old, new = self.folder / name, self.folder / by
        with writing_to(self.where):
            if not old.exists():
                new.rename(old)
            elif not exchange(old, new):
                old.rename(new / _LAST)
                new.rename(old)
                (old / _LAST).rename(new)

    def repair(self, name: str, by: str) -> None:
        """Finish the three steps of `replace`, and remove the staging folder."""
        old, new = self.folder / name, self.folder / by
        with writing_to(self.where):
            if (new / _LAST).exists() and not old.exists():
                (new / _LAST).rename(old)
            elif (old / _LAST).exists() and not new.exists():
                (old / _LAST).rename(new)
            for leftover in (old / _STAGING, self.folder / f".{name}{_STAGING}"):
                shutil.rmtree(leftover, ignore_errors=True)

    def write(self, path: str, content: bytes) -> None:
        """Write a small file whole."""
        with writing_to(self.where), whole_file(self.folder / path) as file:
            file.write_bytes(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """The file itself."""
        path = self.folder / name
        try:
            with writing_to(self.where):
                yield path
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def move_file(self, source: str, target: str) -> None:
        """Rename a file beside the models."""
        with writing_to(str(self.folder / target)):
            (self.folder / source).replace(self.folder / target)

    def remove(self, name: str) -> None:
        """Remove a model or a file, if it is there; a model's configuration goes last: what is left is found."""
        path = self.folder / name
        with writing_to(self.where):
            if not path.is_dir():
                path.unlink(missing_ok=True)
                return
            for child in sorted(path.iterdir(), key=lambda child: child.name == CONFIG):
                if child.is_dir() and not child.is_symlink():
                    shutil.rmtree(child)
                else:
                    child.unlink()
            path.rmdir()

    def lock(self, name: str, *, wait_s: float, busy: str) -> AbstractContextManager[None]:
        """Hold the system's lock; see `folder_lock`."""
        return folder_lock(self.folder / name, wait_s=wait_s, busy=busy)
