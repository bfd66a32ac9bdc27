"""Decides every value of a repository's configurations; the templates only write them."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dynamicdet.errors import DyndetError
from dyndet_bench.measuring.counters import KIND_PARAMETER, PAIR, STAGES_PARAMETER
from dyndet_builder.bundle.manifest import DIFFICULTY, IMAGE, OWN, Bundle, StageName, Tensor
from dyndet_builder.bundle.parts import ROUTE, THRESHOLD
from dyndet_builder.operating_points import told_points, uncalibrated
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.config import (
    DATA_TYPES,
    FIT_PARAMETER,
    INPUT_SIZE_PARAMETER,
    OWN_IMAGE,
    POINTS_PARAMETER,
    TOPOLOGY_PARAMETER,
    Model,
    ModelTensor,
    PublicModel,
    StageModel,
    Warmup,
    WarmupTensor,
)
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.templates import fill

WARMUP_FILE, EASY_FILE = "image_uint8.raw", "threshold_easy.raw"
"""in a model's folder `warmup`: the pixels of an image; a threshold that every image meets"""
GRAPH_FILE = "model.onnx"


def public_model(bundle: Bundle, name: str, options: RenderOptions, bundle_sha256: str) -> PublicModel:
    """The configuration of the public detector."""
    if options.topology == "graph":
        return _graph_model(bundle, name, options, bundle_sha256)
    outputs = {tensor.name: tensor for tensor in bundle.stages[bundle.easy or bundle.first].outputs}
    fused = options.topology == "fused"
    stages = () if fused else tuple(_stage_model(bundle, stage, name, options) for stage in bundle.stages)
    return PublicModel(
        name=name,
        topology=options.topology,
        backend="python",
        max_batch=options.max_batch,
        inputs=(
            ModelTensor(name=IMAGE, data_type="TYPE_UINT8", dims=bundle.fit.shape, optional=OWN in bundle.stages),
            ModelTensor(name="threshold", data_type="TYPE_FP32", dims=(1,), optional=True),
            *_own_inputs(bundle),
        ),
        outputs=(
            *(ModelTensor.of(outputs[output]) for output in bundle.detection_outputs),
            ModelTensor(name=DIFFICULTY, data_type="TYPE_FP32", dims=(1,)),
            ModelTensor(name="route", data_type="TYPE_INT32", dims=(1,)),
            ModelTensor(name="operating_points", data_type="TYPE_STRING", dims=(1,)),
        ),
        kind=_kind(options) if fused else "KIND_CPU",
        instances=options.instances if fused else options.bls_instances,
        gpus=options.gpus if fused else (),
        merges=True,  # otherwise Triton does not drop waiting requests whose client has cancelled them
        preferred_batches=_preferred_batches(options) if fused else (1,),
        queue_delay_us=options.queue_delay_us if fused else 0,
        parameters={
            **_contract_parameters(bundle, options, bundle_sha256),
            **_stages_parameter(bundle, stages),
        },
        stages=stages,
    )


def _graph_model(bundle: Bundle, name: str, options: RenderOptions, bundle_sha256: str) -> PublicModel:
    """The configuration of a detector that is one graph.

    Its threshold is no optional input: Triton's onnxruntime backend refuses one beside batching.
    """
    backend = BACKENDS[options.backend]
    assert backend.graph is not None
    image = bundle.stages[bundle.first].inputs[0]
    merging = options.stages_merge
    return PublicModel(
        name=name,
        topology=options.topology,
        backend=backend.triton,
        max_batch=options.max_batch,
        inputs=(ModelTensor.of(image), ModelTensor(name=THRESHOLD, data_type="TYPE_FP32", dims=(1,))),
        outputs=(
            *(ModelTensor.of(tensor) for tensor in bundle.answers),
            ModelTensor(name=DIFFICULTY, data_type="TYPE_FP32", dims=(1,)),
            ModelTensor(name=ROUTE, data_type="TYPE_INT32", dims=(1,)),
        ),
        kind=_kind(options),
        instances=options.instances,
        gpus=options.gpus,
        merges=True,  # see `public_model`
        preferred_batches=options.preferred_batches if merging else (1,),
        queue_delay_us=options.queue_delay_us,
        warmups=() if options.warmup_image is None else _graph_warmups(image, options),
        parameters={
            **_contract_parameters(bundle, options, bundle_sha256),
            **({KIND_PARAMETER: PAIR} if bundle.kind == "pair" else {}),
            POINTS_PARAMETER: told_points(uncalibrated(options.threshold)),
            **backend.graph(options.threads, bool(options.gpus)),
        },
        stages=(),
        file="" if backend.triton == "python" else GRAPH_FILE,
    )


