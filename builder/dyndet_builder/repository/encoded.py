"""The public variant that takes image files: its configuration and the content of its folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import dynamicdet
from dyndet_builder.bundle.manifest import MASKS, OWN, Bundle
from dyndet_builder.repository.config import (
    DETECTOR_PARAMETER,
    FIT_PARAMETER,
    INPUT_SIZE_PARAMETER,
    OWN_FIT_PARAMETER,
    Model,
    ModelTensor,
    PublicModel,
)
from dyndet_builder.repository.models import config_text
from dyndet_builder.repository.options import RenderOptions
from dyndet_builder.templates import TEMPLATES

SUFFIX = "_encoded"
CLIENT_CODE = (
    "__init__.py",
    "aliases.py",
    "errors.py",
    "images.py",
    "letterbox.py",
    "picture_files.py",
    "picture_formats/__init__.py",
    "picture_formats/limits.py",
    "picture_formats/parts.py",
    "picture_formats/rasters.py",
    "picture_formats/tiff_tags.py",
    "text.py",
)
"""files of the package `dynamicdet` that decode and fit pictures, in the server as in the client"""

SHARED_CODE = (
    "backlog.py",
    "counting.py",
    "deciding.py",
    "following.py",
    "gears.py",
    "law.py",
    "load.py",
    "operating_points.py",
    "pace.py",
    "refusals.py",
    "steering.py",
    "tenants.py",
    "threads.py",
    "tracing.py",
)
"""files of the public detector that this variant also needs, beside those of its queue"""


@dataclass(frozen=True, kw_only=True)
class EncodedModel(Model):
    """The variant that takes image files."""

    detector: str


def encoded_model(detector: PublicModel, bundle: Bundle, options: RenderOptions) -> EncodedModel:
    """The configuration of the variant that takes image files and calls `detector`, the model of `bundle`."""
    kept = {"dyndet_class_names", INPUT_SIZE_PARAMETER, FIT_PARAMETER, "dyndet_version", "dyndet_bundle_sha256"}
    own = bundle.stages[OWN].detector if OWN in bundle.stages else None
    threshold = next(tensor for tensor in detector.inputs if tensor.name == "threshold")
    return EncodedModel(
        name=f"{detector.name}{SUFFIX}",
        detector=detector.name,
        backend="python",
        max_batch=detector.max_batch,
        inputs=(ModelTensor(name="image_bytes", data_type="TYPE_STRING", dims=(1,)), threshold),
        outputs=(
            *detector.outputs,
            *_mask_boxes(detector),
            ModelTensor(name="image_size", data_type="TYPE_INT32", dims=(2,)),
        ),
        kind="KIND_CPU",
        instances=options.bls_instances,
        gpus=(),
        merges=True,
        preferred_batches=(1,),  # a malformed request harms all that Triton hands over with it
        queue_delay_us=0,
        parameters={
            DETECTOR_PARAMETER: detector.name,
            "dyndet_max_file_bytes": str(options.max_file_mb << 20),
            "dyndet_queue": str(options.queue_size),
            **{key: value for key, value in detector.parameters.items() if key in kept},
            **({} if own is None else {OWN_FIT_PARAMETER: own.spec.input.fit.as_json()}),
        },
    )


def _mask_boxes(detector: PublicModel) -> tuple[ModelTensor, ...]:
    """One more output of a detector with masks: the boxes that they span, which may leave the image."""
    outputs = {tensor.name: tensor for tensor in detector.outputs}
    return (replace(outputs["boxes"], name="mask_boxes"),) if MASKS in outputs else ()


def write_encoded(repository: Path, model: EncodedModel) -> None:
    """Write the model's folder: configuration, code, and the client's code that decodes and fits pictures."""
    version = repository / model.name / "1"
    (version / "dynamicdet" / "picture_formats").mkdir(parents=True)
    shared = [TEMPLATES / "public" / name for name in SHARED_CODE]
    for source in (*(TEMPLATES / "encoded").glob("*.py"), *(TEMPLATES / "queueing").glob("*.py"), *shared):
        shutil.copyfile(source, version / source.name)
    for name in CLIENT_CODE:
        shutil.copyfile(Path(dynamicdet.__file__).parent / name, version / "dynamicdet" / name)
    text = config_text(TEMPLATES / "encoded" / "config.pbtxt.jinja", model)
    (repository / model.name / "config.pbtxt").write_text(text)
