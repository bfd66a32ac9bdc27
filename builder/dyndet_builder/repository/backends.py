"""The backends that can run stages. Each is one entry of `BACKENDS`; dyndet knows nothing else about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import Bundle
from dyndet_builder.bundle.parts import Target
from dyndet_builder.defaults import TARGETS
from dyndet_builder.repository.config import Accelerator, ModelTensor, StageModel, Warmup
from dyndet_builder.repository.openvino_graph import write_precise
from dyndet_templates import TEMPLATES

Device = Literal["cpu", "gpu"]
Parameters = Callable[[StageModel], Mapping[str, str]]
"""Computes parameters of a stage's configuration from the rest of it."""

ENGINE_CACHE = "/engine-cache"
"""where ONNX Runtime stores the engines that it builds; `dyndet serve --docker` mounts a volume there"""

_STAGES = TEMPLATES / "stages"
_WORKSPACE = 1 << 30  # bytes


def _no_parameters(_stage: StageModel) -> dict[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Backend:
    """How stages are configured for a backend, and what it can do."""

    triton: str
    """Triton's name for it"""
    template: Path
    """folder of `config.pbtxt.jinja`, which renders a `StageModel` and may include `_model.pbtxt.jinja`, and of the
    `*.py` files that go beside each stage's `model.onnx`; with `needs_plan` also of `PUT_MODEL_PLAN_HERE.txt.jinja`"""
    parameters: Parameters = _no_parameters
    """of a stage, in addition to those that every stage has"""
    devices: tuple[Device, ...] = ("cpu", "gpu")
    accelerators: Mapping[str, Parameters] = field(default_factory=dict)
    """what can run its graphs on a GPU instead of its default, with the parameters of each"""
    batched: bool = True
    """whether Triton may batch for it; otherwise the batch is the first dimension of every tensor"""
    targets: tuple[Target, ...] = ("onnxruntime",)
    """what the graphs of a two-stage detector must have been exported for"""
    needs_plan: bool = False
    """whether it runs the TensorRT engines that `dyndet engines` builds, not the graphs"""
    embedded: bool = False
    """whether the embedded server includes it"""
    fused: bool = False
    """whether the public model can run the same graphs in its own process, in the topology `fused`"""
    prepare: Callable[[Path, Path], None] | None = None
    """writes what the backend runs instead of a stage's `model.onnx`, if that is not the file itself: takes it and the
    folder of the version"""

    def configured(self, stage: StageModel, *, accelerator: str | None = None) -> StageModel:
        """A stage as this backend needs it."""
        if accelerator is not None:
            settings = dict(self.accelerators[accelerator](stage))
            stage = replace(stage, accelerator=Accelerator(name=accelerator, parameters=settings))
        stage = replace(stage, parameters={**stage.parameters, **self.parameters(stage)})
        if stage.takes_one:
            return _unbatched(stage, batch=1)
        return stage if self.batched else _unbatched(stage, batch=-1)


def _python(stage: StageModel) -> dict[str, str]:
    return {"dyndet_threads": str(stage.threads)}


def _onnxruntime(stage: StageModel) -> dict[str, str]:
    return {} if stage.gpus else {"intra_op_thread_count": str(stage.threads), "inter_op_thread_count": "1"}


def _cuda(_stage: StageModel) -> dict[str, str]:
    return {"cudnn_conv_use_max_workspace": "1"}


def _tensorrt(stage: StageModel) -> dict[str, str]:
    """Parameters as Triton's onnxruntime backend names them.

    They contain no profile shapes: TensorRT would need these for every subgraph that it takes. Instead, the stages warm
    up with one image and with a full batch. ONNX Runtime then builds engines for that range and stores them.
    """
    return {
        "precision_mode": stage.precision.upper(),
        "max_workspace_size_bytes": str(_WORKSPACE),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": ENGINE_CACHE,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": ENGINE_CACHE,
    }


def _openvino(stage: StageModel) -> dict[str, str]:
    """Each instance is one stream, which runs one request at a time.

    Triton's backend ignores the precision today; see `openvino_graph`.
    """
    parameters = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": str(stage.instances),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if stage.threads:
        parameters["INFERENCE_NUM_THREADS"] = str(stage.threads * stage.instances)
    return parameters


def _masks_apart(graph: Path, folder: Path) -> None:
    """Masks as a graph of their own, which runs only for those who want them."""
    from dyndet_builder.repository.mask_head import write_apart  # onnx takes time to load

    write_apart(graph, folder)


BACKENDS: dict[str, Backend] = {
    # ONNX Runtime inside Triton's Python backend
    "python": Backend(
        triton="python",
        template=_STAGES / "python",
        parameters=_python,
        embedded=True,
        fused=True,
        prepare=_masks_apart,
    ),
    "onnxruntime": Backend(
        triton="onnxruntime",
        template=_STAGES / "onnxruntime",
        parameters=_onnxruntime,
        accelerators={"cuda": _cuda, "tensorrt": _tensorrt},
    ),
    "tensorrt": Backend(
        triton="tensorrt", template=_STAGES / "tensorrt", devices=("gpu",), targets=("tensorrt",), needs_plan=True
    ),
    # With Triton's batching, it would fix the batch to the largest and pad every smaller request to it.
    "openvino": Backend(
        triton="openvino",
        template=_STAGES / "openvino",
        parameters=_openvino,
        devices=("cpu",),
        batched=False,
        prepare=write_precise,
    ),
}
"""By the name that `RenderOptions.backend` and `--backend` accept. A program can add its own before it renders."""


def check_target(bundle: Bundle, backend: str, *, on_gpu: bool) -> None:
    """Raise InputError if a two-stage detector was exported for something else than what a backend runs.

    On a GPU, ONNX Runtime takes both forms: before 2026, it runs RoiAlign of our opset on the CPU.
    """
    entry = BACKENDS[backend]
    accepted = TARGETS if on_gpu and not entry.needs_plan else entry.targets
    if bundle.two_stage is not None and bundle.two_stage.target not in accepted:
        raise InputError(
            f"the graphs of {bundle.name} were exported for {bundle.two_stage.target}, but the backend {backend} needs "
            f"them for {accepted[0]}; export the checkpoint again with `dyndet export --target {accepted[0]}`"
        )


def accelerators() -> tuple[str, ...]:
    """Names of the accelerators that some backend has."""
    return tuple(dict.fromkeys(name for backend in BACKENDS.values() for name in backend.accelerators))


def names_of(fits: Callable[[Backend], bool]) -> str:
    """Names of the backends that meet a condition, for a message."""
    return " or ".join(name for name, backend in BACKENDS.items() if fits(backend))


def _unbatched(stage: StageModel, *, batch: int) -> StageModel:
    """The same stage, declared without Triton's batching: the batch is the first dimension; -1: of any size."""
    return replace(
        stage,
        max_batch=0,
        merges=False,
        preferred_batches=(),
        inputs=tuple(_with_batch(tensor, batch) for tensor in stage.inputs),
        outputs=tuple(_with_batch(tensor, batch) for tensor in stage.outputs),
        warmups=tuple(_one_image(warmup) for warmup in stage.warmups[:1]),
    )


def _with_batch(tensor: ModelTensor, batch: int) -> ModelTensor:
    return replace(tensor, dims=(batch, *tensor.dims))


def _one_image(warmup: Warmup) -> Warmup:
    return replace(warmup, inputs=tuple(replace(tensor, dims=(1, *tensor.dims)) for tensor in warmup.inputs))
