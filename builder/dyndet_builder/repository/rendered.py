"""Reads of a rendered repository what its deployment depends on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dynamicdet.errors import InputError
from dyndet_builder.engines.record import version_arguments
from dyndet_builder.operating_points import FILE_NAME, OperatingPoint, OperatingPoints, read_operating_points
from dyndet_builder.repository.check import check_repository, read_configs
from dyndet_builder.repository.memory import MemoryNeeds, gpus_of, memory_needs
from dyndet_builder.repository.render import MARKER_FILE


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A rendered repository."""

    folder: Path
    model: str
    """name of the public detector"""
    bundle_sha256: str
    models: tuple[str, ...]
    """names of all models"""
    gpus: tuple[int, ...]
    memory: MemoryNeeds
    points: OperatingPoints
    points_file: Path
    runs_onnx_in_python: bool
    """whether ONNX Runtime runs inside the Python backend, which the image has no package for"""
    passes_gpu_features: bool
    """whether the public model passes features from stage to stage in a GPU's memory"""
    decodes_pictures: bool
    builds_engines: bool
    """whether ONNX Runtime builds TensorRT engines while the models load"""
    engine_cache: str
    """folder of the server that keeps such engines; empty: none is kept"""
    engine_arguments: tuple[str, ...]
    """flags that the repository's own engines need"""
    all_cores: bool
    """whether the stages take as many threads as the machine has cores"""
    python_instances: int
    """processes that Triton's Python backend starts"""
    bytes_on_disk: int

    def point(self, name: str) -> OperatingPoint:
        """An operating point by its name. Raises InputError where there is none."""
        if name not in self.points.points:
            raise InputError(
                f"operating point {name!r} is not known; {self.points_file} has {', '.join(self.points.points)}"
            )
        return self.points.points[name]


def read_deployed(repository: Path) -> Deployed:
    """Raises InputError where the folder is no repository that dyndet rendered."""
    check_repository(repository)
    try:
        marker = json.loads((repository / MARKER_FILE).read_text())
        model, bundle, options = str(marker["model"]), str(marker["bundle_sha256"]), dict(marker["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{repository} was not rendered by dyndet: it has no readable {MARKER_FILE}") from error
    points_file = repository / model / "1" / FILE_NAME
    configs = read_configs(repository)
    accelerators = [
        accelerator
        for config in configs
        for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator
    ]
    gpus = gpus_of(repository)
    bls = options.get("topology", "bls") == "bls"
    return Deployed(
        folder=repository,
        model=model,
        bundle_sha256=bundle,
        models=tuple(sorted(config.name for config in configs)),
        gpus=gpus,
        memory=memory_needs(repository),
        points=read_operating_points(points_file),
        points_file=points_file,
        runs_onnx_in_python=any((graph.parent / "model.py").is_file() for graph in repository.glob("*/1/*.onnx")),
        passes_gpu_features=bool(gpus) and bls,
        decodes_pictures=any(repository.glob("*/1/pictures.py")),
        builds_engines=any(accelerator.name == "tensorrt" for accelerator in accelerators),
        engine_cache=max((one.parameters.get("trt_engine_cache_path", "") for one in accelerators), default=""),
        engine_arguments=version_arguments(repository),
        all_cores=not gpus and not options.get("threads"),
        python_instances=sum(
            max(1, group.count) * max(1, len(group.gpus))
            for config in configs
            if config.backend == "python"
            for group in config.instance_group
        ),
        bytes_on_disk=sum(path.stat().st_size for path in repository.rglob("*") if path.is_file()),
    )
