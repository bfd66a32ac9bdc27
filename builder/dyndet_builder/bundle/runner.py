"""A bundle's stages as bare ONNX Runtime sessions, chained as in the server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dynamicdet.aliases import Float32Array
from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import STAGES, Bundle, StageName, read_bundle

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

import onnxruntime

_FATAL = 4
"""severity: ONNX Runtime writes errors to the terminal itself, with names from the files, and raises them as well"""
onnxruntime.set_default_logger_severity(_FATAL)

Array = npt.NDArray[Any]
Tensors = dict[str, Array]


@dataclass(frozen=True)
class Answer:
    """Outputs of backbone 1 and of the detector of one route, by name."""

    backbone1: Tensors
    detector: Tensors

    @property
    def difficulty(self) -> Float32Array:
        """Difficulty of each image, (B,)."""
        difficulty: Float32Array = self.backbone1["difficulty"][:, 0]
        return difficulty


class StageRunner:
    """Sessions of the three stage files on the CPU; `threads` per session, None: ONNX Runtime chooses.

    By default each session holds on to the memory that it once needed, which is faster. `frugal` gives it back.
    """

    def __init__(self, files: Mapping[StageName, Path], *, threads: int | None = None, frugal: bool = False) -> None:
        self._sessions = {name: _session(files[name], threads, frugal=frugal) for name in STAGES}

    def backbone1(self, images: Array) -> Tensors:
        """`difficulty` (B, 1) and features of uint8 images (B, S, S, 3)."""
        return self.run("backbone1", {"image": images})

    def easy(self, images: Array) -> Answer:
        """Backbone 1, then head 1."""
        first = self.backbone1(images)
        return Answer(first, self.run("head1", first))

    def hard(self, images: Array) -> Answer:
        """Backbone 1, then detector 2."""
        first = self.backbone1(images)
        return Answer(first, self.run("detector2", {**first, "image": images}))

    def both(self, images: Array) -> tuple[Answer, Answer]:
        """Answers of the easy and the hard route, with one run of backbone 1."""
        first = self.backbone1(images)
        hard = self.run("detector2", {**first, "image": images})
        return Answer(first, self.run("head1", first)), Answer(first, hard)

    def run(self, stage: StageName, tensors: Mapping[str, Array]) -> Tensors:
        """Run one stage; it takes its inputs from `tensors`."""
        session = self._sessions[stage]
        feed = {value.name: tensors[value.name] for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        try:
            answer = session.run(names, feed)
        except Exception as error:  # ONNX Runtime's own classes have no common base
            raise InputError(f"ONNX Runtime cannot run stage {stage!r} of the bundle: {_reason(error)}") from error
        return dict(zip(names, answer, strict=True))


class BundleRunner(StageRunner):
    """The stages of a bundle folder. Raises InputError if it is not a bundle or was changed."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.bundle: Bundle = read_bundle(folder)
        files = {name: folder / self.bundle.stages[name].file for name in STAGES}
        super().__init__(files, threads=threads)


def _session(path: Path, threads: int | None, *, frugal: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = not frugal
    options.log_severity_level = _FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a graph that has the right tensors can still be no graph
        raise InputError(f"ONNX Runtime cannot load {printable(path)}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return printable(str(error).strip().partition("\n")[0], limit=300)