def _graph_warmups(image: Tensor, options: RenderOptions) -> tuple[Warmup, ...]:
    """Both routes: at a threshold of zero every image is hard, at that of the file, 1, easy."""
    return tuple(
        Warmup(
            name=f"{route}, {warmup.name}",
            batch=warmup.batch,
            inputs=(
                *warmup.inputs,
                WarmupTensor(name=THRESHOLD, data_type="TYPE_FP32", dims=(1,), file=EASY_FILE if easy else ""),
            ),
        )
        for route, easy in (("easy", True), ("hard", False))
        for warmup in _warmups((image,), options)
    )


def _contract_parameters(bundle: Bundle, options: RenderOptions, bundle_sha256: str) -> dict[str, str]:
    return {
        "dyndet_class_names": json.dumps(bundle.class_names),
        **_fit_parameter(bundle),
        "dyndet_version": importlib.metadata.version("dyndet"),
        "dyndet_bundle_sha256": bundle_sha256,
        TOPOLOGY_PARAMETER: options.topology,
    }


def _own_inputs(bundle: Bundle) -> tuple[ModelTensor, ...]:
    """Inputs of a pair whose detectors fit pictures by different rules: the picture of the first, and its result."""
    if OWN not in bundle.stages:
        return ()
    (image,) = bundle.stages[OWN].inputs
    return (
        ModelTensor(name=OWN_IMAGE, data_type=DATA_TYPES[image.dtype], dims=image.shape, optional=True),
        ModelTensor(name=DIFFICULTY, data_type="TYPE_FP32", dims=(1,), optional=True),
    )


def _fit_parameter(bundle: Bundle) -> dict[str, str]:
    """How clients fit images. Those that know our own rule alone refuse a detector with another one."""
    if bundle.fit.is_own:
        return {INPUT_SIZE_PARAMETER: str(bundle.input_size)}
    return {FIT_PARAMETER: bundle.fit.as_json()}


def _stages_parameter(bundle: Bundle, stages: tuple[StageModel, ...]) -> dict[str, str]:
    """The stage models of a pair; those of a dynamic detector are known without it, unless it was pushed."""
    if bundle.kind == "dynamic" or not stages:
        return {}
    return {STAGES_PARAMETER: json.dumps({stage.stage: stage.name for stage in stages})}


def _stage_model(bundle: Bundle, stage: StageName, detector: str, options: RenderOptions) -> StageModel:
    """The configuration of one stage."""
    described, backend = bundle.stages[stage], BACKENDS[options.backend]
    model = StageModel(
        name=f"{detector}_{stage}",
        backend=backend.triton,
        max_batch=options.max_batch,
        inputs=tuple(ModelTensor.of(tensor) for tensor in described.inputs),
        outputs=tuple(ModelTensor.of(tensor) for tensor in described.outputs),
        kind=_kind(options),
        instances=options.instances,
        gpus=options.gpus,
        merges=options.stages_merge,
        preferred_batches=options.preferred_batches,
        queue_delay_us=options.queue_delay_us,
        warmups=() if options.warmup_image is None else _warmups(described.inputs, options),
        parameters={"dyndet_stage": stage},
        stage=stage,
        detector=detector,
        precision=bundle.precision_of(stage),
        threads=options.threads,
        takes_one=described.batch == "one",
        graph_batches=_usual_batches(options) if options.cuda_graphs else (),
    )
    return backend.configured(model, accelerator=options.accelerator)


def config_text(template: Path, model: Model) -> str:
    """A configuration as text, checked by reading it back with Triton's own ModelConfig message."""
    text = fill(template, model=model)
    try:
        parsed = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise DyndetError(
            f"template {template} rendered for {model.name} is not a model configuration: {error}"
        ) from error
    if parsed.name != model.name or len(parsed.input) != len(model.inputs) or len(parsed.output) != len(model.outputs):
        raise DyndetError(f"template {template} lost values of {model.name}")
    return text


def _preferred_batches(options: RenderOptions) -> tuple[int, ...]:
    """Of a fused model. 1, unless it merges: requests then come one by one, at the cost of no batching at all."""
    return options.preferred_batches if options.stages_merge else (1,)


def _kind(options: RenderOptions) -> str:
    return "KIND_GPU" if options.gpus else "KIND_CPU"


def _warmups(inputs: tuple[Tensor, ...], options: RenderOptions) -> tuple[Warmup, ...]:
    tensors = tuple(
        WarmupTensor(
            name=tensor.name,
            data_type=DATA_TYPES[tensor.dtype],
            dims=tensor.shape,
            file=WARMUP_FILE if tensor.name == IMAGE else "",
        )
        for tensor in inputs
    )
    batches = _usual_batches(options)
    return tuple(Warmup(name=f"batch {batch}", batch=batch, inputs=tensors) for batch in batches)


def _usual_batches(options: RenderOptions) -> tuple[int, ...]:
    """The batch sizes of a stage that come often: one image, the preferred ones, a full batch."""
    return tuple(sorted({1, options.max_batch, *options.preferred_batches})) if options.stages_merge else (1,)
