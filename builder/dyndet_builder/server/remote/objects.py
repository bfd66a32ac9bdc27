"""A model folder in an object store, or in anything else that fsspec can reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from dynamicdet.files import scratch_folder
from dynamicdet.redaction import public_address
from dyndet_builder.server.remote.lock import object_lock
from dyndet_builder.server.remote.storage import CONFIG, LARGEST, Storage, UnreadableError, writing_to


class ObjectStore(Storage):
    """Models in an object store, or in anything else that fsspec can reach."""

    trades_places = False

    def __init__(self, models: str) -> None:
        self.where = public_address(models)
        with writing_to(self.where):
            self._filesystem, root = fsspec.url_to_fs(models)
        self._root = str(root).rstrip("/")

    def read(self, path: str) -> bytes | None:
        """The content of a small file; None if there is none."""
        with writing_to(self.where):
            try:
                if (size := int(self._filesystem.info(self._path(path)).get("size") or 0)) > LARGEST:
                    raise UnreadableError(
                        f"{self.where}/{path} is too large: it has {size:,} bytes, and at most {LARGEST:,} are read"
                    )
                content: bytes = self._filesystem.cat_file(self._path(path))
            except (FileNotFoundError, NotADirectoryError):
                return None
            except IsADirectoryError as error:
                raise UnreadableError(f"{self.where}/{path} is not a file") from error
            return content

    def is_taken(self, name: str) -> bool:
        """Whether a model has this name; what a copy that was interrupted has left is no model yet."""
        return name in self.models()

    def models(self) -> tuple[str, ...]:
        """Names of the folders that hold a configuration."""
        with writing_to(self.where):
            return tuple(
                name for name in self._listed("directory") if self._filesystem.exists(self._path(f"{name}/{CONFIG}"))
            )

    def files(self) -> tuple[str, ...]:
        """Names of the files beside the models."""
        return self._listed("file")

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A copy in a temporary folder."""
        with scratch_folder("push") as folder:
            copy = folder / "copy"
            with writing_to(self.where):
                if self._filesystem.isfile(self._path(name)):
                    self._filesystem.get_file(self._path(name), str(copy))
                else:
                    self._filesystem.get(f"{self._path(name)}/", f"{copy}/", recursive=True)
            yield copy

    @contextmanager
    def staging(self, detector: str) -> Iterator[Path]:
        """A temporary folder."""
        with scratch_folder("push") as folder, writing_to(self.where):
            yield folder

    def place(self, prepared: Path, name: str) -> None:
        """Copy file by file, the configuration last: a model that has one is whole."""
        self.remove(name)
        with writing_to(self.where):
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
        with writing_to(self.where):
            self._filesystem.pipe_file(self._path(path), content)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A temporary file that is copied to its place."""
        with scratch_folder("push") as folder, writing_to(self.where):
            path = folder / "file"
            yield path
            self._filesystem.put_file(str(path), self._path(name))

    def move_file(self, source: str, target: str) -> None:
        """Rename a file beside the models."""
        with writing_to(self.where):
            self._filesystem.mv(self._path(source), self._path(target))

    def remove(self, name: str) -> None:
        """Remove a model or a file, if it is there."""
        with writing_to(self.where), suppress(FileNotFoundError):
            self._filesystem.invalidate_cache()
            self._filesystem.rm(self._path(name), recursive=True)

    def lock(self, name: str, *, wait_s: float, busy: str) -> AbstractContextManager[None]:
        """Hold the lock object; see `object_lock`."""
        with writing_to(self.where):
            return object_lock(self._filesystem, self._path(name), wait_s=wait_s, busy=busy)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _listed(self, kind: str) -> tuple[str, ...]:
        with writing_to(self.where):
            self._filesystem.invalidate_cache()
            try:
                entries: list[dict[str, Any]] = self._filesystem.ls(self._root, detail=True)
            except FileNotFoundError:  # a bucket's folder is there as soon as it holds something
                return ()
        return tuple(sorted(str(one["name"]).rstrip("/").rpartition("/")[2] for one in entries if one["type"] == kind))
