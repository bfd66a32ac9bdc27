"""A baseline, not the product: conditional BLS as in Triton's examples.

Requests are answered one after another, calls of stages block and request every output, images are float32, and
detector 1 finishes before the difficulty is compared with the threshold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

_DETECTIONS = ("num_detections", "boxes", "scores", "classes")


class TritonPythonModel:
    """Runs detector 1, then detector 2 if the difficulty exceeds the threshold."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the names of the stages."""
        self._stages = json.loads((Path(__file__).parent / "stages.json").read_text())

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one request after another, each with one image."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().astype(np.uint8)
        threshold = pb_utils.get_input_tensor_by_name(request, "threshold").as_numpy().item()
        tensors = {"image": pb_utils.Tensor("image", image)}
        if "detector1" in self._stages:  # a pair
            tensors |= self._run("detector1", tensors)
            answer = {name: tensors[name] for name in _DETECTIONS}
        else:
            tensors |= self._run("backbone1", tensors)
            answer = self._run("head1", tensors)
        if tensors["difficulty"].as_numpy().item() > threshold:
            answer = self._run("detector2", tensors)
        return pb_utils.InferenceResponse(output_tensors=list(answer.values()))

    def _run(self, stage: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
        described = self._stages[stage]
        response = pb_utils.InferenceRequest(
            model_name=described["model"],
            inputs=[tensors[name] for name in described["inputs"]],
            requested_output_names=described["outputs"],
        ).exec()
        if response.has_error():
            raise pb_utils.TritonModelException(response.error().message())
        return {tensor.name(): tensor for tensor in response.output_tensors()}
