"""The place where a server reads its models, as this machine reaches it: a folder, or an object store.

A server that starts in the middle of a change must find whole models. In a folder a model appears by a rename, and two
models trade places in one step. An object store can do neither, so there a model is copied object by object.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from dynamicdet.errors import InputError, MissingExtraError
from dynamicdet.files import whole_file
from dyndet_builder.server.remote_lock import folder_lock, object_lock

CONFIG = "config.pbtxt"
_STAGING = ".push"
"""folder for what is not whole yet; inside of a model's folder, Triton ignores it"""
_LAST = ".last"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def storage_at(models: str) -> Storage:
    """The storage at a path or URL. Raises InputError if the folder does not exist."""
    if "://" in models:
        return ObjectStore(models)
    folder = Path(models)
    if not folder.is_dir():
        raise InputError(f"{folder}, where the server reads its models, does not exist on this machine")
    return Folder(folder)


class Storage(ABC):
    """Models by their names, and a few files beside them. A method that cannot write raises InputError."""

    where: str
    """for messages"""
    trades_places: bool
    """whether two models can trade places"""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """The content of a file; None if there is none."""

    @abstractmethod
    def models(self) -> tuple[str, ...]:
        """Names of the folders that hold a configuration."""

    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """Names of the files beside the models."""

    @abstractmethod
    def local(self, name: str) -> AbstractContextManager[Path]:
        """A model's folder, or a file beside the models, on this machine, to be read."""

    @abstractmethod
    def staging(self, detector: str) -> AbstractContextManager[Path]:
        """An empty folder on this machine to prepare models in; it is removed afterwards."""

    @abstractmethod
    def place(self, prepared: Path, name: str) -> None:
        """Put a prepared folder in place as a model that is not there yet; the folder may be moved."""

    @abstractmethod
    def replace(self, name: str, by: str) -> None:
        """Give `name` the content of the model `by`; if models trade places here, `by` gets that of `name`."""

    @abstractmethod
    def repair(self, name: str, by: str) -> None:
        """Finish or undo a `replace` that was interrupted."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Write a small file whole; a server that reads it meanwhile sees the old or the new one."""

    @abstractmethod
    def writing(self, name: str) -> AbstractContextManager[Path]:
        """A file on this machine to write a large file beside the models to; after an error it is removed."""

    @abstractmethod
    def move_file(self, source: str, target: str) -> None:
        """Rename a file beside the models; an existing target is replaced."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a model or a file, if it is there."""

    @abstractmethod
    def lock(self, name: str, *, wait_s: float, busy: str) -> AbstractContextManager[None]:
        """Hold the lock of this name; see `remote_lock`."""


