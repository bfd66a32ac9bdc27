"""Reads files of torch.save without torch.load: first what they say they hold, then the tensors that are wanted.

A file of others may claim any size. So tensors appear as `StoredTensor` until `TorchFile.tensors` reads them; whoever
asks for them has compared names and shapes with a network before.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from dynamicdet.errors import CheckpointError
from dynamicdet.networks.plain_pickle import PickleError, UnknownNameError
from dynamicdet.networks.stored_tensors import Storage, StoredTensor
from dynamicdet.networks.torch_containers import Container, open_container
from dynamicdet.text import printable

_DAMAGES = (struct.error, ValueError, NotImplementedError, EOFError, RuntimeError, OverflowError)


class TorchFile:
    """What a file of torch.save holds. Raises CheckpointError if its content does not fit together."""

    def __init__(self, path: Path, container: Container) -> None:
        self._path = path
        self._container = container
        self.content = container.content()
        """the value that was saved, with a `StoredTensor` for each tensor"""
        self._sizes = container.sizes()
        self.stored_bytes = sum(self._sizes.values())
        """of all storages together"""

    def tensors(self, wanted: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Read tensors; each storage is read once, and only one is in memory at a time."""
        for stored in wanted.values():
            if self._sizes.get(stored.storage.key) != stored.storage.bytes:
                raise CheckpointError(f"{printable(self._path)} is damaged: a tensor's data is missing or incomplete")
        read: dict[str, Tensor] = {}
        last: tuple[Storage | None, Tensor] = (None, torch.empty(0))
        for name, stored in sorted(wanted.items(), key=lambda item: item[1].storage.key):
            if last[0] != stored.storage:
                last = (stored.storage, self._numbers(stored.storage))
            # A clone has the same strides, and does not hold on to the rest of the storage.
            read[name] = last[1].as_strided(stored.shape, stored.stride, stored.offset).clone()
        return read

    def _numbers(self, storage: Storage) -> Tensor:
        with _named(self._path):
            data = self._container.read(storage.key)
        return torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)


@contextmanager
def open_torch_file(path: Path, *, largest: int) -> Iterator[TorchFile]:
    """A file of torch.save, of at most `largest` bytes.

    Raises CheckpointError, in one sentence, if it is larger, damaged, compressed, or if it holds anything but plain
    values and dense tensors.
    """
    with ExitStack() as opened:
        with _named(path):
            size = path.stat().st_size
            if size > largest:
                raise CheckpointError(
                    f"{printable(path)} is too large: it has {size:,} bytes, and no accepted file has more than "
                    f"{largest:,}"
                )
            file = opened.enter_context(path.open("rb"))
            content = TorchFile(path, open_container(file, size))
        yield content


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn errors about the content into one sentence about the file."""
    try:
        yield
    except UnknownNameError as error:
        if error.name.startswith("torch"):
            reason = f"holds what is not a dense tensor ({error.name})"
        else:
            reason = f"needs code to load ({error.name}) and is refused"
        raise CheckpointError(
            f"{printable(path)} {reason}; dyndet accepts plain tensors, as torch.save({{'model': model.state_dict()}}, "
            "path) writes them"
        ) from error
    except PickleError as error:
        raise CheckpointError(f"{printable(path)} {error}") from error
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{printable(path)} cannot be read: {printable(error.strerror or error)}") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{printable(path)} is damaged: {printable(error, limit=200)}") from error
    except _DAMAGES as error:
        raise CheckpointError(f"{printable(path)} is damaged: its content cannot be read") from error
