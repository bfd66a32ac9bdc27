"""Builds one stage's engine with TensorRT's Python API: one way for TensorRT 10, 11 and TensorRT-RTX.

Differences are found by the names in the module, never by version number. TensorRT 10 needs a flag for a strongly typed
network; TensorRT 11 ignores the flag and will drop it one day. Only TensorRT-RTX builds ahead of time for named GPUs.
The flags for weak typing, which TensorRT 11 lacks, are not used.
"""

from __future__ import annotations

import functools
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicdet.errors import DyndetError, InputError
from dyndet_builder.bundle.manifest import Stage
from dyndet_builder.engines.options import EngineOptions, profile_of
from dyndet_builder.engines.precision import network_shares
from dyndet_templates.engines.layers import precision_shares

Report = Callable[[int, int], None]
"""Called with the finished steps of a build and their total; both grow."""

_TYPES = {"uint8": "UINT8", "int32": "INT32", "float16": "HALF", "float32": "FLOAT"}
_LEVELS = {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine and what is known about it."""

    plan: bytes
    seconds: float
    shares: dict[str, float]
    """of `half` and `int8` among the layers with weights"""
    inspected: bool
    """whether the shares come from the engine's inspector; otherwise from the typed network"""
    timing_cache: bytes


def build_stage(
    trt: Any,
    graph: Path,
    stage: Stage,
    options: EngineOptions,
    *,
    timing_cache: bytes = b"",
    inspect: bool,
    report: Report = lambda _done, _of: None,
) -> Built:
    """Build an engine with the module `trt`. `inspect`: whether this machine can load it to look inside.

    Raises InputError for options that this TensorRT does not have, DyndetError with TensorRT's own message if it does
    not accept the graph.
    """
    log = _log(trt)
    log.lines.clear()
    _register_plugins(trt, log)
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse(graph.read_bytes())
    errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
    if not parsed or errors:
        raise DyndetError(f"TensorRT's parser does not accept {graph.name}: {'; '.join(errors or log.lines[:3])}")
    _check_contract(network, stage, graph.name)
    config = builder.create_builder_config()
    config.progress_monitor = _monitor(trt, report)
    _configure(trt, builder, config, stage, options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT-RTX keeps the timing cache as a no-op
        config.set_timing_cache(config.create_timing_cache(timing_cache), False)
        started = time.monotonic()
        plan = builder.build_serialized_network(network, config)
        seconds = time.monotonic() - started
        if plan is None:
            raise DyndetError(f"TensorRT cannot build {graph.name}: {'; '.join(log.lines[:3]) or 'no reason given'}")
        cache = config.get_timing_cache()
        kept = b"" if cache is None else bytes(memoryview(cache.serialize()))
    content = bytes(memoryview(plan))
    seen = precision_shares(_inspected(trt, log, content)) if inspect else None
    return Built(
        plan=content,
        seconds=seconds,
        shares=network_shares(network) if seen is None else seen,
        inspected=seen is not None,
        timing_cache=kept,
    )


def _register_plugins(trt: Any, log: Any) -> None:
    """Make TensorRT's own plugins known to the parser, which needs one for RoiAlign; TensorRT-RTX has none."""
    initialise = getattr(trt, "init_libnvinfer_plugins", None)
    if initialise is not None and not initialise(log, ""):
        raise DyndetError(f"TensorRT cannot load its plugins: {'; '.join(log.lines[:3]) or 'no reason given'}")


def _network_flags(trt: Any) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(trt: Any, builder: Any, config: Any, stage: Stage, options: EngineOptions) -> None:
    if stage.batch == "dynamic":
        profile = builder.create_optimization_profile()
        for name, shapes in profile_of(stage, options).items():
            profile.set_shape(name, shapes.min, shapes.opt, shapes.max)
        config.add_optimization_profile(profile)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # without it, the inspector shows only layer names
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility != "none":
        level = _LEVELS[options.hardware_compatibility]
        config.hardware_compatibility_level = _member(trt.HardwareCompatibilityLevel, level, "hardware compatibility")
    _set_targets(trt, config, options.compute_capabilities)


def _set_targets(trt: Any, config: Any, capabilities: tuple[str, ...]) -> None:
    """Name the GPUs to build for, if this TensorRT builds ahead of time."""
    if not capabilities:
        return
    kinds = getattr(trt, "ComputeCapability", None)
    if kinds is None or not hasattr(config, "set_compute_capability"):
        raise InputError("this TensorRT builds only for the GPU of its own machine; leave out the compute capabilities")
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        kind = _member(kinds, f"SM{capability.replace('.', '')}", "compute capability")
        config.set_compute_capability(kind, index)


def _member(kinds: Any, name: str, what: str) -> Any:
    found = getattr(kinds, name, None)
    if found is None:
        accepted = ", ".join(kinds.__members__)
        raise InputError(f"this TensorRT has no {what} {name}; it has {accepted}")
    return found


def _check_contract(network: Any, stage: Stage, name: str) -> None:
    """Compare the parsed network with the contract: the parser reports success even if it understood nothing."""
    found_in = [_described(network.get_input(index)) for index in range(network.num_inputs)]
    found_out = [_described(network.get_output(index)) for index in range(network.num_outputs)]
    for found, expected in ((found_in, stage.inputs), (found_out, stage.outputs)):
        batch = 1 if stage.batch == "one" else -1
        wanted = [(tensor.name, _TYPES[tensor.dtype], (batch, *tensor.shape)) for tensor in expected]
        if found != wanted:
            raise DyndetError(f"TensorRT's parser read the tensors of {name} as {found}, but they are {wanted}")


def _described(tensor: Any) -> tuple[str, str, tuple[int, ...]]:
    return tensor.name, tensor.dtype.name, tuple(tensor.shape)


def _inspected(trt: Any, log: Any, plan: bytes) -> Any:
    """The layer information of an engine, as plain data."""
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        raise DyndetError(f"TensorRT cannot load the engine that it built: {'; '.join(log.lines[:3])}")
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return json.loads(text)


@functools.cache
def _log(trt: Any) -> Any:
    """One log for the whole process, because TensorRT keeps the first log that it gets."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.lines.append(message)

    return Log()


def _monitor(trt: Any, report: Report) -> Any:
    """TensorRT's own progress: phases have steps and other phases."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.done, self.total = 0, 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.total += num_steps
            report(self.done, self.total)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.done += 1
            report(self.done, max(self.done, self.total))
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()