class Folder(Storage):
    """Models in a folder that this machine and the server share."""

    trades_places = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = str(folder)

    def read(self, path: str) -> bytes | None:
        """The content of a file; None if there is none."""
        try:
            return (self.folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

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
            with _writing(self.where):
                shutil.rmtree(folder, ignore_errors=True)  # of a push that was killed
                folder.mkdir()
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def place(self, prepared: Path, name: str) -> None:
        """Rename the prepared folder."""
        with _writing(self.where):
            prepared.rename(self.folder / name)

    def replace(self, name: str, by: str) -> None:
        """Rename in one step; in three where the file system cannot trade."""
        old, new = self.folder / name, self.folder / by
        with _writing(self.where):
            if not old.exists():
                new.rename(old)
            elif not _exchanged(old, new):
                old.rename(new / _LAST)
                new.rename(old)
                (old / _LAST).rename(new)

    def repair(self, name: str, by: str) -> None:
        """Finish the three steps of `replace`, and remove the staging folder."""
        old, new = self.folder / name, self.folder / by
        with _writing(self.where):
            if (new / _LAST).exists() and not old.exists():
                (new / _LAST).rename(old)
            elif (old / _LAST).exists() and not new.exists():
                (old / _LAST).rename(new)
            for leftover in (old / _STAGING, self.folder / f".{name}{_STAGING}"):
                shutil.rmtree(leftover, ignore_errors=True)

    def write(self, path: str, content: bytes) -> None:
        """Write a small file whole."""
        with _writing(self.where), whole_file(self.folder / path) as file:
            file.write_bytes(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """The file itself."""
        path = self.folder / name
        try:
            with _writing(self.where):
                yield path
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def move_file(self, source: str, target: str) -> None:
        """Rename a file beside the models."""
        with _writing(self.where):
            (self.folder / source).replace(self.folder / target)

    def remove(self, name: str) -> None:
        """Remove a model or a file, if it is there."""
        path = self.folder / name
        with _writing(self.where):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def lock(self, name: str, *, wait_s: float, busy: str) -> AbstractContextManager[None]:
        """Hold the system's lock; see `folder_lock`."""
        return folder_lock(self.folder / name, wait_s=wait_s, busy=busy)


class ObjectStore(Storage):
    """Models in an object store, or in anything else that fsspec can reach."""

    trades_places = False

    def __init__(self, models: str) -> None:
        self.where = models
        with _writing(models):
            self._filesystem, root = fsspec.url_to_fs(models)
        self._root = str(root).rstrip("/")

    def read(self, path: str) -> bytes | None:
        """The content of a file; None if there is none."""
        with _writing(self.where):
            try:
                content: bytes = self._filesystem.cat_file(self._path(path))
            except (FileNotFoundError, NotADirectoryError):
                return None
            return content

    def models(self) -> tuple[str, ...]:
        """Names of the folders that hold a configuration."""
        return tuple(name for name in self._listed("directory") if self.read(f"{name}/{CONFIG}") is not None)

    def files(self) -> tuple[str, ...]:
        """Names of the files beside the models."""
        return self._listed("file")

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A copy in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="dyndet-push-") as folder:
            copy = Path(folder) / "copy"
            with _writing(self.where):
                if self._filesystem.isfile(self._path(name)):
                    self._filesystem.get_file(self._path(name), str(copy))
                else:
                    self._filesystem.get(f"{self._path(name)}/", f"{copy}/", recursive=True)
            yield copy

    @contextmanager
    def staging(self, detector: str) -> Iterator[Path]:
        """A temporary folder."""
        with tempfile.TemporaryDirectory(prefix="dyndet-push-") as folder, _writing(self.where):
            yield Path(folder)

    def place(self, prepared: Path, name: str) -> None:
        """Copy file by file, the configuration last: a model that has one is whole."""
        self.remove(name)
        with _writing(self.where):
            files = sorted(path for path in prepared.rglob("*") if path.is_file() and path.name != CONFIG)
            for path in (*files, prepared / CONFIG):
                target = self._path(f"{name}/{path.relative_to(prepared).as_posix()}")
                self._filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._filesystem.put_file(str(path), target)

    def replace(self, name: str, by: str) -> None:
        """Copy the model."""
        with self.local(by) as folder:
            self.place(folder, name)

    def repair(self, name: str, by: str) -> None:
        """Nothing: a copy that was interrupted has no configuration yet, and is restored from the archive."""

    def write(self, path: str, content: bytes) -> None:
        """Write a small file whole."""
        with _writing(self.where):
            self._filesystem.pipe_file(self._path(path), content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A temporary file that is copied to its place."""
        with tempfile.TemporaryDirectory(prefix="dyndet-push-") as folder, _writing(self.where):
            path = Path(folder) / "file"
            yield path
            self._filesystem.put_file(str(path), self._path(name))

    def move_file(self, source: str, target: str) -> None:
        """Rename a file beside the models."""
        with _writing(self.where):
            self._filesystem.mv(self._path(source), self._path(target))

    def remove(self, name: str) -> None:
        """Remove a model or a file, if it is there."""
        with _writing(self.where), suppress(FileNotFoundError):
            self._filesystem.invalidate_cache()
            self._filesystem.rm(self._path(name), recursive=True)

    def lock(self, name: str, *, wait_s: float, busy: str) -> AbstractContextManager[None]:
        """Hold the lock object; see `object_lock`."""
        with _writing(self.where):
            return object_lock(self._filesystem, self._path(name), wait_s=wait_s, busy=busy)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _listed(self, kind: str) -> tuple[str, ...]:
        with _writing(self.where):
            self._filesystem.invalidate_cache()
            try:
                entries: list[dict[str, Any]] = self._filesystem.ls(self._root, detail=True)
            except FileNotFoundError:  # a bucket's folder is there as soon as it holds something
                return ()
        return tuple(sorted(str(one["name"]).rstrip("/").rpartition("/")[2] for one in entries if one["type"] == kind))


def _exchanged(first: Path, second: Path) -> bool:
    """Let two folders trade places in one step (Linux); False if this file system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    answer: int = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return answer == 0


@contextmanager
def _writing(where: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f"{where} needs a package that is not installed ({error}); run `pip install s3fs` for s3://, or "
            "`pip install gcsfs` for gs://"
        ) from error
    except OSError as error:
        raise InputError(f"{where} cannot be written: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{where} cannot be written: {error}") from error
