"""A detector's stages as bare ONNX Runtime calls, with which serving is compared."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynamicdet.aliases import FloatArray
from dynamicdet.cores import graph_threads, usable_cores
from dynamicdet.extras import missing_extra
from dyndet_bench.measuring.served import ALL_EASY, ALL_HARD

Array = npt.NDArray[Any]
DETECTIONS = ("num_detections", "boxes", "scores", "classes")


class BareStages:
    """Sessions of the stages' ONNX files on the CPU, with ONNX Runtime's defaults.

    `threads` is the number per graph; 0: one per core that this process may use. With `shared_pool`, all graphs of this
    process take turns with the same threads, one per core.
    """

    def __init__(self, graphs: Mapping[str, Path], *, threads: int = 0, shared_pool: bool = False) -> None:
        if shared_pool:
            _onnxruntime().set_global_thread_pool_sizes(usable_cores(), 1)
        served = {stage: graph for stage, graph in graphs.items() if stage != "detector1_own"}  # for image files
        self._sessions = {stage: _session(graph, threads, shared_pool) for stage, graph in served.items()}
        names = {
            stage: ([tensor.name for tensor in one.get_inputs()], [tensor.name for tensor in one.get_outputs()])
            for stage, one in self._sessions.items()
        }
        self._inputs = {stage: inputs for stage, (inputs, _) in names.items()}
        self._first = "backbone1" if "backbone1" in names else "detector1"
        self._easy = "head1" if "head1" in names else None
        self._features = names[self._first][1]

    def answer(self, image: Array, threshold: float) -> list[Array]:
        """Detections in an image (H, W, 3): detector 2 answers if difficulty > threshold, or at threshold 0."""
        given = {"image": image[None]}
        values = self._sessions[self._first].run(self._features, given)
        tensors = dict(zip(self._features, values, strict=True)) | given
        easy = threshold > 0 and float(tensors["difficulty"].item()) <= threshold
        last = self._easy if easy else "detector2"
        if last is None:
            return [tensors[name] for name in DETECTIONS]
        found: list[Array] = self._sessions[last].run(DETECTIONS, {name: tensors[name] for name in self._inputs[last]})
        return found

    def time_ms(self, images: Sequence[Array], *, hard: bool) -> FloatArray:
        """Time of each image on one route, (images,), after one image that is not counted."""
        threshold = ALL_HARD if hard else ALL_EASY
        self.answer(images[0], threshold)
        times = []
        for image in images:
            start = time.perf_counter_ns()
            self.answer(image, threshold)
            times.append((time.perf_counter_ns() - start) / 1e6)
        return np.array(times, np.float64)


class BareFile:
    """A session of one file that routes itself (`dyndet compose`) on the CPU, with ONNX Runtime's defaults."""

    def __init__(self, file: Path) -> None:
        self._session = _session(file, 0, shared_pool=False)

    def answer(self, image: Array, threshold: float) -> list[Array]:
        """Detections in an image (H, W, 3), as those of `BareStages`."""
        given = {"image": image[None], "threshold": np.array([[threshold]], np.float32)}
        found: list[Array] = self._session.run(DETECTIONS, given)
        return found


def _session(graph: Path, threads: int, shared_pool: bool) -> Any:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; printed as well, they would show names from the files
    options.intra_op_num_threads = graph_threads(threads)
    if shared_pool:
        options.use_per_session_threads = False
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _onnxruntime() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise missing_extra("onnxruntime is not installed", "onnxruntime", among=("build",)) from error
    return onnxruntime
