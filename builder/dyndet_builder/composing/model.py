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
Routes = Literal["branches", "rows"]
"""how a file leaves out a route; see `forms`"""


def best_routes(bundle: Bundle) -> Routes:
    """The form that gives the bits of the bundle's graphs in ONNX Runtime on a CPU: rows, if a stage is in fp16."""
    halves = any(bundle.precision_of(stage) == "fp16" for stage in bundle.served)
    return "rows" if halves else "branches"


def composed_model(
    folder: Path, bundle: Bundle, *, threshold: float | None, batch: Batch, routes: Routes
) -> onnx.ModelProto:
    """A bundle as one model; `threshold` None: every call must give it.

    Raises InputError if its stages do not allow the form: each must take any batch, but for one image with branches.
    """
    for stage in bundle.served:
        if (batch == "any" or routes == "rows") and bundle.stages[stage].batch == "one":
            raise InputError(
                f"{stage} of {printable(folder)} takes one image at a time, so a file with it cannot gather those "
                "of a route; compose it for one image, with branches"
            )
    models = load_stages(folder, bundle)
    opset = max(bundle.opset_of(stage) for stage in bundle.served)
    model = onnx.helper.make_model(
        compose_graph(bundle, models, threshold=threshold, one=batch == "one", branched=routes == "branches"),
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
