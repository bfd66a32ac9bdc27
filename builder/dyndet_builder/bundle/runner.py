"""A bundle's stages as bare ONNX Runtime sessions, chained as in the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.aliases import Float32Array
from dyndet_builder.bundle.manifest import STAGES, Bundle, StageName, read_bundle
from dyndet_builder.bundle.sessions import Array, Tensors, run_session, session_of

__all__ = ["Answer", "Array", "BundleRunner", "StageRunner", "Tensors"]


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
        self._sessions = {name: session_of(files[name], threads=threads, frugal=frugal) for name in STAGES}

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
        return run_session(self._sessions[stage], tensors, name=f"stage {stage!r} of the bundle")


class BundleRunner(StageRunner):
    """The stages of a bundle folder. Raises InputError if it is not a bundle or was changed."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self.bundle: Bundle = read_bundle(folder)
        files = {name: folder / self.bundle.stages[name].file for name in STAGES}
        super().__init__(files, threads=threads)
