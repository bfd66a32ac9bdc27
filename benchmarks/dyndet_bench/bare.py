"""The stages of a model repository as bare ONNX Runtime calls: what serving is compared with."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dynamicdet.errors import InputError, MissingExtraError
from dyndet_bench.served import STAGES

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]


class BareStages:
    """Sessions of the stages' graphs, with the thread counts they are served with and else ONNX Runtime's defaults.

    Raises InputError where the repository holds no ONNX graphs that run on the CPU.
    """

    def __init__(self, repository: Path, model: str) -> None:
        self._sessions = {stage: _session(repository / f"{model}_{stage}") for stage in STAGES}
        self._inputs = {
            stage: [tensor.name for tensor in session.get_inputs()] for stage, session in self._sessions.items()
        }

    def easy(self, image: Array) -> Array:
        """Detections of detector 1 for an image (S, S, 3)."""
        return self._route(image, "head1")

    def hard(self, image: Array) -> Array:
        """Detections of detector 2 for an image (S, S, 3)."""
        return self._route(image, "detector2")

    def time_ms(self, images: Sequence[Array], *, hard: bool) -> FloatArray:
        """Time of each image down one route, (images,), after one that is not counted."""
        answer = self.hard if hard else self.easy
        answer(images[0])
        times = []
        for image in images:
            start = time.perf_counter_ns()
            answer(image)
            times.append((time.perf_counter_ns() - start) / 1e6)
        return np.array(times, np.float64)

    def _route(self, image: Array, last: str) -> Array:
        tensors: dict[str, Array] = {"image": image[None]}
        wanted = ["difficulty", *(name for name in self._inputs[last] if name != "image")]
        tensors |= zip(wanted, self._sessions["backbone1"].run(wanted, {"image": image[None]}), strict=True)
        feed = {name: tensors[name] for name in self._inputs[last]}
        outputs: list[Array] = self._sessions[last].run(None, feed)
        return outputs[0]


def _session(folder: Path) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnxruntime is not installed; `pip install 'dyndet[build]'` installs it") from error
    graph = folder / "1" / "model.onnx"
    if not graph.is_file():
        raise InputError(f"{folder.parent} cannot be compared with ONNX Runtime: {graph} does not exist")
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    if any(group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU for group in config.instance_group):
        raise InputError(f"{folder.name} is served on a GPU; the comparison with ONNX Runtime is for stages on the CPU")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name in ("dyndet_threads", "intra_op_thread_count"):
        if name in config.parameters:
            options.intra_op_num_threads = int(config.parameters[name].string_value)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
