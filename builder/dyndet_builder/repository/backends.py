"""Settings of the stage backends that need more than a graph and a batch size: ONNX Runtime on a GPU, OpenVINO."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dyndet_builder.bundle.manifest import Precision
from dyndet_builder.repository.options import RenderOptions

if TYPE_CHECKING:
    from dyndet_builder.repository.models import ModelTensor, StageModel, Warmup

ENGINE_CACHE = "/engine-cache"
"""where ONNX Runtime keeps the engines that it builds; `dyndet serve --docker` mounts a volume there"""

_WORKSPACE = 1 << 30  # bytes


def accelerator_parameters(precision: Precision, options: RenderOptions) -> dict[str, str]:
    """Parameters of an execution accelerator, as Triton's onnxruntime backend names them.

    No shapes of a profile are given: they would be needed for every subgraph that TensorRT takes. The stages' warm-up
    with one image and with a full batch makes ONNX Runtime build engines for that range, and it keeps them.
    """
    if options.accelerator == "cuda":
        return {"cudnn_conv_use_max_workspace": "1"}
    return {
        "precision_mode": precision.upper(),
        "max_workspace_size_bytes": str(_WORKSPACE),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": ENGINE_CACHE,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": ENGINE_CACHE,
    }


def openvino_parameters(options: RenderOptions) -> dict[str, str]:
    """Parameters of Triton's openvino backend: each instance is one stream, which answers one request at a time."""
    parameters = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": str(options.instances)}
    if options.threads:
        parameters["INFERENCE_NUM_THREADS"] = str(options.threads * options.instances)
    return parameters


def unbatched(model: StageModel) -> StageModel:
    """The same stage to a server that knows of no batches: the batch is the first of its dimensions, and may be any.

    Triton's openvino backend fixes a batching model's batch to the largest, and pads every smaller request to it.
    """
    return replace(
        model,
        max_batch=0,
        merges=False,
        preferred_batches=(),
        inputs=tuple(_any_batch(tensor) for tensor in model.inputs),
        outputs=tuple(_any_batch(tensor) for tensor in model.outputs),
        warmups=tuple(_one_image(warmup) for warmup in model.warmups[:1]),
    )


def _any_batch(tensor: ModelTensor) -> ModelTensor:
    return replace(tensor, dims=(-1, *tensor.dims))


def _one_image(warmup: Warmup) -> Warmup:
    return replace(warmup, inputs=tuple(replace(tensor, dims=(1, *tensor.dims)) for tensor in warmup.inputs))
