"""A bundle's stages as bare ONNX Runtime sessions, chained as in the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynamicdet.aliases import Float32Array
from dyndet_builder.bundle.manifest import DETECTION_OUTPUTS, OWN, Bundle, StageName, read_bundle
from dyndet_builder.bundle.sessions import Array, Tensors, run_session, session_of

__all__ = ["Answer", "Array", "BundleRunner", "StageRunner", "Tensors"]


@dataclass(frozen=True)
class Answer:
    """Outputs of the first stage and of the detector of one route, by name."""

    first: Tensors
    detector: Tensors

    @property
    def difficulty(self) -> Float32Array:
        """Difficulty of each image, (B,)."""
        difficulty: Float32Array = self.first["difficulty"][:, 0]
        return difficulty


class StageRunner:
    """Sessions of the stage files on the CPU; `threads` per session, None: ONNX Runtime chooses.

    A stage that takes one image at a time runs once for each. By default each session holds on to the memory that it
    once needed, which is faster. `frugal` gives it back. `plain` leaves out optimisations of the layout.
    """

    def __init__(
        self,
        files: Mapping[StageName, Path],
        *,
        threads: int | None = None,
        frugal: bool = False,
        plain: bool = False,
    ) -> None:
        self._sessions = {
            name: session_of(path, threads=threads, frugal=frugal, plain=plain) for name, path in files.items()
        }
        self._first: StageName = "backbone1" if "backbone1" in files else "detector1"

    def first(self, images: Array) -> Tensors:
        """`difficulty` (B, 1) of fitted uint8 images (B, H, W, 3), and the features or detections of their stage."""
        return self.run(self._first, {"image": images})

    def easy(self, images: Array) -> Answer:
        """The easy route: backbone 1, then head 1; of a pair, detector 1 alone."""
        first = self.first(images)
        return Answer(first, self._easy(first))

    def hard(self, images: Array) -> Answer:
        """The hard route: the first stage, then detector 2."""
        first = self.first(images)
        return Answer(first, self._hard(first, images))

    def both(self, images: Array) -> tuple[Answer, Answer]:
        """Answers of the easy and the hard route, with one run of the first stage."""
        first = self.first(images)
        return Answer(first, self._easy(first)), Answer(first, self._hard(first, images))

    def run(self, stage: StageName, tensors: Mapping[str, Array]) -> Tensors:
        """Run one stage; it takes its inputs from `tensors`, each with a leading axis of B."""
        session, name = self._sessions[stage], f"stage {stage!r} of the bundle"
        inputs = session.get_inputs()
        if inputs[0].shape[0] != 1:
            return run_session(session, tensors, name=name)
        ones = [
            run_session(session, {each.name: tensors[each.name][row : row + 1] for each in inputs}, name=name)
            for row in range(len(tensors[inputs[0].name]))
        ]
        return {output: np.concatenate([one[output] for one in ones]) for output in ones[0]}

    def _easy(self, first: Tensors) -> Tensors:
        if self._first == "backbone1":
            return self.run("head1", first)
        return {name: first[name] for name in DETECTION_OUTPUTS}

    def _hard(self, first: Tensors, images: Array) -> Tensors:
        return self.run("detector2", {**first, "image": images})


class BundleRunner(StageRunner):
    """The stages of a bundle folder. Raises InputError if it is not a bundle or was changed.

    Images are fitted by the bundle's rule; `own` adds the stage that reads those fitted for detector 1 of a pair.
    """

    def __init__(self, folder: Path, threads: int | None = None, *, own: bool = False, plain: bool = False) -> None:
        self.bundle: Bundle = read_bundle(folder)
        files = {name: folder / stage.file for name, stage in self.bundle.stages.items() if own or name != OWN}
        super().__init__(files, threads=threads, plain=plain)
