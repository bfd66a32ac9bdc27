"""Baselines for dyndet's serving: the ways that Triton's own examples suggest, over the same stage models.

| model | what it is |
| --- | --- |
| `<name>_textbook` | BLS as in the examples, see `textbook_model` |
| `<name>_static` | a Triton ensemble that always runs both detectors; of a pair: detector 2 alone |
| `<name>_detector1` | a Triton ensemble that runs only detector 1; of a pair: its stage model, which is there |
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from dynamicdet.errors import InputError

DETECTIONS = ("num_detections", "boxes", "scores", "classes")
TEXTBOOK, STATIC, DETECTOR1 = "textbook", "static", "detector1"
BASELINES = (TEXTBOOK, STATIC, DETECTOR1)


def write_baselines(stages: Mapping[str, pb.ModelConfig], output: Path, *, name: str = "dyndet") -> tuple[str, ...]:
    """Write the baselines of a detector with topology `bls` as a repository; returns the names of the models.

    `stages` are the configurations of the stage models. The baselines call these models, so both repositories must be
    served together. Raises InputError for a pair with a detector that takes one image at a time.
    """
    is_pair = "detector1" in stages
    if is_pair and not all(config.max_batch_size for config in stages.values()):
        raise InputError("the ways to serve are compared with batches, which a detector of this pair does not take")
    if is_pair:
        _write(output, _ensemble(f"{name}_{STATIC}", [stages["detector2"]]))
    for kind, last in () if is_pair else ((STATIC, "detector2"), (DETECTOR1, "head1")):
        _write(output, _ensemble(f"{name}_{kind}", [stages["backbone1"], stages[last]]))
    textbook = _textbook(f"{name}_{TEXTBOOK}", stages["detector1" if is_pair else "backbone1"], stages["detector2"])
    folder = _write(output, textbook)
    shutil.copyfile(Path(__file__).with_name("textbook_model.py"), folder / "model.py")
    (folder / "stages.json").write_text(
        json.dumps(
            {
                stage: {
                    "model": config.name,
                    "inputs": [tensor.name for tensor in config.input],
                    "outputs": [tensor.name for tensor in config.output],
                }
                for stage, config in stages.items()
            }
        )
    )
    return tuple(f"{name}_{kind}" for kind in BASELINES)


def _ensemble(name: str, models: Sequence[pb.ModelConfig]) -> pb.ModelConfig:
    first, last = models[0], models[-1]
    config = pb.ModelConfig(name=name, platform="ensemble", max_batch_size=first.max_batch_size)
    config.input.extend(first.input)
    config.output.extend(output for output in last.output if output.name in DETECTIONS)
    read = {tensor.name for tensor in last.input}
    for model in models:
        given = set(DETECTIONS) if model is last else read
        step = config.ensemble_scheduling.step.add(model_name=model.name, model_version=-1)
        for tensor in model.input:
            step.input_map[tensor.name] = tensor.name
        for tensor in model.output:
            if tensor.name in given:
                step.output_map[tensor.name] = tensor.name
    return config


def _textbook(name: str, first: pb.ModelConfig, last: pb.ModelConfig) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, backend="python", max_batch_size=first.max_batch_size)
    config.input.add(name="image", data_type=pb.TYPE_FP32, dims=list(first.input[0].dims))
    config.input.add(name="threshold", data_type=pb.TYPE_FP32, dims=[1])
    config.output.extend(output for output in last.output if output.name in DETECTIONS)
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    return config


def _write(output: Path, config: pb.ModelConfig) -> Path:
    folder: Path = output / str(config.name) / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(text_format.MessageToString(config))
    return folder
