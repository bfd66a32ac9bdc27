"""The options for building engines, and the shapes that a stage's engine takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from dynamicdet.errors import InputError
from dyndet_builder.bundle.manifest import Stage
from dyndet_builder.engines.record import HardwareCompatibility, Profile

HARDWARE_COMPATIBILITIES: tuple[HardwareCompatibility, ...] = get_args(HardwareCompatibility)
MOST_IN_BATCH = 1024
"""images; more are memory for their tensors, in each instance, that no GPU has"""
_CAPABILITY = re.compile(r"\d{1,2}\.\d")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How engines are built. Raises InputError for values that cannot work."""

    max_batch: int = 8
    """the most images that a stage takes; the served repository must not take more"""
    preferred_batches: tuple[int, ...] = ()
    """batch sizes that the stages wait for; engines are tuned for the largest, or for `max_batch`"""
    workspace_mib: int | None = None
    """memory that a layer may use while it computes; None: all of the GPU's memory"""
    optimization_level: int | None = None
    """0 (fast build) to 5 (fast engine); None: TensorRT's default"""
    hardware_compatibility: HardwareCompatibility = "none"
    """`ampere+`: runs on any GPU since Ampere; `same-compute-capability`; `none`: only on the model it was built on"""
    version_compatible: bool = False
    """also runs with later releases of the same major version"""
    compute_capabilities: tuple[str, ...] = ()
    """builds ahead of time for these GPUs, such as 8.6; only for TensorRT-RTX"""

    @property
    def opt_batch(self) -> int:
        """The batch size that engines are tuned for."""
        return max(self.preferred_batches, default=self.max_batch)

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch <= MOST_IN_BATCH:
            raise InputError(f"max_batch must be from 1 to {MOST_IN_BATCH}, not {self.max_batch}")
        for batch in self.preferred_batches:
            if not 1 <= batch <= self.max_batch:
                raise InputError(f"preferred batch {batch} must be from 1 to max_batch, which is {self.max_batch}")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise InputError(f"the workspace must be at least 1 MiB, not {self.workspace_mib}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise InputError(f"the optimization level must be from 0 to 5, not {self.optimization_level}")
        if self.hardware_compatibility not in HARDWARE_COMPATIBILITIES:
            accepted = ", ".join(HARDWARE_COMPATIBILITIES)
            raise InputError(
                f"unknown hardware compatibility {self.hardware_compatibility!r}; choose one of {accepted}"
            )
        for capability in self.compute_capabilities:
            if not _CAPABILITY.fullmatch(capability):
                raise InputError(f"compute capability {capability!r} must be written like 8.6")


def profile_of(stage: Stage, options: EngineOptions) -> dict[str, Profile]:
    """The shapes that a stage's engine takes: from one image to a full batch, if its graph takes more than one."""
    opt, most = (1, 1) if stage.batch == "one" else (options.opt_batch, options.max_batch)
    return {
        tensor.name: Profile(min=(1, *tensor.shape), opt=(opt, *tensor.shape), max=(most, *tensor.shape))
        for tensor in stage.inputs
    }
