"""What can be chosen when a bundle is rendered."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.errors import InputError
from dynamicdet.picture_files import MAX_FILE_BYTES
from dynamicdet.records import LONGEST_NAME, NAME
from dynamicdet.text import printable
from dyndet_builder.engines.options import MOST_IN_BATCH as MOST_IN_BATCH
from dyndet_builder.repository.backends import BACKENDS, accelerators, names_of
from dyndet_builder.repository.config import TOPOLOGIES, Topology

_INT32_MAX = 2**31 - 1  # what Triton's configurations hold
MOST_INSTANCES = 1000
"""of each stage and of the public model: each is a process, or a copy of the graphs, and has memory of its own"""
MOST_THREADS = 1024
"""of one instance, as the largest machines have cores"""
LONGEST_QUEUE_DELAY_US = 60_000_000
"""one minute"""
MOST_WAITING = 1_000_000
"""longest queue of an instance, requests"""
_NAME = re.compile(NAME)
GRAPH_BACKEND = "onnxruntime"
"""what the topology `graph` is for; `python` runs the same file in Triton's Python backend, also the embedded one"""
GIVEN_UP = (
    "no fallback to detector 1 when detector 2 fails",
    "no metrics `dyndet_*`, so no alerts and dashboards of `dyndet deploy`",
    "no operating points on the server: a request must bring its threshold (dyndet's client looks it up), and a new "
    "calibration is in force once the model is loaded again",
    "no queue that knows deadlines, priorities or tenants, and no threshold that follows the load",
)
"""what the topology `graph` does without, one phrase each"""


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """How a repository serves. Raises InputError for values that Triton refuses or that cannot work."""

    name: str | None = None
    """name of the public model; None: the bundle's"""
    backend: str = "python"
    """what runs the stages, a name of `BACKENDS`: `python` (ONNX Runtime, on any Triton), `onnxruntime`, `tensorrt`,
    `openvino` (CPU)"""
    accelerator: str | None = None
    """what runs the stages of the backend `onnxruntime` on a GPU; None: ONNX Runtime's default, CUDA"""
    engines: Path | None = None
    """folder that `dyndet engines` wrote, for the backend `tensorrt`; None: plans are put in place by hand"""
    topology: Topology = "bls"
    """`bls`: the public model calls stage models; `fused`: it holds their graphs in its own process; `graph`: it is one
    graph that routes itself, see `GIVEN_UP`"""
    instances: int = 1
    """instances of each stage (`fused`: of the public model), on each GPU if GPUs are given"""
    bls_instances: int = 2
    """instances of the public model if it calls stage models; each handles one call at a time"""
    threads: int = 0
    """threads of one instance's graph on the CPU; 0: as many as the process may use cores"""
    gpus: tuple[int, ...] = ()
    """ids of the GPUs that run the stages; empty: the CPU runs them"""
    max_batch: int = 8
    """most images in one run of a model"""
    preferred_batches: tuple[int, ...] = ()
    """batch sizes that the stages' dynamic batching waits for; empty: see `stages_merge`"""
    queue_delay_us: int = 0
    """how long a stage waits for a preferred batch, microseconds"""
    cuda_graphs: bool = False
    """whether the stages run as CUDA graphs, captured for one image, each preferred batch and a full one; TensorRT"""
    warmup_image: Path | None = None
    """an image, or a folder of images, that warms up the stages as they load; None: no warm-up"""
    latency_buckets_ms: tuple[float, ...] = (
        1,
        2,
        3,
        4,
        5,
        6,
        8,
        10,
        12,
        15,
        20,
        25,
        30,
        40,
        50,
        75,
        100,
        150,
        250,
        500,
    )
    """upper bounds of the latency histogram's buckets, milliseconds"""
    threshold: float = 0.5
    """threshold of the repository until it is calibrated"""
    follow_load: bool | None = None
    """whether thresholds with a latency promise follow the load; None: they do once a calibration has given the
    promise"""
    queue_size: int = 1024
    """most requests that wait in an instance of the public model; more are refused at once"""
    encoded: bool = False
    """whether to render a second public model, `<name>_encoded`, that takes image files and gives boxes in their
    pixels"""
    max_file_mb: int = 64
    """largest image file that this second model accepts, MB of 2**20 bytes"""

    @property
    def stages_merge(self) -> bool:
        """Whether a stage runs its waiting requests as one batch.

        It does so on a GPU, or if preferred batches or a delay are set. On a CPU, a batch of 4 or 8 was measured to be
        10 to 30 % slower than its images one after another, and the first image would wait for the last.
        """
        return bool(self.gpus or self.preferred_batches or self.queue_delay_us)

    @property
    def workers(self) -> int:
        """Requests that an instance of the public model works on at a time; others wait in its queue.

        A fused detector has its graphs once. With `bls`, six in all fill the stages of one instance: 8 clients got 3 to
        25 % less with 2 to 4. More would wait for the stages instead, where nobody knows how long.
        """
        if self.topology != "bls":
            return 1
        if self.stages_merge:
            return self.max_batch
        return -(-6 * self.instances // self.bls_instances)

    def __post_init__(self) -> None:
        if self.name is not None:
            _check_name(self.name)
        if self.backend not in BACKENDS:
            raise InputError(f"backend {self.backend!r} is not known; choose one of {', '.join(BACKENDS)}")
        if self.topology not in TOPOLOGIES:
            raise InputError(f"topology {self.topology!r} is not known; choose one of {', '.join(TOPOLOGIES)}")
        if self.topology == "fused" and not BACKENDS[self.backend].fused:
            raise InputError(
                f"the fused topology runs its stages with ONNX Runtime inside the python backend, not with "
                f"{self.backend}; choose the topology bls, or the backend {names_of(lambda one: one.fused)}"
            )
        if self.topology == "graph":
            self._check_graph()
        for field, least, most in (
            ("instances", 1, MOST_INSTANCES),
            ("bls_instances", 1, MOST_INSTANCES),
            ("threads", 0, MOST_THREADS),
            ("max_batch", 1, MOST_IN_BATCH),
            ("queue_delay_us", 0, LONGEST_QUEUE_DELAY_US),
            ("queue_size", 1, MOST_WAITING),
        ):
            _check_integer(field, getattr(self, field), least, most)
        if self.follow_load is not None and not isinstance(self.follow_load, bool):
            raise InputError(f"follow_load must be true, false or none, not {self.follow_load!r}")
        _check_integer("max_file_mb", self.max_file_mb, 1, MAX_FILE_BYTES >> 20)
        for batch in self.preferred_batches:
            _check_integer("a preferred batch", batch, 1, self.max_batch)
        for gpu in self.gpus:
            _check_integer("a GPU's id", gpu, 0, _INT32_MAX)
        if len(set(self.gpus)) != len(self.gpus):
            raise InputError(f"GPU ids must be different, not {', '.join(map(str, self.gpus))}")
        for field in ("encoded", "cuda_graphs"):
            if not isinstance(getattr(self, field), bool):
                raise InputError(f"{field} must be true or false, not {getattr(self, field)!r}")
        self._check_backend()
        buckets = self.latency_buckets_ms
        if not buckets or any(not (math.isfinite(bound) and bound > 0) for bound in buckets):
            raise InputError("latency buckets must be finite upper bounds above 0 ms")
        if any(low >= high for low, high in itertools.pairwise(buckets)):
            raise InputError("latency buckets must ascend")
        if not (math.isfinite(self.threshold) and 0 <= self.threshold <= 1):
            raise InputError(f"threshold must be a finite number from 0 to 1, not {self.threshold}")

    def _check_graph(self) -> None:
        if BACKENDS[self.backend].graph is None:
            raise InputError(
                f"the topology graph is one ONNX file with branches, which the backend {self.backend} does not run; "
                f"choose the backend {names_of(lambda one: one.graph is not None)}"
            )
        if self.encoded:
            raise InputError(
                "the model that takes image files is code that calls a detector with its own queue; choose the "
                "topology bls or fused for it"
            )
        if self.follow_load:
            raise InputError("the topology graph has no queue to follow, so its thresholds are fixed; leave that out")
        if self.accelerator is not None:
            raise InputError("the topology graph runs with the default of its backend; leave out the accelerator")

    def _check_backend(self) -> None:
        backend = BACKENDS[self.backend]
        if not self.gpus and "cpu" not in backend.devices:
            raise InputError(f"the {self.backend} backend needs a GPU; name at least one, such as --gpu 0")
        if self.gpus and "gpu" not in backend.devices:
            raise InputError(f"the {self.backend} backend runs only on CPUs; leave out the GPUs")
        if (name := self.accelerator) is not None:
            if name not in accelerators():
                raise InputError(f"accelerator {name!r} is not known; choose one of {', '.join(accelerators())}")
            if name not in backend.accelerators or not self.gpus:
                raise InputError(
                    f"the accelerator {name} belongs to the backend {names_of(lambda one: name in one.accelerators)} "
                    "on a GPU; choose that backend and name a GPU, such as --gpu 0"
                )
        if self.engines is not None and not backend.needs_plan:
            raise InputError(
                f"only the backend {names_of(lambda one: one.needs_plan)} runs engines, not the backend {self.backend}"
            )
        if self.cuda_graphs and not backend.cuda_graphs:
            raise InputError(
                f"only the backend {names_of(lambda one: one.cuda_graphs)} captures CUDA graphs, not the backend "
                f"{self.backend}"
            )


def _check_name(name: str) -> None:
    shown = printable(name, limit=60)
    if not _NAME.fullmatch(name):
        raise InputError(f"model name {shown!r} must consist of letters, digits, '_', '-' and '.'")
    if len(name) > LONGEST_NAME:
        raise InputError(f"model name {shown!r} has {len(name)} characters; at most {LONGEST_NAME} fit")


def _check_integer(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name} must be a whole number from {least} to {most}, not {value!r}")
