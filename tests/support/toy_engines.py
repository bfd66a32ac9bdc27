"""A folder of engines with stand-ins for the plans, which nothing here can run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from dyndet_builder.bundle.manifest import Bundle
from dyndet_builder.engines.create import EngineOptions
from dyndet_builder.engines.options import profile_of
from dyndet_builder.engines.record import FILE_NAME, Engine, Engines, Gpu

A10 = Gpu(name="NVIDIA A10", compute_capability="8.6")


def write_toy_engines(folder: Path, bundle: Bundle, **changed: Any) -> Path:
    """A folder as `dyndet engines` leaves it on a machine with an A10; nothing here runs the plans."""
    options = EngineOptions()
    folder.mkdir(parents=True)
    stages = {}
    for stage in bundle.stages:
        plan = f"plan of {stage}".encode()
        (folder / f"{stage}.plan").write_bytes(plan)
        stages[stage] = Engine(
            file=f"{stage}.plan",
            sha256=hashlib.sha256(plan).hexdigest(),
            graph_sha256=bundle.stages[stage].sha256,
            size_bytes=len(plan),
            build_seconds=1,
            profile=profile_of(bundle.stages[stage], options),
            half_share=0,
            int8_share=0,
            evidence="engine inspector",
        )
    known: dict[str, Any] = {"tensorrt_version": "10.5.0.18", "gpu": A10, "max_batch": 8, "opt_batch": 8, **changed}
    whole = Engines(bundle=bundle.name, precision=bundle.precision, builder="tensorrt", stages=stages, **known)
    (folder / FILE_NAME).write_text(whole.model_dump_json())
    return folder
