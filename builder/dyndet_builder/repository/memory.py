"""Server flags that models need: sizes of shared memory and of CUDA's pool, and whether graphs share their threads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2 as pb

from dyndet_builder.bundle.manifest import ALL_STAGES
from dyndet_builder.repository.config import DETECTOR_PARAMETER, TOPOLOGY_PARAMETER

_MIB = 1 << 20
_PYTHON_DEFAULT, _CUDA_DEFAULT, _PINNED_DEFAULT = _MIB, 64 * _MIB, 256 * _MIB  # Triton's own
# By default, Triton keeps the messages of 8 gRPC requests to use them again: after large ones, gigabytes for good.
_FREE_REQUESTS = "--grpc-infer-allocation-pool-size=0"
_UNKNOWN_SHARED_MEMORY = 1024 * _MIB
_ITEM_BYTES = {pb.TYPE_UINT8: 1, pb.TYPE_FP16: 2, pb.TYPE_FP32: 4, pb.TYPE_INT32: 4}
_STRING_BYTES = 1 << 20  # an image file
_ONNXRUNTIME = "onnxruntime"
_THREADS = "intra_op_thread_count"
_SHARED_POOL = "--backend-config=onnxruntime,enable-global-threadpool=1"
_WAITING_BYTES = 64 * _MIB  # of requests in the queue of a public model; its code has the same number


@dataclass(frozen=True, kw_only=True)
class MemoryNeeds:
    """Sizes in bytes, none below Triton's default."""

    python_region: int
    """initial shared memory of each instance of a Python model, large enough not to grow under load"""
    shared_memory: int
    """all of /dev/shm, for a container"""
    cuda_pool: int
    """on each GPU, for the tensors that stages pass on; 0 without a GPU"""
    pinned_pool: int

    def arguments(self, gpus: Iterable[int] = ()) -> list[str]:
        """The flags of the server, except those that would set Triton's default."""
        found = [_FREE_REQUESTS]
        if self.python_region > _PYTHON_DEFAULT:
            found.append(f"--backend-config=python,shm-default-byte-size={self.python_region}")
        if self.cuda_pool > _CUDA_DEFAULT:
            found += [f"--cuda-memory-pool-byte-size={gpu}:{self.cuda_pool}" for gpu in gpus]
        if self.pinned_pool > _PINNED_DEFAULT:
            found.append(f"--pinned-memory-pool-byte-size={self.pinned_pool}")
        return found


def memory_needs(configs: Sequence[pb.ModelConfig]) -> MemoryNeeds:
    """What the models of a repository need with full batches on all instances, including models of others.

    A Python instance holds the tensors of one full batch. A public model that calls stages (`bls`) or a detector
    (`<name>_encoded`) also holds the tensors that it exchanges with them. Under load, every public model holds what
    waits in its queue. On a GPU, each instance can write one batch while another is read. An empty repository gets room
    for a few models.
    """
    regions, waiting, cuda, pinned = [], 0, 0, 0
    for config in configs:
        instances = sum(max(1, group.count) * max(1, len(group.gpus)) for group in config.instance_group) or 1
        per_batch = max(1, config.max_batch_size) * _bytes((*config.input, *config.output))
        if config.backend == "python":
            passed = max(1, config.max_batch_size) * _passed(config, configs)
            regions.append((instances, _round_up(per_batch + passed)))
        if TOPOLOGY_PARAMETER in config.parameters or DETECTOR_PARAMETER in config.parameters:
            waiting += instances * _WAITING_BYTES
        if any(group.kind == pb.ModelInstanceGroup.KIND_GPU for group in config.instance_group):
            per_gpu = max(max(1, group.count) for group in config.instance_group)
            cuda += 2 * per_gpu * per_batch
            pinned += 2 * instances * max(1, config.max_batch_size) * _bytes(config.input)
    region = max((size for _, size in regions), default=_PYTHON_DEFAULT)
    used = sum(count for count, _ in regions) * max(region, _PYTHON_DEFAULT)
    return MemoryNeeds(
        python_region=max(region, _PYTHON_DEFAULT),
        shared_memory=max(_round_up(2 * used) + waiting, 64 * _MIB) if configs else _UNKNOWN_SHARED_MEMORY,
        cuda_pool=max(_round_up(cuda), _CUDA_DEFAULT) if cuda else 0,
        pinned_pool=max(_round_up(pinned), _PINNED_DEFAULT),
    )


def pool_arguments(configs: Iterable[pb.ModelConfig]) -> tuple[str, ...]:
    """The flag with which all graphs of Triton's onnxruntime backend share one pool of threads, if that is faster.

    It is for one instance of each graph with all cores. A request runs one graph after the other. With a pool per
    graph, the threads of one spin for a while after its turn, and so take the cores from the next; with the flag, a
    request took 0.70 to 0.75 x the time (2 cores, one in flight). It overrides every graph's own number of threads, so
    it is left out if a model has one, several instances, or a GPU. ONNX Runtime chooses the size of the pool.
    """
    graphs = [config for config in configs if _ONNXRUNTIME in (config.backend, config.platform.partition("_")[0])]
    return (_SHARED_POOL,) if graphs and all(map(_has_all_cores, graphs)) else ()


def _has_all_cores(config: pb.ModelConfig) -> bool:
    """Whether one instance on the CPU has as many threads as ONNX Runtime chooses."""
    threads = config.parameters[_THREADS].string_value if _THREADS in config.parameters else ""
    groups = [(group.kind, max(1, group.count)) for group in config.instance_group]
    return threads in ("", "0") and groups == [(pb.ModelInstanceGroup.KIND_CPU, 1)]


def _passed(config: pb.ModelConfig, configs: Iterable[pb.ModelConfig]) -> int:
    """Bytes per image that a model exchanges with the models that it calls."""
    if DETECTOR_PARAMETER in config.parameters:
        asks = config.parameters[DETECTOR_PARAMETER].string_value
        return sum(_bytes((*other.input, *other.output)) for other in configs if other.name == asks)
    stages = {f"{config.name}_{stage}" for stage in ALL_STAGES}
    return sum(_bytes(other.output) for other in configs if other.name in stages)


def _bytes(tensors: Iterable[pb.ModelInput | pb.ModelOutput]) -> int:
    """Bytes per image. A dimension without a fixed size counts as 1."""
    total = 0
    for tensor in tensors:
        if tensor.data_type == pb.TYPE_STRING:  # an output of this kind, the operating points, is small and rare
            total += _STRING_BYTES if isinstance(tensor, pb.ModelInput) else 0
        else:
            total += _ITEM_BYTES.get(tensor.data_type, 8) * math.prod(max(1, int(side)) for side in tensor.dims)
    return total


def _round_up(size: int) -> int:
    return -(-size // _MIB) * _MIB
