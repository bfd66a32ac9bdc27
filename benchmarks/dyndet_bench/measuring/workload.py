"""Real images in perf_analyzer's format: each request sends the next image."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import UInt8Array
from dynamicdet.errors import InputError
from dynamicdet.files import scratch_folder
from dynamicdet.images import read_image
from dynamicdet.letterbox import Fit


def read_letterboxed(files: Sequence[Path], fit: Fit, progress: Callable[[], None] | None = None) -> list[UInt8Array]:
    """Images as a client sends them, each (H, W, 3). Raises InputError naming the first file that is not one."""
    images = []
    for file in files:
        images.append(fit(read_image(file)).image)
        if progress is not None:
            progress()
    return images


class Workload:
    """Images encoded once, written for perf_analyzer at any threshold; a context manager that removes its files.

    `dtype` is that of the model's input, uint8 for every dyndet detector.
    """

    def __init__(self, images: Sequence[UInt8Array], *, dtype: npt.DTypeLike = np.uint8) -> None:
        if not images:
            raise InputError("a workload needs at least one image")
        self.images = tuple(images)
        """each (H, W, 3)"""
        self._shape = list(images[0].shape)
        self._encoded = [base64.b64encode(image.astype(dtype).tobytes()).decode() for image in images]
        self._stack = ExitStack()
        self._folder = self._stack.enter_context(scratch_folder("workload"))
        self._files: dict[float | None, Path] = {}
        self._numbers = itertools.count()  # a name that was discarded is not used again

    def __enter__(self) -> Workload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return len(self._encoded)

    @property
    def folder(self) -> Path:
        """Folder of its files; other files of the same measurement can be put there."""
        return self._folder

    @cached_property
    def sha256(self) -> str:
        """Of the images, in their order."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(image.tobytes())
        return digest.hexdigest()

    def input_data(self, threshold: float | None) -> Path:
        """File for `--input-data` that sends each image with this threshold; None leaves it to the server.

        The threshold goes through the optional input: request parameters do not reach the model (perf_analyzer 2.51).
        """
        if threshold not in self._files:
            path = self.folder / f"input-{next(self._numbers)}.json"
            path.write_text(f'{{"data":[{",".join(self._entry(encoded, threshold) for encoded in self._encoded)}]}}')
            self._files[threshold] = path
        return self._files[threshold]

    @contextmanager
    def entries(self, entries: Sequence[tuple[int, float]]) -> Iterator[Path]:
        """File for `--input-data` of these images, by number, each at its own threshold; removed afterwards."""
        path = self.folder / f"input-{next(self._numbers)}.json"
        try:
            text = ",".join(self._entry(self._encoded[picture], threshold) for picture, threshold in entries)
            path.write_text(f'{{"data":[{text}]}}')
            yield path
        finally:
            path.unlink(missing_ok=True)

    def discard(self, threshold: float | None) -> None:
        """Remove the file of a threshold that is not needed again: a file takes 1.4 times the size of all images."""
        path = self._files.pop(threshold, None)
        if path is not None:
            path.unlink()

    def _entry(self, encoded: str, threshold: float | None) -> str:
        forced = ""
        if threshold is not None:
            value = base64.b64encode(np.float32(threshold).tobytes()).decode()
            forced = f',"threshold":{{"b64":"{value}","shape":[1]}}'
        return f'{{"image":{{"b64":"{encoded}","shape":{self._shape}}}{forced}}}'
