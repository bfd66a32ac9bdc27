"""A bundle as one ONNX model that routes itself."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Literal

import onnx

from dynamicdet.errors import InputError
from dynamicdet.text import printable
from dyndet_builder.bundle.manifest import FILE_NAME as BUNDLE_FILE
from dyndet_builder.bundle.manifest import LARGEST_GRAPH, Bundle, file_sha256
from dyndet_builder.composing.forms import compose_graph
from dyndet_builder.composing.stages import load_stages

Batch = Literal["one", "any"]
"""whether a file takes one image at a time, or a batch of any size"""


def composed_model(folder: Path, bundle: Bundle, *, threshold: float | None, batch: Batch) -> onnx.ModelProto:
    """A bundle as one model; `threshold` None: every call must give it.

    Raises InputError if its stages do not allow the form: for the batch `any`, each must take any batch.
    """
    for stage in bundle.served:
        if batch == "any" and bundle.stages[stage].batch == "one":
            raise InputError(
                f"{stage} of {printable(folder)} takes one image at a time, so a file with it cannot take batches; "
                "compose it for one image"
            )
    models = load_stages(folder, bundle)
    opset = max(bundle.opset_of(stage) for stage in bundle.served)
    model = onnx.helper.make_model(
        compose_graph(bundle, models, threshold=threshold, one=batch == "one"),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        ir_version=max(each.ir_version for each in models.values()),
        producer_name="dyndet",
    )
    onnx.helper.set_model_props(model, _facts(folder, bundle))
    if model.ByteSize() >= LARGEST_GRAPH:
        raise InputError(
            f"the stages of {printable(folder)} have {model.ByteSize():,} bytes in all, and one ONNX file holds less "
            f"than {LARGEST_GRAPH:,}; serve it as a model repository instead"
        )
    onnx.checker.check_model(model)
    return model


def _facts(folder: Path, bundle: Bundle) -> dict[str, str]:
    """What a program must know that has nothing but the file, by the names of a served model's parameters."""
    return {
        "dyndet_class_names": json.dumps(bundle.class_names),
        "dyndet_fit": bundle.fit.as_json(),
        "dyndet_version": importlib.metadata.version("dyndet"),
        "dyndet_bundle_sha256": file_sha256(folder / BUNDLE_FILE),
    }
