"""One stage of a detector: an ONNX graph in ONNX Runtime, inside Triton's Python backend.

Runs on any Triton server with a Python backend. Needs numpy, onnxruntime and Triton's own module.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))

from graph import Graph  # type: ignore[import-not-found]


class TritonPythonModel:
    """Answers requests of one stage. The requests of one call run as one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph on the instance's device."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._name = args["model_name"]
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._graph = Graph(
            Path(args["model_repository"]) / args["model_version"],
            threads=int(parameters["dyndet_threads"]),
            spins="dyndet_spins" in parameters,
            gpu=int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None,
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests in order. A request that fails gets an error; the others are answered."""
        if len(requests) == 1:
            return [self._answer(requests[0])]
        try:
            return self._answer_merged(requests)
        except Exception:  # answer each on its own, so only the faulty request gets an error
            return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            wanted = self._wanted(request)
            return _response(wanted, self._graph.run(wanted, self._arrays(request)))
        except Exception as error:
            pb_utils.Logger.log_warn(f"{self._name} failed: {type(error).__name__}: {' '.join(str(error).split())}")
            told = f"ONNX Runtime failed ({type(error).__name__}); the server's log says more"  # no paths for clients
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(told))

    def _answer_merged(self, requests: Sequence[Any]) -> list[Any]:
        arrays = [self._arrays(request) for request in requests]
        wanted = [self._wanted(request) for request in requests]
        computed = [name for name in self._outputs if any(name in names for names in wanted)]
        merged = {name: np.concatenate([each[name] for each in arrays]) for name in self._inputs}
        results = dict(zip(computed, self._graph.run(computed, merged), strict=True))
        ends = np.cumsum([len(each[self._inputs[0]]) for each in arrays])
        return [
            _response(names, [results[name][end - len(each[self._inputs[0]]) : end] for name in names])
            for names, each, end in zip(wanted, arrays, ends, strict=True)
        ]

    def _arrays(self, request: Any) -> dict[str, Any]:
        # as_numpy is a view of Triton's shared memory, not a copy
        return {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}

    def _wanted(self, request: Any) -> list[str]:
        requested = set(request.requested_output_names())
        return [name for name in self._outputs if name in requested]


def _response(names: Sequence[str], arrays: Sequence[Any]) -> Any:
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, array) for name, array in zip(names, arrays, strict=True)]
    )
