"""The topology `graph`: the public model is one ONNX file, and its configuration holds its operating points."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from dyndet_builder.bundle.manifest import Bundle, StageName
from dyndet_builder.composing.model import Routes, best_routes, composed_model
from dyndet_builder.operating_points import points_file, uncalibrated
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.config import PublicModel
from dyndet_builder.repository.config_files import CONFIG
from dyndet_builder.repository.models import EASY_FILE, GRAPH_FILE, WARMUP_FILE, config_text
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.templates import TEMPLATES


def write_graph(
    repository: Path,
    model: PublicModel,
    bundle: Path,
    described: Bundle,
    options: RenderOptions,
    warmups: Mapping[StageName, bytes],
) -> None:
    """Write the public model: its graph, without a default threshold, and its operating points.

    Raises InputError if the bundle's stages do not allow one graph for any batch.
    """
    folder = repository / model.name
    version = folder / "1"
    version.mkdir(parents=True)
    routes: Routes = "branches" if model.gpus else best_routes(described)
    onnx.save(composed_model(bundle, described, threshold=None, batch="any", routes=routes), version / GRAPH_FILE)
    for source in BACKENDS[options.backend].code:
        shutil.copyfile(source, version / source.name)
    if model.warmups:
        (folder / "warmup").mkdir()
        (folder / "warmup" / WARMUP_FILE).write_bytes(warmups[described.first])
        (folder / "warmup" / EASY_FILE).write_bytes(np.float32(1).tobytes())
    points = uncalibrated(options.threshold)
    points_file(repository, model.name).write_text(points.model_dump_json(indent=2) + "\n")
    (folder / CONFIG).write_text(config_text(TEMPLATES / "graph" / "config.pbtxt.jinja", model))
