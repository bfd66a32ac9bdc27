"""A detector's merged graph in ONNX Runtime."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import file_sha256
from dyndet_builder.bundle.sessions import Array, Tensors, run_session, session_of


class DetectorRunner:
    """Runs a graph of `build_graph`, a model or its file, on the CPU; `threads` None: ONNX Runtime chooses.

    `file` is the detector's own file, for messages. Raises InputError for a graph that ONNX Runtime does not load.
    """

    def __init__(self, model: onnx.ModelProto | Path, *, threads: int | None = None, file: Path | None = None) -> None:
        graph = model if isinstance(model, Path) else model.SerializeToString()
        shown = model if isinstance(model, Path) else file
        self._name = "the detector's graph" if shown is None else printable(shown)
        self.sha256 = file_sha256(graph) if isinstance(graph, Path) else sha256(graph).hexdigest()
        """of the graph"""
        self._session = session_of(graph, name=self._name, threads=threads)
        (image,) = self._session.get_inputs()
        self.batch_one = image.shape[0] == 1
        """whether the graph takes one picture at a time; `run` then calls it once for each"""
        self.shape: tuple[int, ...] = tuple(image.shape[1:])
        """(H, W, 3) of its pictures"""

    def run(self, images: Array) -> Tensors:
        """The outputs by name, each with a leading axis of B, of fitted uint8 pictures (B, H, W, 3).

        Raises InputError for pictures of another shape or type, and if ONNX Runtime cannot run the graph.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.shape or not len(images):
            wanted = ", ".join(map(str, self.shape))
            raise InputError(f"pictures must be uint8 (B, {wanted}), not {images.dtype} {images.shape}")
        if not self.batch_one:
            return self._run_together(images)
        singles = [self._run(image[None]) for image in images]
        return {name: np.concatenate([single[name] for single in singles]) for name in singles[0]}

    def _run_together(self, images: Array) -> Tensors:
        """Several pictures at a time. Some exporters name the axis of the batch, and fix its size inside the graph."""
        try:
            return self._run(images)
        except InputError:
            if len(images) == 1:
                raise
        self._run(images[:1])  # another fault shows here, too
        raise InputError(
            f"{self._name} takes one picture at a time, though its batch has no fixed size: export it with a batch of "
            "1, or write `batch: one` into its detector.yaml"
        )

    def _run(self, images: Array) -> Tensors:
        answer = run_session(self._session, {"image": images}, name=self._name)
        for name, values in answer.items():
            if values.shape[:1] != images.shape[:1]:
                raise InputError(f"{self._name} gives {name} for {len(values)} pictures instead of {len(images)}")
        return answer
