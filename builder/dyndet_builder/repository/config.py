"""The configuration of a model as values: `models` and `backends` decide them, templates write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from dyndet_builder.bundle.manifest import DETECTION_OUTPUTS as DETECTION_OUTPUTS
from dyndet_builder.bundle.manifest import Precision, StageName, Tensor

Topology = Literal["bls", "fused", "graph"]
TOPOLOGIES: tuple[Topology, ...] = get_args(Topology)
MEASURED_TOPOLOGIES: tuple[Topology, ...] = ("bls", "fused")
"""those with one contract, so that the faster one can be taken"""

DETECTOR_PARAMETER = "dyndet_detector"
"""parameter of a model that takes image files: the detector that it calls"""
TOPOLOGY_PARAMETER = "dyndet_topology"
"""parameter of a public model: its topology"""
POINTS_PARAMETER = "dyndet_operating_points"
"""parameter of a public model that is one graph: its operating points as JSON, which clients resolve"""
INPUT_SIZE_PARAMETER, FIT_PARAMETER = "dyndet_input_size", "dyndet_fit"
"""parameters of a public model, of which it has one: the side of its input, fitted by our own rule; another rule"""
OWN_FIT_PARAMETER = "dyndet_own_fit"
"""parameter of a model that takes image files: the rule of detector 1, if that has its own"""
OWN_IMAGE = "own_image"
"""input of a public model: the picture of detector 1, if that has its own rule"""

BOXES_FILE, MASKS_FILE = "boxes.onnx", "masks.onnx"
"""of a stage that gives masks, beside `model.onnx`, which has both; see `mask_head`. A fused detector has them for each
stage, as `head1_boxes.onnx`"""

DATA_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float16": "TYPE_FP16", "float32": "TYPE_FP32"}
"""Triton's names of a bundle's types"""


@dataclass(frozen=True, kw_only=True)
class ModelTensor:
    """An input or output in a configuration. `dims` leaves the batch out."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False

    @classmethod
    def of(cls, tensor: Tensor) -> ModelTensor:
        """A bundle's tensor."""
        return cls(name=tensor.name, data_type=DATA_TYPES[tensor.dtype], dims=tensor.shape)


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
    """The configuration of a model, as values."""

    name: str
    backend: str
    """Triton's name for it"""
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
    """What ONNX Runtime uses to run a graph, and its settings."""

    name: str
    parameters: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class StageModel(Model):
    """A stage."""

    stage: StageName
    detector: str
    precision: Precision
    threads: int
    """of one instance on the CPU; 0: as many as the process may use cores"""
    accelerator: Accelerator | None = None
    takes_one: bool = False
    """whether its graph takes one image at a time"""
    graph_batches: tuple[int, ...] = ()
    """batch sizes at which it is captured as a CUDA graph; 0: the only one, of a model without Triton's batching"""


@dataclass(frozen=True, kw_only=True)
class PublicModel(Model):
    """The public detector."""

    topology: Topology
    stages: tuple[StageModel, ...]
    """the stage models that it calls; empty if it has their graphs itself"""
    file: str = ""
    """what the backend loads, if not its default"""

    @property
    def described(self) -> str:
        """What it does, for the comment at the head of its configuration."""
        if self.topology == "graph":
            return "is one graph, which routes each image itself"
        if self.topology == "fused":
            return "routes each image through the stages' graphs, in one process"
        return f"routes each image through the stages {', '.join(stage.name for stage in self.stages)}"
