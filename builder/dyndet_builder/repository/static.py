"""Renders an exported static detector as one plain Triton model, on the backend that also runs stages."""

from __future__ import annotations

import shutil
from pathlib import Path

from dyndet_builder.bundle.static import StaticExport, read_static
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.config import ModelTensor, StageModel
from dyndet_builder.repository.models import config_text
from dyndet_builder.repository.options import RenderOptions


def render_static(static: Path, repository: Path, name: str, options: RenderOptions) -> StaticExport:
    """Write the folder `repository`/`name` with a model that answers `image` with boxes, scores and classes.

    It has the batches, instances and threads of `options`, like a stage. Nothing of ours stands between the client and
    its graph. Raises InputError if `static` is damaged.
    """
    described, backend = read_static(static), BACKENDS[options.backend]
    parameters = {"dyndet_static": described.architecture}
    if backend.fused and options.instances == 1 and not options.gpus:
        # As in the topology `fused`: there are no other stages to take the cores from, and it is faster.
        parameters["dyndet_spins"] = "yes"
    model = StageModel(
        name=name,
        backend=backend.triton,
        max_batch=options.max_batch,
        inputs=tuple(ModelTensor.of(tensor) for tensor in described.graph.inputs),
        outputs=tuple(ModelTensor.of(tensor) for tensor in described.graph.outputs),
        kind="KIND_GPU" if options.gpus else "KIND_CPU",
        instances=options.instances,
        gpus=options.gpus,
        merges=options.stages_merge,
        preferred_batches=options.preferred_batches,
        queue_delay_us=options.queue_delay_us,
        parameters=parameters,
        stage="detector1",
        detector=name,
        precision=described.precision,
        threads=options.threads,
    )
    model = backend.configured(model, accelerator=options.accelerator)
    version = repository / name / "1"
    version.mkdir(parents=True)
    shutil.copyfile(static / described.graph.file, version / "model.onnx")
    if backend.prepare is not None:
        backend.prepare(version / "model.onnx", version)
    for source in backend.code:
        shutil.copyfile(source, version / source.name)
    (version.parent / "config.pbtxt").write_text(config_text(backend.template / "config.pbtxt.jinja", model))
    return described
