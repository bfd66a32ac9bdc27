"""The place where a server reads its models, as this machine reaches it: what every kind of it can do.

A server that starts in the middle of a change must find whole models. In a folder a model appears by a rename, and two
models trade places in one step. An object store can do neither, so there a model is copied object by object.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dynamicdet.errors import InputError, MissingExtraError
from dynamicdet.redaction import without_secrets

CONFIG = "config.pbtxt"
"""the file that makes a folder a model"""
LARGEST = 4 << 20
"""bytes of a file that `Storage.read` reads"""


class UnreadableError(InputError):
    """Something is in the place of a file that cannot be it: not a regular file, or too large a one."""


class Storage(ABC):
    """Models by their names, and a few files beside them. A method that cannot write raises InputError."""

    where: str
    """for messages"""
    trades_places: bool
    """whether two models can trade places"""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """The content of a small file; None if there is none. Raises UnreadableError."""

    @abstractmethod
    def is_taken(self, name: str) -> bool:
        """Whether something is there that `place` does not replace."""

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
        """Hold the lock of this name; see `lock`."""


@contextmanager
def writing_to(where: str) -> Iterator[None]:
    """Turn an error into one sentence about the storage `where`."""
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f"{where} needs a package that is not installed ({without_secrets(error)}); run `pip install s3fs` for "
            "s3://, or `pip install gcsfs` for gs://"
        ) from error
    except OSError as error:
        raise InputError(f"{where} cannot be written: {error.strerror or without_secrets(error)}") from error
    except ValueError as error:
        raise InputError(f"{where} cannot be written: {without_secrets(error)}") from error
