"""Decides every line of a repository's configurations; the templates only write them down."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass, field

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dynamicdet.errors import DyndetError, InputError
from dyndet_builder.bundle.manifest import Bundle, StageName, Tensor
from dyndet_builder.repository.backends import accelerator_parameters, openvino_parameters, unbatched
from dyndet_builder.repository.options import RenderOptions, Topology
from dyndet_builder.templates import TEMPLATES, fill

DETECTION_OUTPUTS = ("num_detections", "boxes", "scores", "classes")

_IMAGE, _DIFFICULTY = "image", "difficulty"
_WARMUP_FILE = "image_uint8.raw"
_DATA_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float16": "TYPE_FP16", "float32": "TYPE_FP32"}


@dataclass(frozen=True, kw_only=True)
class ModelTensor:
    """An input or output in a configuration. `dims` leaves the batch out."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class WarmupTensor:
    """An input of a warm-up request: the bytes of a file in the model's folder `warmup`, or zeros."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """A request that Triton sends while it loads a model."""

    name: str
    batch: int
    inputs: tuple[WarmupTensor, ...]


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a configuration says, as values."""

    name: str
    backend: str
    max_batch: int
    inputs: tuple[ModelTensor, ...]
    outputs: tuple[ModelTensor, ...]
    kind: str
    instances: int
    gpus: tuple[int, ...]
    merges: bool
    preferred_batches: tuple[int, ...]
    queue_delay_us: int
    warmups: tuple[Warmup, ...] = ()
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """What ONNX Runtime runs a graph with, and its settings."""

    name: str
    parameters: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class StageModel(Model):
    """A stage."""

    stage: StageName
    detector: str
    template: str
    precision: str
    accelerator: Accelerator | None


@dataclass(frozen=True, kw_only=True)
class PublicModel(Model):
    """The public detector."""

    topology: Topology
    stages: tuple[StageModel, ...]
    """the stage models that it calls; none where it is fused"""

    @property
    def described(self) -> str:
        """What it does, for the comment at the head of its configuration."""
        if self.topology == "fused":
            return "routes each image through the stages' graphs, in one process"
        return f"routes each image through the stages {', '.join(stage.name for stage in self.stages)}"


def _stage_model(bundle: Bundle, stage: StageName, detector: str, options: RenderOptions) -> StageModel:
    """The configuration of one stage."""
    described = bundle.stages[stage]
    parameters: dict[str, str] = {"dyndet_stage": stage}
    if options.backend == "python":
        parameters["dyndet_threads"] = str(options.threads)
    elif options.backend == "onnxruntime" and not options.gpus:
        parameters["intra_op_thread_count"] = str(options.threads)
        parameters["inter_op_thread_count"] = "1"
    elif options.backend == "openvino":
        parameters |= openvino_parameters(options)
    model = StageModel(
        name=f"{detector}_{stage}",
        backend=options.backend,
        max_batch=options.max_batch,
        inputs=tuple(_tensor(tensor) for tensor in described.inputs),
        outputs=tuple(_tensor(tensor) for tensor in described.outputs),
        kind=_kind(options),
        instances=options.instances,
        gpus=options.gpus,
        merges=options.stages_merge,
        preferred_batches=options.preferred_batches,
        queue_delay_us=options.queue_delay_us,
        warmups=() if options.warmup_image is None else _warmups(described.inputs, options),
        parameters=parameters,
        stage=stage,
        detector=detector,
        template=options.backend,
        precision=bundle.precision,
        accelerator=None
        if options.accelerator is None
        else Accelerator(name=options.accelerator, parameters=accelerator_parameters(bundle.precision, options)),
    )
    return unbatched(model) if options.backend == "openvino" else model


