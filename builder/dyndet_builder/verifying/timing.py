"""Times stages and routes on a device, warm, and the memory that each stage adds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dynamicdet.aliases import Progress, UInt8Array
from dyndet_bench.measuring.machine import query_gpus
from dyndet_builder.verifying.record import Route, Timing
from dyndet_builder.verifying.stages import DeviceStages

ROUTES: tuple[Route, ...] = ("easy", "hard")
_WARM_UP = 3


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call that returns when its work is done, after some calls that do not count."""
    for _ in range(_WARM_UP):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1e6


def batch_of(images: Sequence[UInt8Array], size: int) -> UInt8Array:
    """A batch (B, H, W, 3) of the first images, repeated if there are fewer."""
    return np.stack([images[index % len(images)] for index in range(size)])


def sizes_of(stages: DeviceStages, batches: Sequence[int]) -> tuple[int, ...]:
    """The batch sizes that all stages take."""
    one = any(stages.bundle.stages[name].batch == "one" for name in stages.bundle.served)
    return (1,) if one else tuple(batches)


def stage_times(
    stages: DeviceStages, images: Sequence[UInt8Array], batches: Sequence[int], repeats: int, progress: Progress
) -> dict[str, Timing]:
    """Times of each stage alone."""
    found: dict[str, Timing] = {}
    for number, stage in enumerate(stages.bundle.served):
        ms = {}
        for size in batches:
            given = stages.inputs_of(stage, batch_of(images, size))
            ms[size] = median_ms(lambda stage=stage, given=given: stages.call(stage, given), repeats)  # type: ignore[misc]
        found[stage] = Timing(ms=ms)
        progress("time stages", number + 1, len(stages.bundle.served))
    return found


def route_times(
    stages: DeviceStages, images: Sequence[UInt8Array], batches: Sequence[int], repeats: int, *, copied: bool
) -> dict[Route, Timing]:
    """Times of both routes from an image on the CPU to detections on the CPU."""
    found: dict[Route, Timing] = {}
    for route in ROUTES:
        ms = {}
        for size in batches:
            batch = batch_of(images, size)

            def run(batch: UInt8Array = batch, hard: bool = route == "hard") -> None:
                first, last = stages.route(batch, hard=hard, copied=copied)
                stages.array(first["difficulty"])
                for name in ("num_detections", "boxes", "scores", "classes"):
                    stages.array(last[name])

            ms[size] = median_ms(run, repeats)
        found[route] = Timing(ms=ms)
    return found


def memory_mib(gpu: int | None) -> float:
    """Memory in use: of this process on the CPU, or of a GPU by everyone on it."""
    if gpu is None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 2**20
    used = query_gpus("name", "memory.used")[gpu][1]
    return float(used.split()[0])