def public_model(bundle: Bundle, name: str, options: RenderOptions, bundle_sha256: str) -> PublicModel:
    """The configuration of the public detector.

    Raises InputError where the bundle's stages cannot be wired: a stage reads what backbone1 does not give, or an
    output that the public contract has is missing.
    """
    _check_wiring(bundle)
    side = bundle.input_size
    outputs = {tensor.name: tensor for tensor in bundle.stages["head1"].outputs}
    fused = options.topology == "fused"
    return PublicModel(
        name=name,
        topology=options.topology,
        backend="python",
        max_batch=options.max_batch,
        inputs=(
            ModelTensor(name=_IMAGE, data_type="TYPE_UINT8", dims=(side, side, 3)),
            ModelTensor(name="threshold", data_type="TYPE_FP32", dims=(1,), optional=True),
        ),
        outputs=(
            *(_tensor(outputs[output]) for output in DETECTION_OUTPUTS),
            ModelTensor(name=_DIFFICULTY, data_type="TYPE_FP32", dims=(1,)),
            ModelTensor(name="route", data_type="TYPE_INT32", dims=(1,)),
        ),
        kind=_kind(options) if fused else "KIND_CPU",
        instances=options.instances if fused else options.bls_instances,
        gpus=options.gpus if fused else (),
        merges=options.stages_merge if fused else True,
        preferred_batches=options.preferred_batches if fused else (),
        queue_delay_us=options.queue_delay_us if fused else 0,
        parameters={
            "dyndet_class_names": json.dumps(bundle.class_names),
            "dyndet_input_size": str(side),
            "dyndet_version": importlib.metadata.version("dyndet"),
            "dyndet_bundle_sha256": bundle_sha256,
            "dyndet_topology": options.topology,
        },
        stages=() if fused else tuple(_stage_model(bundle, stage, name, options) for stage in bundle.stages),
    )


def render_text(template: str, model: Model) -> str:
    """A template with a model's values filled in."""
    return fill(TEMPLATES / template, model=model)


def config_text(template: str, model: Model) -> str:
    """A configuration as text, proven to be one: Triton's own ModelConfig message reads it back."""
    text = render_text(template, model)
    try:
        parsed = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise DyndetError(
            f"template {template} rendered for {model.name} is no model configuration: {error}"
        ) from error
    if parsed.name != model.name or len(parsed.input) != len(model.inputs) or len(parsed.output) != len(model.outputs):
        raise DyndetError(f"template {template} lost values of {model.name}")
    return text


def _check_wiring(bundle: Bundle) -> None:
    given = {tensor.name: tensor for tensor in bundle.stages["backbone1"].outputs}
    given[_IMAGE] = Tensor(name=_IMAGE, dtype="uint8", shape=(bundle.input_size, bundle.input_size, 3))
    if _DIFFICULTY not in given:
        raise InputError(f"stage backbone1 of bundle {bundle.name!r} has no output {_DIFFICULTY!r}")
    if bundle.stages["backbone1"].inputs != (given[_IMAGE],):
        raise InputError(f"stage backbone1 of bundle {bundle.name!r} must read the image alone")
    consumers: tuple[StageName, ...] = ("head1", "detector2")
    for stage in consumers:
        for tensor in bundle.stages[stage].inputs:
            if tensor != given.get(tensor.name):
                found = f"{tensor.name} {tensor.dtype} {list(tensor.shape)}"
                raise InputError(
                    f"stage {stage} of bundle {bundle.name!r} reads {found}, which backbone1 does not give"
                )
        lacking = set(DETECTION_OUTPUTS) - {tensor.name for tensor in bundle.stages[stage].outputs}
        if lacking:
            raise InputError(f"stage {stage} of bundle {bundle.name!r} lacks the output {min(lacking)!r}")


def _kind(options: RenderOptions) -> str:
    return "KIND_GPU" if options.gpus else "KIND_CPU"


def _tensor(tensor: Tensor) -> ModelTensor:
    return ModelTensor(name=tensor.name, data_type=_DATA_TYPES[tensor.dtype], dims=tensor.shape)


def _warmups(inputs: tuple[Tensor, ...], options: RenderOptions) -> tuple[Warmup, ...]:
    tensors = tuple(
        WarmupTensor(
            name=tensor.name,
            data_type=_DATA_TYPES[tensor.dtype],
            dims=tensor.shape,
            file=_WARMUP_FILE if tensor.name == _IMAGE else "",
        )
        for tensor in inputs
    )
    batches = sorted({1, options.max_batch, *options.preferred_batches} if options.stages_merge else {1})
    return tuple(Warmup(name=f"batch {batch}", batch=batch, inputs=tensors) for batch in batches)
